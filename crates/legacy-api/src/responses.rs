//! What the API says about itself, as JSON. Tests and the demo read these types back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Fault;

/// One request for a payment: a line of `GET /requests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine {
    /// Its number in order of arrival, from 0.
    pub sequence: u32,
    /// The order it pays.
    pub order_id: String,
    /// The header `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// Its number among the requests for this order, from 1.
    pub nth: u32,
    /// When its last byte had arrived; ms since 1970, like every time here.
    pub arrived_at: u64,
    /// The fault it met.
    pub fault: Option<Fault>,
    /// Whether it was drawn to be slow.
    pub slow: bool,
    /// Whether the API has come to a decision on it.
    pub processed: bool,
    /// That decision.
    pub decision: Option<Decision>,
    /// When the decision was made.
    pub processed_at: Option<u64>,
    /// The status that was given to the connection. Whether it reached the client, no server can know.
    pub answered: Option<u16>,
    /// How the exchange ended instead, without an answer.
    pub cut: Option<Cut>,
    /// When it was answered or cut.
    pub finished_at: Option<u64>,
}

/// What the API decided on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The customer has paid.
    Charged,
    /// The idempotency key was known: nothing was charged again. Only with `--honour-idempotency-key`.
    Replayed,
    /// Rejected (422); nothing was charged.
    Rejected,
}

/// How an exchange ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// The API reset the connection (RST).
    Reset,
    /// The API closed the connection (FIN).
    Closed,
    /// The client went away first.
    ClientLeft,
    /// The API went down and reset the connection.
    Down,
}

/// One order: a line of `GET /charges`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargeLine {
    /// The order.
    pub order_id: String,
    /// How often its customer has paid; 0 for an order that was only ever rejected or failed.
    pub charges: u32,
    /// How many requests came for it.
    pub requests: u32,
    /// The distinct idempotency keys that came with them, in order of arrival.
    pub idempotency_keys: Vec<String>,
}

/// The answer of the look-up of an order that was charged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// The order.
    pub order_id: String,
    /// How often its customer has paid, at least 1.
    pub charges: u32,
    /// When first; ms since 1970.
    pub first_at: u64,
    /// When last; ms since 1970.
    pub last_at: u64,
    /// One per charge.
    pub transaction_ids: Vec<String>,
}

/// The answer to an accepted payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Names the charge.
    pub transaction_id: String,
    /// The order.
    pub order_id: String,
    /// Always `ACCEPTED`.
    pub status: String,
}

/// Counts since the start: `GET /stats`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Requests for a payment on record.
    pub requests: u64,
    /// How often a customer has paid.
    pub charges: u64,
    /// Distinct orders with a request.
    pub orders: u64,
    /// Distinct orders that were charged.
    pub orders_charged: u64,
    /// Of these, those charged more than once: customers who paid twice.
    pub orders_charged_more_than_once: u64,
    /// Requests rejected.
    pub rejected: u64,
    /// Requests answered from a known idempotency key.
    pub replayed: u64,
    /// Requests by the fault that they met.
    pub faults: BTreeMap<Fault, u64>,
    /// Requests drawn to be slow.
    pub slow: u64,
    /// Requests whose client went away before an answer.
    pub client_left: u64,
    /// Requests not on record: no JSON with an `order_id`, or too large. Answered 400 or 413.
    pub malformed: u64,
    /// Requests not on record: the client went away before it had sent all of them.
    pub incomplete: u64,
    /// Requests not on record: there was no more room. Answered 507.
    pub refused_full: u64,
    /// Times the API went down.
    pub downs: u64,
    /// Requests not yet finished; one whose client has left counts until it is processed.
    pub in_progress: u64,
    /// The most there ever were.
    pub in_progress_max: u64,
}

impl std::fmt::Display for Stats {
    /// One line for a person.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} requests, {} charges, {} orders charged, {} of them more than once, {} rejected, {} faults, {} in progress",
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
