//! JSON types of the responses. Tests and the demo parse them back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Fault;

/// Payment request: a line of `GET /requests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine {
    /// Number in order of arrival, from 0.
    pub sequence: u32,
    /// Id of the order it pays.
    pub order_id: String,
    /// Value of the header `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// Number among the requests for this order, from 1.
    pub nth: u32,
    /// Arrival of its last byte, in ms since 1970 like all times here.
    pub arrived_at: u64,
    /// Fault drawn for it.
    pub fault: Option<Fault>,
    /// Drawn to be slow.
    pub slow: bool,
    /// Processed: the API has made its decision.
    pub processed: bool,
    /// Decision of the API.
    pub decision: Option<Decision>,
    /// Time of the decision.
    pub processed_at: Option<u64>,
    /// Status handed to the connection. A server cannot know whether the client received it.
    pub answered: Option<u16>,
    /// End of the exchange, if there was no response.
    pub cut: Option<Cut>,
    /// Time of the response or of the end without one.
    pub finished_at: Option<u64>,
}

/// Decision of the API on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The customer was charged.
    Charged,
    /// The idempotency key was known, and nothing was charged again. Only with `--honour-idempotency-key`.
    Replayed,
    /// The order was rejected (422) and not charged.
    Rejected,
}

/// End of an exchange without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// The API reset the connection (RST).
    Reset,
    /// The API closed the connection (FIN).
    Closed,
    /// The client left first.
    ClientLeft,
    /// The API went down and reset the connection.
    Down,
}

/// Charges of one order: a line of `GET /charges`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargeLine {
    /// Id of the order.
    pub order_id: String,
    /// Number of times the customer was charged; 0 if all requests failed or were rejected.
    pub charges: u32,
    /// Number of requests for the order.
    pub requests: u32,
    /// Distinct idempotency keys of these requests, in order of arrival.
    pub idempotency_keys: Vec<String>,
}

/// Response to the look-up of a charged order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// Id of the order.
    pub order_id: String,
    /// Number of times the customer was charged, at least 1.
    pub charges: u32,
    /// Time of the first charge, in ms since 1970.
    pub first_at: u64,
    /// Time of the latest charge, in ms since 1970.
    pub last_at: u64,
    /// Transaction ids, one per charge.
    pub transaction_ids: Vec<String>,
}

/// Response to an accepted payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Id of the charge.
    pub transaction_id: String,
    /// Id of the order.
    pub order_id: String,
    /// Constant text `ACCEPTED`, as real APIs have one.
    pub status: String,
}

/// Counts since the start: `GET /stats`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Number of recorded payment requests.
    pub requests: u64,
    /// Charges of all orders together.
    pub charges: u64,
    /// Distinct orders with at least one request.
    pub orders: u64,
    /// Distinct orders that were charged.
    pub orders_charged: u64,
    /// Distinct orders that were charged more than once: customers who paid twice.
    pub orders_charged_more_than_once: u64,
    /// Requests that were rejected.
    pub rejected: u64,
    /// Requests with a known idempotency key, which charged nothing.
    pub replayed: u64,
    /// Requests by the fault they met.
    pub faults: BTreeMap<Fault, u64>,
    /// Requests drawn to be slow.
    pub slow: u64,
    /// Requests whose client left before the response.
    pub client_left: u64,
    /// Unrecorded requests: not JSON with an `order_id` (400), or too large (413).
    pub malformed: u64,
    /// Unrecorded requests: the client left before it had sent all of them.
    pub incomplete: u64,
    /// Unrecorded requests: the record is full (507).
    pub refused_full: u64,
    /// Number of times the API went down.
    pub downs: u64,
    /// Unfinished requests. One whose client has left counts until it is processed.
    pub in_progress: u64,
    /// Highest value of `in_progress`.
    pub in_progress_max: u64,
}

impl std::fmt::Display for Stats {
    /// Writes a summary of one line for people.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} requests, {} charges, {} orders charged, {} of them more than once, {} rejected, {} faults, \
             {} in progress",
            self.requests,
            self.charges,
            self.orders_charged,
            self.orders_charged_more_than_once,
            self.rejected,
            self.faults.values().sum::<u64>(),
            self.in_progress,
        )
    }
}
