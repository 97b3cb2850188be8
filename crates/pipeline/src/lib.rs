//! Decisions of both stages and of the operator's commands, without input or output.
//!
//! Events and the time come in, actions go out. Nothing here reads a clock, a random source, a socket or a
//! file, so a unit test can play every crash, rebalance and late response in microseconds. This crate never
//! sees rdkafka, redb or reqwest.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read the clock once, for a first instant"
    )
)]

pub mod admission;
pub mod delivery;
#[cfg(test)]
mod fuzz;
pub mod ledger;
mod reset_offsets;
mod sliding_count;

pub use sliding_count::ShareLimit;
