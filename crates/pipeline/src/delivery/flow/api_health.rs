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

use crate::delivery::response::{Lost, NotSent, Response, ResponseClass};

/// What a report says of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApiHealth {
    /// It answers.
    Healthy,
    /// It answers, and wants fewer requests.
    Busy,
    /// It is ill because there is too much for it.
    Overloaded,
    /// It is ill.
    Unhealthy,
    /// Nothing was asked.
    Nothing,
}

impl ApiHealth {
    /// The sign in a report that means `answer`.
    pub(crate) fn of(report: &Response, answer: ResponseClass) -> Self {
        match (report, answer) {
            (Response::NotSent(NotSent::Withheld), _) => Self::Nothing,
            (Response::NotSent(NotSent::NoConnection | NotSent::NotWritten | NotSent::NoCredentials), _) => {
                Self::Unhealthy
            }
            (Response::Lost(Lost::TimedOut), _) => Self::Overloaded,
            (Response::Lost(Lost::Closed | Lost::NotHttp | Lost::Other), _) => Self::Unhealthy,
            (Response::Status(_), ResponseClass::Accepted | ResponseClass::Rejected) => Self::Healthy,
            (Response::Status(reply), ResponseClass::Retryable | ResponseClass::Ambiguous) => {
                match reply.status {
                    429 => Self::Busy,
                    503 | 504 => Self::Overloaded,
                    500..600 => Self::Unhealthy,
                    _ => Self::Healthy,
                }
            }
        }
    }

    /// Whether the API is ill.
    pub(crate) const fn is_ill(self) -> bool {
        match self {
            Self::Overloaded | Self::Unhealthy => true,
            Self::Healthy | Self::Busy | Self::Nothing => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::response::HttpResponse;

    fn check(report: Response, answer: ResponseClass, expected: ApiHealth) {
        assert_eq!(ApiHealth::of(&report, answer), expected, "{report:?} {answer:?}");
    }

    #[test]
    fn a_status_is_a_sign_of_illness_only_if_it_settles_nothing_and_is_the_servers() {
        let status = |status| {
            Response::Status(HttpResponse {
                status,
                ..HttpResponse::default()
            })
        };
        check(status(201), ResponseClass::Accepted, ApiHealth::Healthy);
        for order_s_fault in [400, 404, 409, 422] {
            check(status(order_s_fault), ResponseClass::Rejected, ApiHealth::Healthy);
        }
        check(status(500), ResponseClass::Rejected, ApiHealth::Healthy);
        check(status(200), ResponseClass::Retryable, ApiHealth::Healthy);
        for ours in [401, 407, 408, 409, 425] {
            check(status(ours), ResponseClass::Retryable, ApiHealth::Healthy);
        }
        check(status(429), ResponseClass::Retryable, ApiHealth::Busy);
        for overloaded in [503, 504] {
            check(
                status(overloaded),
                ResponseClass::Retryable,
                ApiHealth::Overloaded,
            );
            check(
                status(overloaded),
                ResponseClass::Ambiguous,
                ApiHealth::Overloaded,
            );
        }
        for ill in [500, 502, 520, 599] {
            check(status(ill), ResponseClass::Ambiguous, ApiHealth::Unhealthy);
        }
    }

    #[test]
    fn without_a_status_the_api_is_ill_unless_nothing_was_asked() {
        for why in [NotSent::NoConnection, NotSent::NotWritten, NotSent::NoCredentials] {
            check(
                Response::NotSent(why),
                ResponseClass::Retryable,
                ApiHealth::Unhealthy,
            );
        }
        check(
            Response::NotSent(NotSent::Withheld),
            ResponseClass::Retryable,
            ApiHealth::Nothing,
        );
        check(
            Response::Lost(Lost::TimedOut),
            ResponseClass::Ambiguous,
            ApiHealth::Overloaded,
        );
        for how in [Lost::Closed, Lost::NotHttp, Lost::Other] {
            check(
                Response::Lost(how),
                ResponseClass::Ambiguous,
                ApiHealth::Unhealthy,
            );
        }
    }
}
