//! Parts that every program needs: settings, logging, metrics, health, the admin HTTP server, shutdown, and
//! failpoints.
//!
//! `validator`, `caller`, `outbox`, `membership` and `registry` depend on this crate. It knows neither orders nor Kafka.

pub mod admin;
pub mod cli;
pub mod config;
pub mod failpoint;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod program;
pub mod secrets;
pub mod shutdown;
pub mod status;
pub mod traces;

/// Version of all programs, with the commit that they were built from: "0.1.0 (1a2b3c4d5e6f)".
pub const VERSION: &str = env!("OUTBOX_VERSION");

pub use health::Health;
pub use program::Program;
pub use shutdown::Shutdown;
