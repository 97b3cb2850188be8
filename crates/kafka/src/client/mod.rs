//! The parts of every client: its configuration, its errors and its log.

pub mod config;
pub mod error;
pub(crate) mod log_bridge;
