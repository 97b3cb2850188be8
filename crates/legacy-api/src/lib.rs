//! Stand-in for a legacy payments API, for the demo and the tests.
//!
//! The API is not idempotent: two requests for one order charge the customer twice, and the stand-in counts
//! that. It fails in the ways that make such an API hard to call: before it processes a request, or after, so
//! that the client cannot tell which. Faults are drawn from a seed, and every request is recorded with what
//! happened to it, so that a checker can explain each repeated call.
//!
//! | module | does |
//! | --- | --- |
//! | `faults` | decides which request meets which fault; pure |
//! | `ledger` | records requests and charges; no clock, lock or socket |
//! | `payments` | handles one payment request |
//! | `server` | listens, serves connections, goes down and comes back |
//! | `health` | asks a running stand-in for its statistics |
//! | `control` | serves everything but payments |
//! | `responses` | JSON types of the responses |
//!
//! It shares no code with the pipeline, so that it cannot be wrong in the same way.

mod api;
mod connection_state;
mod control;
mod faults;
mod health;
mod ledger;
mod payments;
mod responses;
mod server;
mod settings;

pub use faults::{BadFaults, Fault, Faults};
pub use health::ask;
pub use responses::{Accepted, ChargeLine, Cut, Decision, Lookup, RequestLine, Stats};
pub use server::{Counter, Server};
pub use settings::Settings;
