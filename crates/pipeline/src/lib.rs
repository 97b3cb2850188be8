//! Every decision of both stages, without input or output.
//!
//! Events and the time come in, actions go out. Nothing here reads a clock, a socket or a file, so that
//! every crash, rebalance and late answer can be played in microseconds. This crate never sees rdkafka,
//! redb or reqwest.

pub mod admission;
pub mod delivery;
