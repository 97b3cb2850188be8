//! Health of the API, as a response shows it, whatever the response means for its call.
//!
//! | response | health |
//! | --- | --- |
//! | a status that decides the call: accepted or rejected, also a 500 that the settings call rejected | *healthy* |
//! | 429 | *busy*: it responds, and asks for fewer requests |
//! | 503, 504; no response in time | *overloaded*: unhealthy under too much load |
//! | any other 5xx; no connection, a connection closed or reset, no HTTP; no credentials for it | *unhealthy* |
//! | any other status | *healthy* |
//! | the request was withheld | *unknown* |

use crate::delivery::response::{Lost, NotSent, Response};

/// Health of the API, as one response shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApiHealth {
    /// The API responds.
    Healthy,
    /// The API responds, and asks for fewer requests.
    Busy,
    /// The API is unhealthy because of too much load.
    Overloaded,
    /// The API does not work.
    Unhealthy,
    /// Nothing was sent to the API.
    Unknown,
}

impl ApiHealth {
    /// Returns the health that a response shows. A definite one decides its call.
    pub(crate) fn of(response: &Response, is_definite: bool) -> Self {
        match (response, is_definite) {
            // Nothing reached the API.
            (Response::NotSent(NotSent::Withheld), _) => Self::Unknown,
            // Without a connection or credentials no call can succeed, so calls wait as in an outage.
            (Response::NotSent(NotSent::NoConnection | NotSent::NotWritten | NotSent::NoCredentials), _) => {
                Self::Unhealthy
            }
            // Usually a queue that is too long: fewer calls in flight help.
            (Response::Lost(Lost::TimedOut), _) => Self::Overloaded,
            (Response::Lost(Lost::Closed | Lost::NotHttp | Lost::Other), _) => Self::Unhealthy,
            // A rejected order is the order's fault. Were it a failure, one bad batch of orders would cut off
            // all.
            (Response::Status(_), true) => Self::Healthy,
            (Response::Status(http), false) => match http.status {
                429 => Self::Busy,
                503 | 504 => Self::Overloaded,
                500..600 => Self::Unhealthy,
                _ => Self::Healthy,
            },
        }
    }

    /// Returns `true` if it counts as a failure of the API.
    pub(crate) const fn is_unhealthy(self) -> bool {
        match self {
            Self::Overloaded | Self::Unhealthy => true,
            Self::Healthy | Self::Busy | Self::Unknown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::response::{HttpResponse, ResponseClass};

    fn check(response: Response, class: ResponseClass, expected: ApiHealth) {
        assert_eq!(
            ApiHealth::of(&response, class.is_definite()),
            expected,
            "{response:?} {class:?}"
        );
    }

    #[test]
    fn only_undecided_server_errors_are_unhealthy() {
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
        for unhealthy in [500, 502, 520, 599] {
            check(status(unhealthy), ResponseClass::Ambiguous, ApiHealth::Unhealthy);
        }
    }

    #[test]
    fn no_status_is_unhealthy_unless_withheld() {
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
            ApiHealth::Unknown,
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
