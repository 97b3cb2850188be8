//! Responses of the API, and their classification: the one table that decides between paying twice and not
//! paying at all.
//!
//! | event | response | class |
//! | --- | --- | --- |
//! | unknown host, connection refused, TLS handshake failed, timeout while connecting | [`NotSent::NoConnection`] | *retryable* |
//! | a pooled connection was found closed before a byte was written | [`NotSent::NotWritten`] | *retryable* |
//! | no credentials for the request: the token server did not issue a token | [`NotSent::NoCredentials`] | *retryable* |
//! | the ownership lease was over | [`NotSent::Withheld`] | *retryable*, and no attempt |
//! | the first byte may have been sent: no response until the timeout | [`Lost::TimedOut`] | *ambiguous* |
//! | … closed or reset before there was a status, also on a reused connection | [`Lost::Closed`] | *ambiguous* |
//! | … something came back that is no HTTP | [`Lost::NotHttp`] | *ambiguous* |
//! | … anything else | [`Lost::Other`] | *ambiguous* |
//! | a status, whatever becomes of the body behind it | [`Response::Status`] | by the status |
//! | a status for which a field of the body decides | [`Response::Status`] | by the field's value |
//!
//! The classes of statuses are settings ([`ResponseClassifier`]). By default 2xx is *accepted*; 401, 407, 425
//! and 429 are *retryable*; 3xx, 408, 409 and 5xx are *ambiguous*; other 4xx are *rejected*. A status without
//! a class is ambiguous.
//!
//! A status counts as soon as it is read, even if the body breaks off. Where a field of the body decides
//! ([`FieldRule`]), a body that cannot be read leaves the response ambiguous.

mod classified;
mod field;
mod statuses;

use std::time::Duration;

pub use classified::{ClassifiedResponse, ResponseSummary};
pub use field::{Field, FieldRule, InvalidRule, Otherwise};
pub use statuses::{InvalidStatusClasses, Statuses};

use statuses::StatusTable;

/// Response to a request, or the reason why there is none, as the HTTP client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The API responded with a status.
    Status(HttpResponse),
    /// Not a byte of the request's body left this process, and none will.
    NotSent(NotSent),
    /// The request was sent, or may have been, and no status came back.
    Lost(Lost),
}

/// Response of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpResponse {
    /// Status code of the response.
    pub status: u16,
    /// Delay that the `Retry-After` header asks for.
    pub retry_after: Option<Duration>,
    /// Body, up to the limit.
    pub body: Vec<u8>,
    /// `true` if the body was longer than the limit, or broke off.
    pub body_cut: bool,
    /// Field of the body, if one decides for this status.
    pub field: Field,
    /// Transaction id of the API, if the settings say where it stands.
    pub transaction_id: Option<String>,
}

/// Reason why a request was surely not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotSent {
    /// No connection: refused, unknown host, TLS failure, timeout while connecting.
    NoConnection,
    /// Nothing was written to the connection.
    NotWritten,
    /// The request needs credentials, and there were none.
    NoCredentials,
    /// The ownership lease ended, or the partition left, before the request could be sent. This is no
    /// attempt.
    Withheld,
}

/// Reason why the response to a request is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lost {
    /// No response within the timeout.
    TimedOut,
    /// The connection was closed or reset before there was a response.
    Closed,
    /// The peer does not speak HTTP.
    NotHttp,
    /// An error of any other kind.
    // Unknown errors count as lost, and so as ambiguous: a wrong *retryable* would pay twice without a trace.
    Other,
}

/// Class of a response: its meaning for the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResponseClass {
    /// The API has processed the order.
    Accepted,
    /// The API has rejected the order for good.
    Rejected,
    /// The order was surely not processed: the call may be made again.
    Retryable,
    /// The outcome is unknown: the order may have been processed.
    Ambiguous,
}

impl ResponseClass {
    /// All classes, so that each has its metric from the start.
    pub const ALL: [Self; 4] = [Self::Accepted, Self::Rejected, Self::Retryable, Self::Ambiguous];

    /// Returns `true` if the response decides the call.
    pub(crate) const fn is_definite(self) -> bool {
        match self {
            Self::Accepted | Self::Rejected => true,
            Self::Retryable | Self::Ambiguous => false,
        }
    }

    /// Name of the class in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Retryable => "retryable",
            Self::Ambiguous => "ambiguous",
        }
    }
}

/// Classifier of responses: the class of each status, and the statuses for which a field of the body decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseClassifier {
    statuses: StatusTable,
    rules: Vec<FieldRule>,
}

/// Class of a status in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusClass {
    /// The order is processed.
    Accepted,
    /// The order is not processed, and will not be.
    Rejected,
    /// The order is surely not processed.
    Retry,
    /// As `Retry` with a `Retry-After` header, for an API that sends it only if it turned the request away; as
    /// `Ambiguous` without.
    RetryIfRetryAfter,
    /// The order may be processed.
    Ambiguous,
}

impl StatusClass {
    /// Name of the class in the settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Retry => "retry",
            Self::RetryIfRetryAfter => "retry_if_retry_after",
            Self::Ambiguous => "ambiguous",
        }
    }
}

impl ResponseClassifier {
    /// A classifier by status. A single status goes before a range, and a range before a hundred.
    ///
    /// # Errors
    /// A status is in two classes by entries of the same kind.
    pub fn new(
        settings: impl IntoIterator<Item = (Statuses, StatusClass)>,
    ) -> Result<Self, InvalidStatusClasses> {
        Ok(Self {
            statuses: StatusTable::new(settings)?,
            rules: Vec::new(),
        })
    }

    /// The same classifier, with rules for the fields of bodies.
    ///
    /// # Errors
    /// A rule can never match, or two rules read the same status.
    pub fn with_fields(mut self, rules: Vec<FieldRule>) -> Result<Self, InvalidRule> {
        // Refused at start: a rule that never matches would be found out by the first wrong payment.
        field::check(&rules)?;
        self.rules = rules;
        Ok(self)
    }

    /// Returns the class of a response.
    #[must_use]
    pub fn class_of(&self, response: &Response) -> ResponseClass {
        let http = match response {
            // Not a byte of the body was sent, so the API cannot have processed it.
            Response::NotSent(_) => return ResponseClass::Retryable,
            // The API may have processed it before the response was lost.
            Response::Lost(_) => return ResponseClass::Ambiguous,
            Response::Status(http) => http,
        };
        let by_status = self.statuses.class(http.status);
        let class = match self.rule(http.status) {
            Some(rule) => rule.class(&http.field).unwrap_or(by_status),
            None => by_status,
        };
        match (class, http.retry_after) {
            (StatusClass::Accepted, _) => ResponseClass::Accepted,
            (StatusClass::Rejected, _) => ResponseClass::Rejected,
            (StatusClass::Retry, _) | (StatusClass::RetryIfRetryAfter, Some(_)) => ResponseClass::Retryable,
            (StatusClass::Ambiguous, _) | (StatusClass::RetryIfRetryAfter, None) => ResponseClass::Ambiguous,
        }
    }

    /// Returns the rule that reads the bodies of responses with this status.
    #[must_use]
    pub fn rule(&self, status: u16) -> Option<&FieldRule> {
        self.rules.iter().find(|rule| rule.reads(status))
    }
}

impl Response {
    /// Kind of the response in metrics and logs: a status, or the reason why there is none.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::NotSent(NotSent::NoConnection) => "no-connection",
            Self::NotSent(NotSent::NotWritten) => "not-written",
            Self::NotSent(NotSent::NoCredentials) => "no-credentials",
            Self::NotSent(NotSent::Withheld) => "withheld",
            Self::Lost(Lost::TimedOut) => "timed-out",
            Self::Lost(Lost::Closed) => "closed",
            Self::Lost(Lost::NotHttp) => "not-http",
            Self::Lost(Lost::Other) => "other",
        }
    }

    /// HTTP status, if there is one.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Status(http) => Some(http.status),
            Self::NotSent(_) | Self::Lost(_) => None,
        }
    }

    /// Delay that the API asks for.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status(http) => http.retry_after,
            Self::NotSent(_) | Self::Lost(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classifier(lists: &[(&[&str], StatusClass)]) -> Result<ResponseClassifier, InvalidStatusClasses> {
        let mut settings = Vec::new();
        for (list, class) in lists {
            for statuses in *list {
                settings.push((statuses.parse()?, *class));
            }
        }
        ResponseClassifier::new(settings)
    }

    fn check(status: u16, retry_after: Option<u64>, expected: ResponseClass) {
        let classifier = classifier(&[
            (&["2xx"], StatusClass::Accepted),
            (&["3xx", "4xx"], StatusClass::Rejected),
            (&["401", "407", "425", "429"], StatusClass::Retry),
            (&["503"], StatusClass::RetryIfRetryAfter),
            (&["408", "409", "5xx"], StatusClass::Ambiguous),
        ])
        .expect("a table");
        let response = Response::Status(HttpResponse {
            status,
            retry_after: retry_after.map(Duration::from_secs),
            ..HttpResponse::default()
        });
        assert_eq!(
            classifier.class_of(&response),
            expected,
            "{status} {retry_after:?}"
        );
    }

    #[test]
    fn status_decides_by_its_class() {
        for accepted in [200, 201, 202, 204, 299] {
            check(accepted, None, ResponseClass::Accepted);
        }
        for rejected in [301, 302, 307, 308, 400, 403, 404, 405, 410, 413, 415, 422, 451] {
            check(rejected, None, ResponseClass::Rejected);
        }
        for ambiguous in [408, 409, 500, 501, 502, 503, 504, 599] {
            check(ambiguous, None, ResponseClass::Ambiguous);
        }
        check(429, None, ResponseClass::Retryable);
        check(429, Some(3), ResponseClass::Retryable);
        for turned_away in [401, 407, 425] {
            check(turned_away, None, ResponseClass::Retryable);
        }
        check(503, Some(3), ResponseClass::Retryable);
        check(503, Some(0), ResponseClass::Retryable);
        check(500, Some(3), ResponseClass::Ambiguous);
    }

    #[test]
    fn status_without_a_class_is_ambiguous() {
        check(100, None, ResponseClass::Ambiguous);
        check(600, None, ResponseClass::Ambiguous);
        let nothing = classifier(&[]).expect("a table");
        let http = HttpResponse {
            status: 200,
            ..HttpResponse::default()
        };
        assert_eq!(
            nothing.class_of(&Response::Status(http)),
            ResponseClass::Ambiguous
        );
    }

    #[test]
    fn no_status_is_retryable_only_if_nothing_was_sent() {
        let nothing = classifier(&[]).expect("a table");
        for kind in [
            NotSent::NoConnection,
            NotSent::NotWritten,
            NotSent::NoCredentials,
            NotSent::Withheld,
        ] {
            assert_eq!(
                nothing.class_of(&Response::NotSent(kind)),
                ResponseClass::Retryable
            );
        }
        for kind in [Lost::TimedOut, Lost::Closed, Lost::NotHttp, Lost::Other] {
            assert_eq!(nothing.class_of(&Response::Lost(kind)), ResponseClass::Ambiguous);
        }
    }
}
