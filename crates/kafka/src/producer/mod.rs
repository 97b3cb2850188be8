//! Producers: a plain idempotent one and a transactional one, with one record type and one path to
//! librdkafka.

mod delivery_reports;
mod end_txn_responses;
mod idempotent;
mod native;
mod record;
pub mod transactional;
mod with_deadline;

pub use idempotent::{DeliveryReport, Producer, SendError};
pub use record::{OutgoingHeaders, OutgoingRecord};
pub use transactional::TransactionalProducer;

/// Upper bound of a record's size in the client (`message.max.bytes`).
// The topic's own limit decides what is too large. The client's default of 1 MB would refuse records that the
// topic takes.
const RECORD_BYTES_MAX: &str = "67108864";
