//! Client of a schema registry that speaks Confluent's REST protocol: its settings, and the thread that asks for schemas.
//!
//! The program says which schemas it waits for ([`Registry::set_wanted`]); the thread asks for them until the registry
//! has answered, for as long as it takes. Only an answer of the registry about the schema itself ends a wait: whatever else
//! happens (no connection, wrong credentials, a proxy's error page) may end by itself or by an operator, and no order is
//! refused for it.

mod answer;
mod client;
mod fetching;
mod metrics;
mod settings;

pub use client::document;
pub use fetching::{EndsWait, Registry};
pub use metrics::RegistryMetrics;
pub use settings::{RegistryAuth, RegistryAuthKind, RegistrySettings, RegistryTls};
