//! Result of a look-up: whether the API has processed the order.
//!
//! Look-up responses have a classifier of their own, with the same settings as that of calls. There
//! *accepted* means that the API has processed the order, *rejected* that it never saw it. Only a definite
//! "no" sends a request again, so everything else is *unknown*.

use super::policy::Verify;
use crate::delivery::response::{Response, ResponseClass};

/// Result of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LookupResult {
    /// The API has processed the order.
    Found,
    /// The API never saw the order.
    NotFound,
    /// The response is inconclusive, or there was none.
    Unknown,
}

/// Response to a look-up, and its result. Made by [`Verify::classify`] as soon as the response is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupResponse {
    response: Response,
    result: LookupResult,
}

impl Verify {
    /// Classifies the response to a look-up.
    #[must_use]
    pub fn classify(&self, response: Response) -> LookupResponse {
        let result = LookupResult::from(self.classifier.class_of(&response));
        LookupResponse { response, result }
    }
}

impl LookupResponse {
    /// Response as it was received.
    #[must_use]
    pub fn response(&self) -> &Response {
        &self.response
    }

    /// Result of the look-up.
    #[must_use]
    pub fn result(&self) -> LookupResult {
        self.result
    }

    pub(crate) fn into_parts(self) -> (LookupResult, Response) {
        (self.result, self.response)
    }
}

/// Returns `true` if the response to a look-up shows that the API may hang, and requests in it with it.
pub(super) fn shows_unresponsive_api(response: &Response) -> bool {
    match response {
        Response::Lost(_) | Response::NotSent(_) => true,
        // By these a gateway reports that the API behind it does not respond.
        Response::Status(http) => matches!(http.status, 502..=504),
    }
}

impl LookupResult {
    /// All results, so that each has its metric from the start.
    pub const ALL: [Self; 3] = [Self::Found, Self::NotFound, Self::Unknown];

    /// Name of the result in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::NotFound => "not-found",
            Self::Unknown => "unknown",
        }
    }

    /// Returns `true` if the look-up decides the call.
    pub(crate) const fn is_definite(self) -> bool {
        match self {
            Self::Found | Self::NotFound => true,
            Self::Unknown => false,
        }
    }
}

impl From<ResponseClass> for LookupResult {
    fn from(class: ResponseClass) -> Self {
        match class {
            ResponseClass::Accepted => Self::Found,
            ResponseClass::Rejected => Self::NotFound,
            // Only a definite "no" may send a request again.
            ResponseClass::Retryable | ResponseClass::Ambiguous => Self::Unknown,
        }
    }
}
