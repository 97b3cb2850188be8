//! What came back from a request, and what it means: the one table that decides between paying twice and
//! not paying at all.
//!
//! | what happened | reported | answer |
//! | --- | --- | --- |
//! | unknown host, connection refused, TLS handshake failed, time-out while connecting | [`NotSent::NoConnection`] | *retry* |
//! | a connection of the pool was found closed before a byte was written | [`NotSent::NotWritten`] | *retry* |
//! | no credentials for the request: the token's server did not hand one out | [`NotSent::NoCredentials`] | *retry* |
//! | the partition was no longer surely ours | [`NotSent::Withheld`] | *retry*, and no attempt |
//! | the first byte may have left: silence until the time-out | [`Lost::TimedOut`] | *ambiguous* |
//! | … closed or reset before there was a status, also a connection that was used before | [`Lost::Closed`] | *ambiguous* |
//! | … something came back that is no HTTP | [`Lost::NotHttp`] | *ambiguous* |
//! | … anything else | [`Lost::Other`] | *ambiguous* |
//! | a status, whatever becomes of the body behind it | [`Response::Status`] | by its class |
//! | a status whose body has the last word, by the settings | [`Response::Status`] | by the field's value |
//!
//! ResponseClassifier of statuses are settings ([`ResponseClassifier`]); by default 2xx is *accepted*; 401, 407, 425, 429, and 503
//! with `Retry-After`, are *retry*; 408, 409 and 5xx are *ambiguous*; other 3xx and 4xx are *rejected*. A status
//! that stands nowhere is ambiguous.
//!
//! A status counts as soon as it is read: an answer whose body breaks off has said what it had to say. Unless
//! the settings say that for this status a field of the body decides ([`FieldRule`]): then a body that cannot
//! be read leaves the question open, and the answer is ambiguous.

use std::time::Duration;

mod classified;
mod field;
mod statuses;

pub use classified::{ClassifiedResponse, ResponseSummary};
pub use field::{Field, FieldRule, InvalidRule, Otherwise};
pub use statuses::{InvalidStatusClasses, Statuses};

use statuses::StatusTable;

/// What an attempt's request came to, as the HTTP client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The API answered.
    Status(HttpResponse),
    /// Not a byte of the request's body left this process, and none will.
    NotSent(NotSent),
    /// The request left, or may have; no status came back.
    Lost(Lost),
}

/// The API's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpResponse {
    /// The HTTP status.
    pub status: u16,
    /// What its `Retry-After` header asks for.
    pub retry_after: Option<Duration>,
    /// The body, capped.
    pub body: Vec<u8>,
    /// Whether the body was longer than the cap, or broke off.
    pub body_cut: bool,
    /// What the body's field says, if one is asked for this status.
    pub field: Field,
    /// The API's own id of the transaction, if the settings say where it stands.
    pub transaction_id: Option<String>,
}

/// Why a request surely never left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotSent {
    /// No connection: refused, unknown host, TLS failure, time-out while connecting.
    NoConnection,
    /// The connection was there, or was to be, but nothing was written to it.
    NotWritten,
    /// The request needs credentials, and they could not be had.
    NoCredentials,
    /// The ownership deadline passed, or the partition went, before the request could leave. It is no
    /// attempt.
    Withheld,
}

/// How the answer to a request was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lost {
    /// No answer within the time-out.
    TimedOut,
    /// The connection ended, closed or reset, before there was an answer.
    Closed,
    /// What came back is no HTTP.
    NotHttp,
    /// Anything else. Unknown errors are ambiguous, because that is the side on which nobody pays twice
    /// unnoticed.
    Other,
}

/// What a report means for the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResponseClass {
    /// The API has processed the order.
    Accepted,
    /// The API says, definitely, that it does not.
    Rejected,
    /// The order was surely not processed: the call may be made again.
    Retryable,
    /// The order may have been processed, and nobody can know.
    Ambiguous,
}

impl ResponseClass {
    /// All answers, so that each has its metric from the start.
    pub const ALL: [Self; 4] = [Self::Accepted, Self::Rejected, Self::Retryable, Self::Ambiguous];

    /// Returns `true` if the response decides the call.
    pub(crate) const fn is_definite(self) -> bool {
        match self {
            Self::Accepted | Self::Rejected => true,
            Self::Retryable | Self::Ambiguous => false,
        }
    }

    /// The answer as it stands in metrics and logs.
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

/// What each status means, and where a field of the body has the last word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseClassifier {
    statuses: StatusTable,
    rules: Vec<FieldRule>,
}

/// What a status may mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusClass {
    /// The order is processed.
    Accepted,
    /// The order is not, and will not be.
    Rejected,
    /// The order is surely not processed.
    Retry,
    /// With a `Retry-After` header the order is surely not processed, as that is the word of a server
    /// that turned the request away; without, nobody can know.
    RetryIfRetryAfter,
    /// Nobody can know.
    Ambiguous,
}

impl StatusClass {
    /// The class as the settings name it.
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
    /// The table for these settings. One status goes before a range, and a range before a hundred; a status
    /// that stands nowhere is ambiguous.
    ///
    /// # Errors
    /// A status is in two classes in the same way.
    pub fn new(
        settings: impl IntoIterator<Item = (Statuses, StatusClass)>,
    ) -> Result<Self, InvalidStatusClasses> {
        Ok(Self {
            statuses: StatusTable::new(settings)?,
            rules: Vec::new(),
        })
    }

    /// The same table, where fields of answers' bodies have the last word.
    ///
    /// # Errors
    /// A rule could never do what it is for, or two rules read the same status.
    pub fn with_fields(mut self, rules: Vec<FieldRule>) -> Result<Self, InvalidRule> {
        field::check(&rules)?;
        self.rules = rules;
        Ok(self)
    }

    /// What a report means.
    #[must_use]
    pub fn class_of(&self, report: &Response) -> ResponseClass {
        let reply = match report {
            Response::NotSent(_) => return ResponseClass::Retryable,
            Response::Lost(_) => return ResponseClass::Ambiguous,
            Response::Status(reply) => reply,
        };
        let by_status = self.statuses.class(reply.status);
        let class = match self.rule(reply.status) {
            Some(rule) => rule.class(&reply.field).unwrap_or(by_status),
            None => by_status,
        };
        match (class, reply.retry_after) {
            (StatusClass::Accepted, _) => ResponseClass::Accepted,
            (StatusClass::Rejected, _) => ResponseClass::Rejected,
            (StatusClass::Retry, _) | (StatusClass::RetryIfRetryAfter, Some(_)) => ResponseClass::Retryable,
            (StatusClass::Ambiguous, _) | (StatusClass::RetryIfRetryAfter, None) => ResponseClass::Ambiguous,
        }
    }

    /// The rule that reads the bodies of answers with this status.
    #[must_use]
    pub fn rule(&self, status: u16) -> Option<&FieldRule> {
        self.rules.iter().find(|rule| rule.reads(status))
    }
}

impl Response {
    /// The report in a word, for metrics and logs: the status, or what happened instead.
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

    /// The HTTP status, if there is one.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Status(reply) => Some(reply.status),
            Self::NotSent(_) | Self::Lost(_) => None,
        }
    }

    /// How long the API asks to wait.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status(reply) => reply.retry_after,
            Self::NotSent(_) | Self::Lost(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(lists: &[(&[&str], StatusClass)]) -> Result<ResponseClassifier, InvalidStatusClasses> {
        let mut settings = Vec::new();
        for (list, class) in lists {
            for statuses in *list {
                settings.push((statuses.parse()?, *class));
            }
        }
        ResponseClassifier::new(settings)
    }

    fn check(status: u16, retry_after: Option<u64>, expected: ResponseClass) {
        let classes = classes(&[
            (&["2xx"], StatusClass::Accepted),
            (&["3xx", "4xx"], StatusClass::Rejected),
            (&["401", "407", "425", "429"], StatusClass::Retry),
            (&["503"], StatusClass::RetryIfRetryAfter),
            (&["408", "409", "5xx"], StatusClass::Ambiguous),
        ])
        .expect("a table");
        let report = Response::Status(HttpResponse {
            status,
            retry_after: retry_after.map(Duration::from_secs),
            ..HttpResponse::default()
        });
        assert_eq!(classes.class_of(&report), expected, "{status} {retry_after:?}");
    }

    #[test]
    fn a_status_decides_by_its_class() {
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
    fn a_status_that_stands_nowhere_is_ambiguous() {
        check(100, None, ResponseClass::Ambiguous);
        check(600, None, ResponseClass::Ambiguous);
        let nothing = classes(&[]).expect("a table");
        let reply = HttpResponse {
            status: 200,
            ..HttpResponse::default()
        };
        assert_eq!(
            nothing.class_of(&Response::Status(reply)),
            ResponseClass::Ambiguous
        );
    }

    #[test]
    fn without_a_status_only_proof_that_nothing_left_is_safe() {
        let nothing = classes(&[]).expect("a table");
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
