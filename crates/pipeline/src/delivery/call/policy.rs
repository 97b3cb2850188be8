//! Policy for calls whose outcome is unknown.
//!
//! | policy | ambiguous response, or recorded intent without a final state at assignment | a request is sent |
//! | --- | --- | --- |
//! | `retry` | the call is made again, up to a number of ambiguous responses; then it waits for an operator | at once |
//! | `park` | the call waits for an operator | once its intent is committed |
//! | `verify` | the order is looked up, and the call made again only if the API never saw it | once its intent is committed |

use std::time::Duration;

use crate::delivery::response::ResponseClassifier;

/// Policy for a call whose outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// Make the call again: at least once. It is parked after too many ambiguous responses.
    Retry,
    /// Leave the call to an operator: at most once.
    Park,
    /// Look the order up before the call is made again.
    Verify,
}

impl Policy {
    /// All policies, so that each has its metric from the start.
    pub const ALL: [Self; 3] = [Self::Retry, Self::Park, Self::Verify];

    /// Name of the policy in settings, headers, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Park => "park",
            Self::Verify => "verify",
        }
    }

    /// Returns the policy of this name.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.as_str().as_bytes() == name)
    }

    /// Returns `true` if the intent must be committed before a request is sent.
    #[must_use]
    pub const fn requires_intent(self) -> bool {
        match self {
            // The call is repeated anyway, so waiting for a commit would only cost time.
            Self::Retry => false,
            Self::Park | Self::Verify => true,
        }
    }
}

/// Settings of look-ups under the policy `verify`.
#[derive(Clone, Debug)]
pub struct Verify {
    /// Longest time for which a request that has left may be on its way to the API. The kernel sends it again
    /// while it is not acknowledged, also after the connection was closed or the process was killed.
    pub transport_timeout: Duration,
    /// Longest processing time of the API, from the arrival of a request.
    pub api_processing_max: Duration,
    /// Number of inconclusive look-ups after which the call is parked.
    pub lookups_max: u32,
    /// Time after the first inconclusive look-up at which the call is parked.
    pub abandon_after: Duration,
    /// Classifier of look-up responses; see [`LookupResult`](super::LookupResult).
    pub classifier: ResponseClassifier,
}

impl Verify {
    /// Returns the time until quiescence, from the last moment at which a request may have left, or at which
    /// the API was unresponsive. An earlier look-up proves nothing: the request could still arrive, or be
    /// processed.
    pub(crate) fn quiescence(&self) -> Duration {
        self.transport_timeout + self.api_processing_max
    }
}
