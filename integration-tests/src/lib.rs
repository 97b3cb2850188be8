//! The harness of the demo, the measurements and the integration tests.
//!
//! It runs the real programs as processes against a real Kafka, ends them at the worst snapshots, and then
//! reads the topics as a stranger would. Nothing in here trusts what a program says about itself: what
//! must come out is computed from the orders topic alone (`expected`), and the checkers (`check`) compare
//! it with what the topics and the API hold.
//!
//! ```text
//! orders ─▶ feed ─▶ Kafka ◀─▶ programs (process, pipeline, settings)
//!              │       └────▶ read ─▶ check ─▶ violations, by guarantee
//!              └─ expected ─────────────┘
//! ```

pub mod api;
pub mod check;
pub mod cluster;
pub mod http;
#[cfg(test)]
mod layering;
pub mod orders;
pub mod pipeline;
pub mod process;
pub mod proxy;
pub mod read_back;
pub mod wait;
