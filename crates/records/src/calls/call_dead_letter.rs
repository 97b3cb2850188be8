//! Headers of `pending-api-calls.dead-letters`: calls that the API rejected, and records that are not calls.
//!
//! Written by the caller, read by operators. Key and value are the pending record's bytes, unchanged; the
//! pending record's headers come first, then these. Reason, detail and time have the header names of order
//! dead letters: [`REASON`](crate::dead_letter::REASON), [`DETAIL`](crate::dead_letter::DETAIL) and
//! [`AT`](crate::dead_letter::AT). The headers are text without a version.

use std::fmt;

/// Position of the pending call, as `topic/partition@offset`. Outcomes have this header, too.
pub const CALL: &str = "outbox-call";
/// Consumer group of the callers whose call it is. Parked records and settlements have this header, too; outcomes
/// name the group in their value.
pub const GROUP: &str = "outbox-group";
/// HTTP status of the API's last response.
pub const STATUS: &str = "outbox-response-status";
/// Body of the API's last response, truncated to `api.response_bytes_max`.
pub const RESPONSE: &str = "outbox-response";
/// Number of requests sent.
pub const ATTEMPTS: &str = "outbox-attempts";
/// Number of requests with an unknown outcome: the API may have processed them. At least 1 in a dead letter if any request
/// of the call may have been, be it one that an earlier caller was about to send.
pub const ATTEMPTS_AMBIGUOUS: &str = "outbox-attempts-ambiguous";
/// Time of the first request, in milliseconds since 1970 UTC.
pub const FIRST_ATTEMPT_AT: &str = "outbox-first-attempt-at";
/// Time of the last response, in milliseconds since 1970 UTC.
pub const RESPONDED_AT: &str = "outbox-responded-at";

/// Reason of the dead letter of a parked call that an operator settled as rejected.
// Not one of `Reason`: callers never write it, and have no metric of it.
pub const REJECTED_BY_OPERATOR: &str = "rejected-by-operator";

/// Reason for which a pending call became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The API rejected the order with a final status.
    Rejected,
    /// The record on the outbox is not a pending call: its key or its order cannot be read. The API was not
    /// called.
    NotAPendingCall,
    /// Every request failed for longer than the settings allow, and none was processed.
    Abandoned,
    /// The order lacks a field that the request template needs. The API was not called.
    NoRequest,
}

impl Reason {
    /// All reasons, each with a metric from the start.
    // A counter that appears with its first event hides that event from `increase()`, and so from alerts.
    pub const ALL: [Self; 4] = [
        Self::Rejected,
        Self::NotAPendingCall,
        Self::Abandoned,
        Self::NoRequest,
    ];

    /// Returns the name of the reason in headers, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::NotAPendingCall => "not-a-pending-call",
            Self::Abandoned => "abandoned",
            Self::NoRequest => "no-request",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
