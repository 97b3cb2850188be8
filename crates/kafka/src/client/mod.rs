//! Configuration, errors, logging and deadlines, common to all clients.

pub(crate) mod c_string;
pub mod config;
pub(crate) mod connection_failure;
pub mod error;
pub(crate) mod log_bridge;
pub(crate) mod log_queue;
pub(crate) mod retry;
pub(crate) mod with_deadline;
