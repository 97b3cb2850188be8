//! Translates errors of reqwest and hyper into the pipeline's response types.

use std::error::Error as StdError;
use std::io;

use pipeline::delivery::{Lost, NotSent, Response};

use crate::http::send_latch::SendState;

/// Returns the response for a request that failed without an HTTP status.
pub(crate) fn failure(error: &reqwest::Error, send_state: SendState) -> Response {
    // The latch decides before the error does. reqwest reports a time-out while connecting exactly like one
    // after sending, and the first may be retried while the second may have charged the customer.
    match send_state {
        SendState::Withheld => Response::NotSent(NotSent::Withheld),
        // A time-out before the body was requested happened while connecting.
        SendState::NotSent if error.is_connect() || error.is_timeout() => {
            Response::NotSent(NotSent::NoConnection)
        }
        SendState::NotSent => Response::NotSent(NotSent::NotWritten),
        SendState::Sent if error.is_timeout() => Response::Lost(Lost::TimedOut),
        SendState::Sent => Response::Lost(lost(error)),
    }
}

/// Returns the reason for which the response to a sent request was lost. All reasons are ambiguous. They
/// differ in logs and metrics, and a timeout counts as overload for the flow control.
fn lost(error: &reqwest::Error) -> Lost {
    // reqwest wraps its causes, and an io::Error can lie below a hyper::Error: walk the chain from the
    // outside.
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_parse() {
                return Lost::NotHttp;
            }
            if error.is_incomplete_message() || error.is_closed() {
                return Lost::Closed;
            }
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                // rustls reports a connection closed without close_notify as UnexpectedEof.
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => Lost::Closed,
                io::ErrorKind::TimedOut => Lost::TimedOut,
                _ => Lost::Other,
            };
        }
        cause = error.source();
    }
    Lost::Other
}
