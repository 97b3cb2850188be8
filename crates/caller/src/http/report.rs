//! What reqwest and hyper say of a request that failed, in the words of the pipeline's table
//! (`pipeline/src/delivery/response/mod.rs`).
//!
//! The send latch has the first word: what it held never left, whatever the client says. Only of what did
//! leave the client's errors tell how the answer was lost.

use std::error::Error as StdError;
use std::io;

use pipeline::delivery::{Lost, NotSent, Response};

use crate::latch::Fate;

/// What a failed request came to.
pub(super) fn report(error: &reqwest::Error, fate: Fate) -> Response {
    match fate {
        Fate::Withheld => Response::NotSent(NotSent::Withheld),
        // A time-out before the body was asked for is one of connecting.
        Fate::NotSent if error.is_connect() || error.is_timeout() => Response::NotSent(NotSent::NoConnection),
        Fate::NotSent => Response::NotSent(NotSent::NotWritten),
        Fate::Sent if error.is_timeout() => Response::Lost(Lost::TimedOut),
        Fate::Sent => Response::Lost(lost(error)),
    }
}

fn lost(error: &reqwest::Error) -> Lost {
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
