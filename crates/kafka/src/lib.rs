//! rdkafka reduced to what the programs need, with the setting behind each guarantee stated in one place.
//!
//! This crate decides nothing about orders or calls, and does not know the store.

pub mod admin;
pub mod client;
pub mod consumer;
pub mod membership;
pub mod preflight;
pub mod producer;
pub mod topics;

pub use admin::topic_ids;
pub use client::config::KafkaSettings;
pub use client::error::{self, ClientError};
pub use consumer::{
    Consumer, ConsumerEvent, Headers, Membership, Record, RecordBatch, changelog, group_offsets, offsets,
};
pub use membership::{group_watch, instance_id_conflict, instance_id_watch, static_members};
pub use producer::{OutgoingHeaders, OutgoingRecord, TransactionalProducer};
