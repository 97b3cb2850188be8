//! What a look-up came to: whether the API has the order.
//!
//! Its answer is read by a table of its own, made like that of the answers to calls: *accepted* there means
//! that the API has processed the order, *rejected* that it never saw it. Only a clear "no" sends a request
//! again, so everything else is *unknown*.

use crate::delivery::response::ResponseClass;

/// What a look-up came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LookupResult {
    /// The API has processed the order.
    Found,
    /// It never saw it.
    NotFound,
    /// The answer does not tell, or there was none.
    Unknown,
}

impl LookupResult {
    /// All verdicts, so that each has its metric from the start.
    pub const ALL: [Self; 3] = [Self::Found, Self::NotFound, Self::Unknown];

    /// The verdict as it stands in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::NotFound => "not-found",
            Self::Unknown => "unknown",
        }
    }
}

impl From<ResponseClass> for LookupResult {
    fn from(answer: ResponseClass) -> Self {
        match answer {
            ResponseClass::Accepted => Self::Found,
            ResponseClass::Rejected => Self::NotFound,
            ResponseClass::Retryable | ResponseClass::Ambiguous => Self::Unknown,
        }
    }
}
