//! What is done when nobody can know whether the API has processed an order.
//!
//! | | an ambiguous answer, or begun and not final at assignment | a request begins |
//! | --- | --- | --- |
//! | `retry` | the call is made again | at once |
//! | `park` | the call waits for a person | once its beginning is committed |
//! | `verify` | the API is asked for the order, and the call made again only if it never saw it | once its beginning is committed |

use std::time::Duration;

use crate::delivery::response::ResponseClassifier;

/// What is done when nobody can know whether the API has processed an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// The call is made again: at least once.
    Retry,
    /// The call waits for a person: at most once.
    Park,
    /// The API is asked for the order before the call is made again.
    Verify,
}

impl Policy {
    /// All policies, so that each has its metric from the start.
    pub const ALL: [Self; 3] = [Self::Retry, Self::Park, Self::Verify];

    /// The policy as it stands in settings, headers, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Park => "park",
            Self::Verify => "verify",
        }
    }

    /// The policy of this name.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.as_str().as_bytes() == name)
    }

    /// Whether the next owner must know of a request before it leaves.
    #[must_use]
    pub const fn requires_intent(self) -> bool {
        match self {
            Self::Retry => false,
            Self::Park | Self::Verify => true,
        }
    }
}

/// How the API is asked for an order of which nobody knows.
#[derive(Clone, Debug)]
pub struct Verify {
    /// The API's longest processing time: so long after the last moment at which a request may have left,
    /// nothing of it can be at work any more. A look-up before that proves nothing.
    pub api_processing_max: Duration,
    /// So many look-ups that tell nothing, and the call is parked.
    pub lookups_max: u32,
    /// So long after the first look-up without a result, the call is parked.
    pub abandon_after: Duration,
    /// What the answer to a look-up means; see [`LookupResult`](super::LookupResult).
    pub classifier: ResponseClassifier,
}
