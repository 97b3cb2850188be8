//! `POST /payments`: one request from its body to its answer, or to whatever it gets instead.

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

/// An order is a few hundred bytes; a Kafka record is at most 1 MB unless somebody says otherwise.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Takes one payment. An error means that the connection ends without an answer, and how.
pub(crate) async fn take(
    api: &Arc<Api>,
    connection: &ConnectionState,
    request: Request<Incoming>,
) -> Result<Response<Body>, Cut> {
    let (head, body) = request.into_parts();
    // The same rule as for order ids: text, or it is not there.
    let key = head
        .headers
        .get("idempotency-key")
        .and_then(|key| key.to_str().ok());
    let reading = Reading { api, done: false };
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Ok(reading.malformed(StatusCode::PAYLOAD_TOO_LARGE, "the order is larger than 2 MiB"));
        }
        Err(_) => return Err(Cut::ClientLeft),
    };
    let order_id = match serde_json::from_slice::<Payment<'_>>(&body) {
        Ok(payment) if !payment.order_id.is_empty() => payment.order_id,
        Ok(_) => return Ok(reading.malformed(StatusCode::BAD_REQUEST, "order_id is empty")),
        Err(error) => return Ok(reading.malformed(StatusCode::BAD_REQUEST, &error.to_string())),
    };
    reading.done();

    let faults = api.faults();
    let rejected = faults.rejects(&order_id);
    let arrived = api
        .ledger()
        .arrive(&order_id, key, now_ms(), |nth| faults.draw(&order_id, nth));
    let arrived = match arrived {
        Ok(arrived) => arrived,
        Err(full) => {
            api.tell_full(&full);
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
    let processed = if delay.is_zero() {
        work.process()
    } else {
        // In a task of its own, because the API processes what it has read even if the client leaves meanwhile.
        let work = tokio::spawn(async move {
            sleep(delay).await;
            work.process()
        });
        work.await.map_err(|_stopping| Cut::Reset)?
    };

    match arrived.draw.fault {
        None => Ok(exchange.answer(decided(&order_id, processed))),
        Some(Fault::Before500 | Fault::Lost500) => {
            Ok(exchange.answer(bare(StatusCode::INTERNAL_SERVER_ERROR)))
        }
        Some(Fault::Lost502) => Ok(exchange.answer(bare(StatusCode::BAD_GATEWAY))),
        Some(Fault::Lost504) => Ok(exchange.answer(bare(StatusCode::GATEWAY_TIMEOUT))),
        Some(Fault::Before503) => {
            Ok(exchange.answer(later(StatusCode::SERVICE_UNAVAILABLE, faults.retry_after_s)))
        }
        Some(Fault::Throttle) => {
            Ok(exchange.answer(later(StatusCode::TOO_MANY_REQUESTS, faults.retry_after_s)))
        }
        Some(Fault::BeforeReset | Fault::LostReset) => Err(exchange.cut(Cut::Reset)),
        Some(Fault::LostClose) => Err(exchange.cut(Cut::Closed)),
        Some(Fault::LostSilence) => {
            // The client that leaves first drops this future, and with it the exchange.
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

/// A body that is still arriving; counted as incomplete if it never does.
struct Reading<'a> {
    api: &'a Api,
    done: bool,
}

impl Reading<'_> {
    fn done(mut self) {
        self.done = true;
    }

    fn malformed(self, status: StatusCode, detail: &str) -> Response<Body> {
        self.api.ledger().malformed();
        self.done();
        problem(status, detail)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.api.ledger().incomplete();
        }
    }
}

/// What is done with a request, whether or not somebody still waits for the answer.
struct Work {
    api: Arc<Api>,
    sequence: u32,
    fault: Option<Fault>,
    rejected: bool,
}

impl Work {
    /// `None` if the fault strikes before.
    fn process(self) -> Option<Processed> {
        let mut ledger = self.api.ledger();
        if self.fault.is_none_or(Fault::processes) {
            Some(ledger.process(self.sequence, self.rejected, now_ms()))
        } else {
            ledger.pass_over(self.sequence, now_ms());
            None
        }
    }
}

/// A request on record whose client waits. However it ends, even when its future is dropped because the
/// client or the connection has gone, the ledger learns it, once.
struct Exchange<'a> {
    api: &'a Api,
    connection: &'a ConnectionState,
    sequence: u32,
    ended: bool,
}

impl Exchange<'_> {
    fn answer(mut self, response: Response<Body>) -> Response<Body> {
        self.end(End::Answered(response.status().as_u16()));
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
            self.end(End::Cut(if self.connection.is_cut_down() {
                Cut::Down
            } else {
                Cut::ClientLeft
            }));
        }
    }
}

fn decided(order_id: &str, processed: Option<Processed>) -> Response<Body> {
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

/// An error that says what is wrong with the request.
fn problem(status: StatusCode, detail: &str) -> Response<Body> {
    json(status, &Problem { error: detail })
}

/// An error as a broken server gives it: a status and not a word.
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
