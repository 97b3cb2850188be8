//! rdkafka made small: what the programs ask of Kafka, with each guarantee's setting stated in one place.
//!
//! This crate decides nothing about orders or calls and does not know the store.

pub mod admin;
pub mod changelog;
mod commit;
pub mod consumer;
mod end_answers;
pub mod fault;
pub mod group;
pub mod group_watch;
mod guest;
pub mod headers;
mod limited;
mod logged;
pub mod namesake;
pub mod namesake_watch;
mod native;
pub mod offsets;
pub mod producer;
mod recreated;
pub mod settings;
pub mod start;
pub mod topic_ids;
pub mod topics;
pub mod transaction;
pub mod unowned;

pub use consumer::{Consumer, Happening, Membership};
pub use fault::Fault;
pub use headers::Headers;
pub use native::OutgoingHeaders;
pub use settings::KafkaSettings;
pub use transaction::TransactionalProducer;
