//! Harness of the integration tests, the demo, the measurements and the chaos run.
//!
//! Runs the real programs as processes against a real Kafka, kills them at the worst times, and then reads
//! topics and stores with clients of its own. Nothing that a program reports about itself counts as evidence:
//! the expected verdicts come from the orders topic alone (`check::expected`), and the checkers compare them
//! with the topics and the API's record.
//!
//! ```text
//! orders ─▶ feed ─▶ Kafka ◀─▶ programs (process, pipeline)
//!              │       └────▶ read_back ─▶ check ─▶ violations, by guarantee
//!              └─ check::expected ───────────┘
//! ```
//!
//! `cluster` starts brokers and administers topics; `proxy` delays or loses requests to a broker.

pub mod api;
pub mod check;
pub mod cluster;
pub mod hostile_api;
pub mod http;
#[cfg(test)]
mod kafka_versions;
#[cfg(test)]
mod layering;
#[cfg(test)]
mod monitoring;
pub mod orders;
pub mod pipeline;
pub mod process;
pub mod proxy;
pub mod read_back;
pub mod schema_registry;
pub mod wait;
