//! Parts that every program needs: settings, logging, metrics, health, the admin HTTP server, shutdown, and
//! failpoints.
//!
//! Only programs depend on this crate. It knows neither orders nor Kafka.

pub mod admin;
pub mod cli;
pub mod config;
pub mod failpoint;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod program;
pub mod shutdown;
pub mod status;

pub use health::Health;
pub use program::Program;
pub use shutdown::Shutdown;
