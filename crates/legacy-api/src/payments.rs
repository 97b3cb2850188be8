//! `POST /payments`: one request, from its body to its response or the fault in place of it.

use std::{borrow::Cow, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderValue, Request, Response, StatusCode, header},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::{
    Fault,
    api::{Api, now_ms},
    connection_state::ConnectionState,
    ledger::{End, Processed, Rejection, transaction_id},
    responses::{Accepted, Cut},
};

/// Maximum size of a body. An order has a few hundred bytes; a Kafka record has at most 1 MB by default.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Handles one payment.
///
/// # Errors
/// The way in which the connection ends, if there is no response.
pub(crate) async fn take(
    api: &Arc<Api>,
    connection: &ConnectionState,
    request: Request<Incoming>,
) -> Result<Response<Body>, Cut> {
    let (head, body) = request.into_parts();
    // As for order ids, a key that is not text counts as missing.
    let key = head
        .headers
        .get("idempotency-key")
        .and_then(|key| key.to_str().ok());
    let in_transit = BodyInTransit { api, done: false };
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Ok(in_transit.malformed(StatusCode::PAYLOAD_TOO_LARGE, "the order is larger than 2 MiB"));
        }
        // Dropping `in_transit` counts the request as incomplete. There is nobody left to respond to.
        Err(_) => return Err(Cut::ClientLeft),
    };
    // Real amounts and currencies do not matter here: the stand-in counts charges, not money.
    let order_id = match serde_json::from_slice::<Payment<'_>>(&body) {
        Ok(payment) if !payment.order_id.is_empty() => payment.order_id,
        Ok(_) => return Ok(in_transit.malformed(StatusCode::BAD_REQUEST, "order_id is empty")),
        Err(error) => return Ok(in_transit.malformed(StatusCode::BAD_REQUEST, &error.to_string())),
    };
    in_transit.done();

    // One copy for the whole request: a change of the faults must not apply to half of it.
    let faults = api.faults();
    // Drawn outside the lock of the ledger, which every request needs.
    let rejected = faults.rejects(&order_id);
    let arrived = api
        .ledger()
        .arrive(&order_id, key, now_ms(), |nth| faults.draw(&order_id, nth));
    let arrived = match arrived {
        Ok(arrived) => arrived,
        Err(full) => {
            api.log_full(&full);
            return Ok(problem(StatusCode::INSUFFICIENT_STORAGE, &full.to_string()));
        }
    };
    let exchange = Exchange {
        api,
        connection,
        sequence: arrived.sequence,
        ended: false,
    };
    let work = Work {
        api: api.clone(),
        sequence: arrived.sequence,
        fault: arrived.draw.fault,
        rejected,
    };
    let delay = faults.delay(arrived.draw.slow);
    // Without a delay there is no point at which the client could leave, and a task would cost throughput.
    let processed = if delay.is_zero() {
        work.process()
    } else {
        // In a task of its own: the API processes a request that it has read even if the client leaves.
        let work = tokio::spawn(async move {
            sleep(delay).await;
            work.process()
        });
        // The task is cancelled only when the server stops, which resets all connections.
        work.await.map_err(|_stopping| Cut::Reset)?
    };

    match arrived.draw.fault {
        None => Ok(exchange.respond(decision_response(&order_id, processed))),
        Some(Fault::Before500 | Fault::Lost500) => {
            Ok(exchange.respond(bare(StatusCode::INTERNAL_SERVER_ERROR)))
        }
        Some(Fault::Lost502) => Ok(exchange.respond(bare(StatusCode::BAD_GATEWAY))),
        Some(Fault::Lost504) => Ok(exchange.respond(bare(StatusCode::GATEWAY_TIMEOUT))),
        Some(Fault::Before503) => {
            Ok(exchange.respond(later(StatusCode::SERVICE_UNAVAILABLE, faults.retry_after_s)))
        }
        Some(Fault::Throttle) => {
            Ok(exchange.respond(later(StatusCode::TOO_MANY_REQUESTS, faults.retry_after_s)))
        }
        Some(Fault::BeforeReset | Fault::LostReset) => Err(exchange.cut(Cut::Reset)),
        Some(Fault::LostClose) => Err(exchange.cut(Cut::Closed)),
        Some(Fault::LostSilence) => {
            // If the client leaves first, this future is dropped, and the exchange with it.
            sleep(faults.silence_max).await;
            Err(exchange.cut(Cut::Reset))
        }
    }
}

#[derive(Deserialize)]
struct Payment<'a> {
    #[serde(borrow)]
    order_id: Cow<'a, str>,
}

/// Body that is still arriving. Dropping it counts the request as incomplete.
struct BodyInTransit<'a> {
    api: &'a Api,
    done: bool,
}

impl BodyInTransit<'_> {
    fn done(mut self) {
        self.done = true;
    }

    fn malformed(self, status: StatusCode, detail: &str) -> Response<Body> {
        self.api.ledger().malformed();
        self.done();
        problem(status, detail)
    }
}

impl Drop for BodyInTransit<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.api.ledger().incomplete();
        }
    }
}

/// Processing of a request, which goes on even if its client has left.
struct Work {
    api: Arc<Api>,
    sequence: u32,
    fault: Option<Fault>,
    rejected: bool,
}

impl Work {
    /// Processes the request. Returns `None` if its fault occurs before processing.
    fn process(self) -> Option<Processed> {
        let mut ledger = self.api.ledger();
        if self.fault.is_none_or(Fault::processes) {
            Some(ledger.process(self.sequence, self.rejected, now_ms()))
        } else {
            ledger.fail(self.sequence, now_ms());
            None
        }
    }
}

/// Recorded request whose client waits for the response. Its end is recorded exactly once, also when its
/// future is dropped because the client or the connection has gone.
struct Exchange<'a> {
    api: &'a Api,
    connection: &'a ConnectionState,
    sequence: u32,
    ended: bool,
}

impl Exchange<'_> {
    fn respond(mut self, response: Response<Body>) -> Response<Body> {
        self.end(End::Responded(response.status().as_u16()));
        response
    }

    fn cut(mut self, cut: Cut) -> Cut {
        self.end(End::Cut(cut));
        cut
    }

    fn end(&mut self, end: End) {
        self.ended = true;
        self.api.ledger().end(self.sequence, end, now_ms());
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // hyper drops the future in both cases; only the connection knows which it was.
            self.end(End::Cut(if self.connection.is_cut_off() {
                Cut::Down
            } else {
                Cut::ClientLeft
            }));
        }
    }
}

fn decision_response(order_id: &str, processed: Option<Processed>) -> Response<Body> {
    match processed {
        Some(Processed::Charged(nth) | Processed::Replayed(nth)) => {
            let accepted = Accepted {
                transaction_id: transaction_id(order_id, nth),
                order_id: order_id.to_owned(),
                status: "ACCEPTED".to_owned(),
            };
            json(StatusCode::CREATED, &accepted)
        }
        Some(Processed::Rejected(rejection)) => {
            let detail = match rejection {
                Rejection::Drawn => "the customer's account cannot be charged",
                Rejection::KeyOfAnotherOrder => "the idempotency key was used for another order",
            };
            let rejected = Rejected {
                order_id,
                status: "REJECTED",
                reason: detail,
            };
            json(StatusCode::UNPROCESSABLE_ENTITY, &rejected)
        }
        // The caller handles faults first, and only they prevent processing.
        None => unreachable!("without a fault, a request is processed"),
    }
}

#[derive(Serialize)]
struct Rejected<'a> {
    order_id: &'a str,
    status: &'static str,
    reason: &'static str,
}

#[derive(Serialize)]
struct Problem<'a> {
    error: &'a str,
}

/// Returns an error response with its reason.
fn problem(status: StatusCode, detail: &str) -> Response<Body> {
    json(status, &Problem { error: detail })
}

/// Returns a response of a status without a body, as a broken server sends it.
fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn later(status: StatusCode, retry_after_s: u32) -> Response<Body> {
    let mut response = bare(status);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
    response
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_vec(value).expect("our types are representable in JSON");
    let mut response = bare(status);
    *response.body_mut() = Body::from(text);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
