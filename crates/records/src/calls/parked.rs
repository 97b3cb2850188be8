//! The headers of a parked call: one of which nobody can know whether the API has processed it.
//!
//! Its key and value are the pending record's bytes, unchanged; the pending record's headers stand before
//! these. The reason, a sentence and the time have the names that dead letters use
//! ([`REASON`](crate::dead_letter::REASON), [`DETAIL`](crate::dead_letter::DETAIL),
//! [`AT`](crate::dead_letter::AT)); where the call lies, its last answer, its attempts and its times those of
//! dead letters of calls ([`call_dead_letter`](crate::call_dead_letter)).
//!
//! A caller that dies between an outcome's acknowledgement and the commit of its notes leaves a call that
//! the next one parks: whoever resolves a parked call looks first for its outcome.

use std::fmt;

/// What the last request came to if no status came back, as `timed-out` or `closed`.
pub const LOST: &str = "outbox-response-lost";
/// How many look-ups were made in vain.
pub const LOOKUPS: &str = "outbox-lookups";
/// The instance that parked the call.
pub const PARKED_BY: &str = "outbox-parked-by";

/// Why a call is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The answer to its request does not tell whether it was processed.
    Ambiguous,
    /// An earlier owner of the partition noted that it had begun, and did not note its end.
    Begun,
    /// The look-ups did not tell within their limits.
    NotSettled,
}

impl Reason {
    /// All reasons, so that each has its metric from the start.
    pub const ALL: [Self; 3] = [Self::Ambiguous, Self::Begun, Self::NotSettled];

    /// The reason as it stands in headers, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous",
            Self::Begun => "begun",
            Self::NotSettled => "not-settled",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
