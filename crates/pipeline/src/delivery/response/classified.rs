//! Responses with their class, which they get once and keep.

use super::{Response, ResponseClass, ResponseClassifier};

/// A response and its class. Made by [`ResponseClassifier::classify`] as soon as the response is there, so
/// that metrics, logs and decisions agree on what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassifiedResponse {
    // Private, so that only the classifier pairs a response with a class.
    response: Response,
    class: ResponseClass,
    /// It is a rejection whose call is kept.
    is_kept: bool,
}

/// Summary of a response for logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseSummary {
    /// Class of the response.
    pub class: ResponseClass,
    /// Kind of the response, as in [`Response::kind`].
    pub kind: &'static str,
    /// HTTP status, if there is one.
    pub status: Option<u16>,
}

impl ResponseClassifier {
    /// Classifies a response, once and for all.
    #[must_use]
    pub fn classify(&self, response: Response) -> ClassifiedResponse {
        let class = self.class_of(&response);
        ClassifiedResponse {
            response,
            class,
            is_kept: false,
        }
    }
}

impl ClassifiedResponse {
    /// Restores a response from its parts. Its class must be the one that the classifier gave it.
    pub(crate) fn from_parts(class: ResponseClass, response: Response) -> Self {
        Self {
            response,
            class,
            is_kept: false,
        }
    }

    /// Response as it was received.
    #[must_use]
    pub fn response(&self) -> &Response {
        &self.response
    }

    /// Class of the response.
    #[must_use]
    pub fn class(&self) -> ResponseClass {
        self.class
    }

    /// Returns a summary for logs.
    #[must_use]
    pub fn summary(&self) -> ResponseSummary {
        ResponseSummary {
            class: self.class,
            kind: self.response.kind(),
            status: self.response.status(),
        }
    }

    /// The same response, whose call is kept if it is a rejection: that becomes *retryable*, because the order
    /// was surely not processed.
    pub(crate) fn kept(self) -> Self {
        match self.class {
            ResponseClass::Rejected => Self {
                class: ResponseClass::Retryable,
                is_kept: true,
                ..self
            },
            ResponseClass::Accepted | ResponseClass::Retryable | ResponseClass::Ambiguous => self,
        }
    }

    /// Returns `true` if it is a rejection whose call is kept.
    pub(crate) fn is_kept(&self) -> bool {
        self.is_kept
    }

    pub(crate) fn into_parts(self) -> (ResponseClass, Response) {
        (self.class, self.response)
    }

    pub(crate) fn into_response(self) -> Response {
        self.response
    }
}
