//! rdkafka made small: what the programs ask of Kafka, with each guarantee's setting stated in one place.
//!
//! This crate decides nothing about orders or calls and does not know the store.

pub mod admin;
pub mod changelog;
mod commit;
pub mod consumer;
mod end_txn_responses;
pub mod error;
pub mod group;
pub mod group_watch;
pub mod headers;
pub mod instance_id_conflict;
pub mod instance_id_watch;
mod log_bridge;
mod native;
pub mod offsets;
pub mod preflight;
pub mod producer;
pub mod settings;
pub mod topic_ids;
mod topic_recreation;
pub mod topics;
pub mod transaction;
mod trigger_rebalance;
pub mod unassigned_partitions;
mod with_deadline;

pub use consumer::{Consumer, ConsumerEvent, Membership};
pub use error::ClientError;
pub use headers::Headers;
pub use native::OutgoingHeaders;
pub use settings::KafkaSettings;
pub use transaction::TransactionalProducer;
