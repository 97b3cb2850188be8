//! Headers of `pending-api-calls.parked`: calls with an unknown outcome, waiting for an operator.
//!
//! Written by the caller, read by operators. Key and value are the pending record's bytes, unchanged; the
//! pending record's headers come first, then these. Reason, detail and time have the header names of dead
//! letters ([`REASON`](crate::dead_letter::REASON), [`DETAIL`](crate::dead_letter::DETAIL),
//! [`AT`](crate::dead_letter::AT)); position, group, last response, attempts and times those of call dead letters
//! ([`call_dead_letter`](crate::call_dead_letter)). The headers are text without a version.
//!
//! A caller may die after its outcome is acknowledged and before its notes are committed. The next owner then
//! parks the call, so an operator looks for an outcome before settling a parked call.

use std::fmt;

/// Failure of the last request if no status was received, such as `timed-out` or `closed`.
pub const LOST: &str = "outbox-response-lost";
/// Number of look-ups without a definite result.
pub const LOOKUPS: &str = "outbox-lookups";
/// Instance id of the caller that parked the call.
pub const PARKED_BY: &str = "outbox-parked-by";

/// Reason for which a call is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The response to a request was ambiguous.
    Ambiguous,
    /// An earlier owner of the partition committed its intent, but no completion.
    Redelivered,
    /// The look-ups reached their limit without a definite result.
    Unverified,
}

impl Reason {
    /// All reasons, each with a metric from the start.
    // A counter that appears with its first event hides that event from `increase()`, and so from alerts.
    pub const ALL: [Self; 3] = [Self::Ambiguous, Self::Redelivered, Self::Unverified];

    /// Returns the name of the reason in headers, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous",
            Self::Redelivered => "redelivered",
            Self::Unverified => "unverified",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
