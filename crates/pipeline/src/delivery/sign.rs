//! What a report says of the API itself, whatever it means for its call.
//!
//! | what happened | sign |
//! | --- | --- |
//! | a status that settles the call: accepted or rejected, also a 500 that the settings call rejected | *well* |
//! | 429 | *busy*: it answers, and wants fewer requests |
//! | 503, 504; no answer in time | *overloaded*: ill, and too busy |
//! | any other 5xx; no connection, a connection closed or reset, no HTTP; no credentials for it | *ill* |
//! | any other status | *well* |
//! | the request was held back | *nothing* |
//!
//! A rejected order is the order's fault, and 429 is a question of pace: neither is an illness, or one bad feed of
//! orders would cut everybody off.

use super::answer::{Answer, Lost, NotSent, Report};

/// What a report says of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It answers.
    Well,
    /// It answers, and wants fewer requests.
    Busy,
    /// It is ill because there is too much for it.
    Overloaded,
    /// It is ill.
    Ill,
    /// Nothing was asked.
    Nothing,
}

impl Sign {
    /// The sign in a report that means `answer`.
    pub(super) fn of(report: &Report, answer: Answer) -> Self {
        match (report, answer) {
            (Report::NotSent(NotSent::Withheld), _) => Self::Nothing,
            (Report::NotSent(NotSent::NoConnection | NotSent::NotWritten | NotSent::NoCredentials), _) => {
                Self::Ill
            }
            (Report::Lost(Lost::TimedOut), _) => Self::Overloaded,
            (Report::Lost(Lost::Closed | Lost::NotHttp | Lost::Other), _) => Self::Ill,
            (Report::Status(_), Answer::Accepted | Answer::Rejected) => Self::Well,
            (Report::Status(reply), Answer::Retry | Answer::Ambiguous) => match reply.status {
                429 => Self::Busy,
                503 | 504 => Self::Overloaded,
                500..600 => Self::Ill,
                _ => Self::Well,
            },
        }
    }

    /// Whether the API is ill.
    pub(super) const fn is_ill(self) -> bool {
        match self {
            Self::Overloaded | Self::Ill => true,
            Self::Well | Self::Busy | Self::Nothing => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::Reply;
    use super::*;

    fn check(report: Report, answer: Answer, expected: Sign) {
        assert_eq!(Sign::of(&report, answer), expected, "{report:?} {answer:?}");
    }

    #[test]
    fn a_status_is_a_sign_of_illness_only_if_it_settles_nothing_and_is_the_servers() {
        let status = |status| {
            Report::Status(Reply {
                status,
                ..Reply::default()
            })
        };
        check(status(201), Answer::Accepted, Sign::Well);
        for order_s_fault in [400, 404, 409, 422] {
            check(status(order_s_fault), Answer::Rejected, Sign::Well);
        }
        check(status(500), Answer::Rejected, Sign::Well);
        check(status(200), Answer::Retry, Sign::Well);
        for ours in [401, 407, 408, 409, 425] {
            check(status(ours), Answer::Retry, Sign::Well);
        }
        check(status(429), Answer::Retry, Sign::Busy);
        for overloaded in [503, 504] {
            check(status(overloaded), Answer::Retry, Sign::Overloaded);
            check(status(overloaded), Answer::Ambiguous, Sign::Overloaded);
        }
        for ill in [500, 502, 520, 599] {
            check(status(ill), Answer::Ambiguous, Sign::Ill);
        }
    }

    #[test]
    fn without_a_status_the_api_is_ill_unless_nothing_was_asked() {
        for why in [NotSent::NoConnection, NotSent::NotWritten, NotSent::NoCredentials] {
            check(Report::NotSent(why), Answer::Retry, Sign::Ill);
        }
        check(Report::NotSent(NotSent::Withheld), Answer::Retry, Sign::Nothing);
        check(Report::Lost(Lost::TimedOut), Answer::Ambiguous, Sign::Overloaded);
        for how in [Lost::Closed, Lost::NotHttp, Lost::Other] {
            check(Report::Lost(how), Answer::Ambiguous, Sign::Ill);
        }
    }
}
