//! Simulations of both stages: the real decision code against simulated brokers, processes and faults.
//!
//! Each run is drawn from a seed, so a failure can be replayed. One binary, with one folder for each stage.

#![allow(
    clippy::disallowed_methods,
    reason = "a simulation starts at the present instant and advances its own clock"
)]

mod admission;
mod delivery;
mod ledger;
