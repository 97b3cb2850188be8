//! What every process needs, and nothing that belongs to one of them: settings, logs, metrics, health,
//! the admin HTTP server, shutdown, and the named steps at which tests kill a process.
//!
//! Only programs use this crate; it knows neither orders nor Kafka.

pub mod admin;
pub mod cli;
pub mod config;
pub mod failpoint;
pub mod group_health;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod shutdown;

pub use group_health::GroupHealth;
pub use health::Health;
pub use shutdown::Shutdown;
