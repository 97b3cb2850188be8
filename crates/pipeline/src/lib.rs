//! Every decision of both stages, without input or output.
//!
//! Events and the time come in, actions go out. Nothing here reads a clock, a socket or a file, so that
//! every crash, rebalance and late answer can be played in microseconds. This crate never sees rdkafka,
//! redb or reqwest.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "a test begins somewhere in time")
)]

pub mod admission;
pub mod delivery;
