//! What came back from a request, and what it means: the one table that decides between paying twice and
//! not paying at all.
//!
//! | reported | answer |
//! | --- | --- |
//! | a status | by the settings: [`Classes`] |
//! | the request surely never left | *retry* |
//! | the request left, and no status came back | *ambiguous* |
//!
//! A status counts as soon as it is read: an answer whose body breaks off has said what it had to say.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What an attempt's request came to, as the HTTP client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The API answered.
    Status(Reply),
    /// Not a byte of the request's body left this process, and none will.
    NotSent(NotSent),
    /// The request left, or may have; no status came back.
    Lost(Lost),
}

/// The API's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// What its `Retry-After` header asks for.
    pub retry_after: Option<Duration>,
    /// The body, capped.
    pub body: Vec<u8>,
    /// Whether the body was longer than the cap, or broke off.
    pub body_cut: bool,
}

/// Why a request surely never left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotSent {
    /// No connection: refused, unknown host, TLS failure, time-out while connecting.
    NoConnection,
    /// The connection was there, or was to be, but nothing was written to it.
    NotWritten,
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
pub enum Answer {
    /// The API has processed the order.
    Accepted,
    /// The API says, definitely, that it does not.
    Rejected,
    /// The order was surely not processed: the call may be made again.
    Retry,
    /// The order may have been processed, and nobody can know.
    Ambiguous,
}

impl Answer {
    /// All answers, so that each has its metric from the start.
    pub const ALL: [Self; 4] = [Self::Accepted, Self::Rejected, Self::Retry, Self::Ambiguous];

    /// The answer as it stands in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Retry => "retry",
            Self::Ambiguous => "ambiguous",
        }
    }
}

/// What each HTTP status means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    exact: BTreeMap<u16, Class>,
    hundreds: BTreeMap<u16, Class>,
}

/// What a status may mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The order is processed.
    Accepted,
    /// The order is not, and will not be.
    Rejected,
    /// The order is surely not processed.
    Retry,
    /// With a `Retry-After` header the order is surely not processed, as that is the word of a server
    /// that turned the request away; without, nobody can know.
    RetryIfTold,
    /// Nobody can know.
    Ambiguous,
}

/// One status, as `503`, or a hundred of them, as `5xx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statuses {
    /// This one.
    Exactly(u16),
    /// All that begin with this digit.
    Hundred(u16),
}

/// Settings that make no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClasses {
    /// Neither a status nor a hundred of them.
    #[error("{0:?} is no HTTP status: expected one such as \"503\", or a hundred such as \"5xx\"")]
    NotAStatus(String),
    /// The same statuses in two classes.
    #[error("the status {0} is in two classes; each status may be in one")]
    Twice(Statuses),
}

impl Classes {
    /// The table for these settings. One status goes before its hundred; a status that stands nowhere is
    /// ambiguous.
    ///
    /// # Errors
    /// The same statuses are in two classes.
    pub fn new(settings: impl IntoIterator<Item = (Statuses, Class)>) -> Result<Self, InvalidClasses> {
        let (mut exact, mut hundreds) = (BTreeMap::new(), BTreeMap::new());
        for (statuses, class) in settings {
            let before = match statuses {
                Statuses::Exactly(status) => exact.insert(status, class),
                Statuses::Hundred(digit) => hundreds.insert(digit, class),
            };
            if before.is_some_and(|before| before != class) {
                return Err(InvalidClasses::Twice(statuses));
            }
        }
        Ok(Self { exact, hundreds })
    }

    /// What a report means.
    #[must_use]
    pub fn answer(&self, report: &Report) -> Answer {
        match report {
            Report::NotSent(_) => Answer::Retry,
            Report::Lost(_) => Answer::Ambiguous,
            Report::Status(reply) => match (self.class(reply.status), reply.retry_after) {
                (Class::Accepted, _) => Answer::Accepted,
                (Class::Rejected, _) => Answer::Rejected,
                (Class::Retry, _) | (Class::RetryIfTold, Some(_)) => Answer::Retry,
                (Class::Ambiguous, _) | (Class::RetryIfTold, None) => Answer::Ambiguous,
            },
        }
    }

    fn class(&self, status: u16) -> Class {
        let exact = self.exact.get(&status);
        *exact
            .or_else(|| self.hundreds.get(&(status / 100)))
            .unwrap_or(&Class::Ambiguous)
    }
}

impl Report {
    /// The report in a word, for metrics and logs: the status, or what happened instead.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::NotSent(NotSent::NoConnection) => "no-connection",
            Self::NotSent(NotSent::NotWritten) => "not-written",
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

impl FromStr for Statuses {
    type Err = InvalidClasses;

    fn from_str(text: &str) -> Result<Self, InvalidClasses> {
        let not_a_status = || InvalidClasses::NotAStatus(text.to_owned());
        let (number, is_hundred) = match text.strip_suffix("xx") {
            Some(digit) => (digit, true),
            None => (text, false),
        };
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(not_a_status());
        }
        match (number.parse::<u16>(), is_hundred) {
            (Ok(digit @ 1..=5), true) => Ok(Self::Hundred(digit)),
            (Ok(status @ 100..=599), false) => Ok(Self::Exactly(status)),
            _ => Err(not_a_status()),
        }
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(status) => write!(f, "{status}"),
            Self::Hundred(digit) => write!(f, "{digit}xx"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(lists: &[(&[&str], Class)]) -> Result<Classes, InvalidClasses> {
        let mut settings = Vec::new();
        for (list, class) in lists {
            for statuses in *list {
                settings.push((statuses.parse()?, *class));
            }
        }
        Classes::new(settings)
    }

    fn check(status: u16, retry_after: Option<u64>, expected: Answer) {
        let classes = classes(&[
            (&["2xx"], Class::Accepted),
            (&["3xx", "4xx"], Class::Rejected),
            (&["425", "429"], Class::Retry),
            (&["503"], Class::RetryIfTold),
            (&["408", "409", "5xx"], Class::Ambiguous),
        ])
        .expect("a table");
        let report = Report::Status(Reply {
            status,
            retry_after: retry_after.map(Duration::from_secs),
            body: Vec::new(),
            body_cut: false,
        });
        assert_eq!(classes.answer(&report), expected, "{status} {retry_after:?}");
    }

    #[test]
    fn a_status_decides_by_its_class() {
        for accepted in [200, 201, 202, 204, 299] {
            check(accepted, None, Answer::Accepted);
        }
        for rejected in [
            301, 302, 307, 308, 400, 401, 403, 404, 405, 410, 413, 415, 422, 451,
        ] {
            check(rejected, None, Answer::Rejected);
        }
        for ambiguous in [408, 409, 500, 501, 502, 503, 504, 599] {
            check(ambiguous, None, Answer::Ambiguous);
        }
        check(429, None, Answer::Retry);
        check(429, Some(3), Answer::Retry);
        check(425, None, Answer::Retry);
        check(503, Some(3), Answer::Retry);
        check(503, Some(0), Answer::Retry);
        check(500, Some(3), Answer::Ambiguous);
    }

    #[test]
    fn a_status_that_stands_nowhere_is_ambiguous() {
        check(100, None, Answer::Ambiguous);
        check(600, None, Answer::Ambiguous);
        let nothing = classes(&[]).expect("a table");
        let reply = Reply {
            status: 200,
            retry_after: None,
            body: Vec::new(),
            body_cut: false,
        };
        assert_eq!(nothing.answer(&Report::Status(reply)), Answer::Ambiguous);
    }

    #[test]
    fn without_a_status_only_proof_that_nothing_left_is_safe() {
        let nothing = classes(&[]).expect("a table");
        for kind in [NotSent::NoConnection, NotSent::NotWritten, NotSent::Withheld] {
            assert_eq!(nothing.answer(&Report::NotSent(kind)), Answer::Retry);
        }
        for kind in [Lost::TimedOut, Lost::Closed, Lost::NotHttp, Lost::Other] {
            assert_eq!(nothing.answer(&Report::Lost(kind)), Answer::Ambiguous);
        }
    }

    #[test]
    fn settings_that_make_no_table_are_refused() {
        let twice = classes(&[(&["5xx", "503"], Class::Ambiguous), (&["503"], Class::Retry)]);
        assert_eq!(twice, Err(InvalidClasses::Twice(Statuses::Exactly(503))));
        for wrong in [
            "", "xx", "6xx", "0xx", "2XX", "99", "600", "+200", "2xxx", "20", "-1",
        ] {
            assert!(
                wrong.parse::<Statuses>().is_err(),
                "{wrong:?} was taken for a status"
            );
        }
    }
}
