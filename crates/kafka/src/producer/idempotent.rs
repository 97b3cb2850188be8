//! A plain idempotent producer whose delivery reports arrive by callback.

use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, NoCustomPartitioner, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use records::Offset;

use super::native::Sender;
use super::record::OutgoingRecord;
use super::record_sizes::RecordSizes;
use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;

/// Sends records with `acks=all`, and passes each delivery report to a callback.
pub struct Producer {
    sender: Sender<ReportCallback>,
}

/// Refusal of a record before it was queued. No delivery report follows.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The queue is full; the record may be sent again once others are delivered.
    #[error("the producer's queue is full")]
    QueueFull,
    /// The record cannot be sent, or the producer no longer works.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Token of a record, and the offset at which it was written or the reason why it was not.
pub type DeliveryReport = (usize, Result<Offset, ClientError>);

impl Producer {
    /// Opens a producer. `on_report` runs on a thread of librdkafka and must not block.
    ///
    /// # Errors
    /// librdkafka refused a setting.
    pub fn open(
        settings: &KafkaSettings,
        client_id: &str,
        delivery_timeout: Duration,
        sizes: RecordSizes,
        on_report: impl Fn(DeliveryReport) + Send + Sync + 'static,
    ) -> Result<Self, ClientError> {
        let mut config = settings.client(client_id);
        config
            // Retries inside librdkafka neither duplicate nor reorder records.
            .set("enable.idempotence", "true")
            // An outcome counts as written only if it survives the loss of its leader.
            .set("acks", "all")
            .set("message.timeout.ms", delivery_timeout.as_millis().to_string())
            .set("linger.ms", "5")
            // This and `QUEUE_KIB_MAX` bound the memory taken while the brokers are slow; beyond them `send`
            // returns `QueueFull`.
            .set("queue.buffering.max.messages", "20000");
        sizes.configure(&mut config, QUEUE_KIB_MAX);
        let inner = config
            .create_with_context(ReportCallback(Box::new(on_report)))
            .map_err(|error| ClientError::new(format!("opening the producer {client_id:?}"), error))?;
        Ok(Self {
            sender: Sender::new(inner),
        })
    }

    /// Queues a record. Its delivery report follows exactly once, with the same `token`.
    ///
    /// # Errors
    /// The record was refused, and no report follows.
    pub fn send(&self, mut record: OutgoingRecord<'_>, token: usize) -> Result<(), SendError> {
        self.sender.send(&mut record, token).map_err(|error| match error {
            KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => SendError::QueueFull,
            error => ClientError::new(format!("sending a record to {:?}", record.topic), error).into(),
        })
    }
}

/// Maximum size of records that are not acknowledged yet, in KiB.
const QUEUE_KIB_MAX: u64 = 16 * 1024;

struct ReportCallback(Box<dyn Fn(DeliveryReport) + Send + Sync>);

impl ClientContext for ReportCallback {}

impl ProducerContext<NoCustomPartitioner> for ReportCallback {
    type DeliveryOpaque = usize;

    fn delivery(&self, report: &DeliveryResult<'_>, token: usize) {
        let result = match report {
            Ok(record) => Ok(Offset(record.offset())),
            Err((error, record)) => Err(ClientError::new(
                format!("delivering a record to {:?}", record.topic()),
                error.clone(),
            )),
        };
        (self.0)((token, result));
    }
}
