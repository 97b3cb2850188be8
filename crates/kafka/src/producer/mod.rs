//! Producers: a plain idempotent one and a transactional one, with one record type and one path to
//! librdkafka.

mod delivery_reports;
mod end_txn_responses;
mod idempotent;
mod marker_wait;
mod native;
mod record;
mod record_sizes;
pub mod transactional;

pub use idempotent::{DeliveryReport, Producer, Recovery, SendError};
pub use native::flush;
pub use record::{OutgoingHeaders, OutgoingRecord};
pub use record_sizes::RecordSizes;
pub use transactional::TransactionalProducer;
