//! What every process needs, and nothing that belongs to one of them: settings, logs, metrics, health,
//! the admin HTTP server, shutdown, and the named steps at which tests kill a process.
//!
//! Only programs use this crate; it knows neither orders nor Kafka.

pub mod admin;
pub mod cli;
pub mod config;
pub mod failpoint;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod program;
pub mod shutdown;

pub use health::Health;
pub use program::Program;
pub use shutdown::Shutdown;
