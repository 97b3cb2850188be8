//! The headers of a dead letter of stage two: a pending call that the API rejected, or that is none.
//!
//! Its key and value are the pending record's bytes, unchanged; the pending record's headers stand before
//! these. The reason, a sentence and the time have the names that dead letters of orders use:
//! [`REASON`](crate::dead_letter::REASON), [`DETAIL`](crate::dead_letter::DETAIL) and
//! [`AT`](crate::dead_letter::AT).

use std::fmt;

/// Where the pending call lies, as `topic/partition@offset`. Outcomes have this header, too.
pub const CALL: &str = "outbox-call";
/// The HTTP status of the API's last answer.
pub const STATUS: &str = "outbox-response-status";
/// The API's last answer, capped.
pub const RESPONSE: &str = "outbox-response";
/// How many requests were made.
pub const ATTEMPTS: &str = "outbox-attempts";
/// How many of them may have been processed although no answer said so.
pub const ATTEMPTS_AMBIGUOUS: &str = "outbox-attempts-ambiguous";
/// When the first request was made, in milliseconds since 1970 UTC.
pub const FIRST_ATTEMPT_AT: &str = "outbox-first-attempt-at";
/// When the last answer came, in milliseconds since 1970 UTC.
pub const RESPONDED_AT: &str = "outbox-responded-at";

/// Why a pending call became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The API said, definitely, that it does not accept the order.
    Rejected,
    /// The record in the outbox is no pending call: its key or its order cannot be read, so the API was
    /// not called.
    NotAPendingCall,
    /// It was tried in vain for longer than the settings allow, and surely not processed.
    Abandoned,
    /// The order lacks what the settings make the request of, so the API was not called.
    NoRequest,
}

impl Reason {
    /// All reasons, so that each has its metric from the start.
    pub const ALL: [Self; 4] = [
        Self::Rejected,
        Self::NotAPendingCall,
        Self::Abandoned,
        Self::NoRequest,
    ];

    /// The reason as it stands in headers, metrics and logs.
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
