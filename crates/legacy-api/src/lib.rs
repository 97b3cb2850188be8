//! A stand-in for a legacy payments API, for the demo and the tests.
//!
//! It is not idempotent: two requests for an order charge its customer twice, and it counts that. It fails in
//! the ways that make calling such an API hard: before it processes, or after, so that the client cannot know
//! which. Faults come from a seed, and every request is on record with what happened to it, so that a checker
//! can explain each repeated call.
//!
//! `faults` decides what goes wrong (pure). `ledger` is what was charged (no clock, no lock, no socket).
//! `payments` takes one request through both. `connection` and `server` are the sockets, `control` is all the
//! rest of the HTTP interface, and `responses` has the JSON of its answers.

mod api;
mod connection_state;
mod control;

mod faults;
mod ledger;
mod payments;
mod responses;
mod server;
mod settings;

pub use faults::{BadFaults, Fault, Faults};
pub use responses::{Accepted, ChargeLine, Cut, Decision, Lookup, RequestLine, Stats};
pub use server::{Counter, Server};
pub use settings::Settings;
