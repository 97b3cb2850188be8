//! A plain idempotent producer, whose delivery reports come by callback.

mod end_txn_responses;
pub(crate) mod native;
pub mod transactional;
mod with_deadline;

use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::{Message, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer,
};
use rdkafka::types::RDKafkaErrorCode;
use records::{Offset, Partition};

use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;

/// Sends records with `acks=all`; what was delivered, and what was not, is told to the callback.
pub struct Producer {
    inner: ThreadedProducer<Reports>,
}

/// A record to be sent.
pub struct Outgoing<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition; `None` leaves it to the key's hash.
    pub partition: Option<Partition>,
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The headers, in their order.
    pub headers: OwnedHeaders,
    /// Comes back with the delivery report.
    pub token: usize,
}

/// Why a record was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The queue is full; the record may be sent again when some are delivered.
    #[error("the producer's queue is full")]
    QueueFull,
    /// The record or the producer is at fault.
    #[error(transparent)]
    ClientError(#[from] ClientError),
}

/// A record's token, and where it came to lie or why it did not.
pub type Report = (usize, Result<Offset, ClientError>);

impl Producer {
    /// Opens a producer. `on_report` runs on a thread of librdkafka's and must not block.
    ///
    /// # Errors
    /// librdkafka refused a setting.
    pub fn open(
        settings: &KafkaSettings,
        client_id: &str,
        delivery_max: Duration,
        on_report: impl Fn(Report) + Send + Sync + 'static,
    ) -> Result<Self, ClientError> {
        let inner = settings
            .client(client_id)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // The topic's own limit decides what is too large, not the client's default of 1 MB.
            .set("message.max.bytes", "67108864")
            .set("message.timeout.ms", delivery_max.as_millis().to_string())
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "20000")
            .set("queue.buffering.max.kbytes", "16384")
            .create_with_context(Reports(Box::new(on_report)))
            .map_err(|error| ClientError::new(format!("opening the producer {client_id:?}"), error))?;
        Ok(Self { inner })
    }

    /// Queues a record; its report comes later, exactly once.
    ///
    /// # Errors
    /// The record was not taken, and no report of it will come.
    pub fn send(&self, outgoing: &Outgoing<'_>) -> Result<(), SendError> {
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(outgoing.topic, outgoing.token)
            .key(outgoing.key)
            .payload(outgoing.value)
            .headers(outgoing.headers.clone());
        record.partition = outgoing.partition.map(|partition| partition.0);
        self.inner.send(record).map_err(|(error, _)| match error {
            KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => SendError::QueueFull,
            error => ClientError::new(format!("sending a record to {:?}", outgoing.topic), error).into(),
        })
    }

    /// Waits until every record is delivered or has failed, at most `timeout`.
    ///
    /// # Errors
    /// Some are still under way.
    pub fn flush(&self, timeout: Duration) -> Result<(), ClientError> {
        self.inner
            .flush(timeout)
            .map_err(|error| ClientError::new("delivering the last records", error))
    }
}

struct Reports(Box<dyn Fn(Report) + Send + Sync>);

impl ClientContext for Reports {}

impl ProducerContext<NoCustomPartitioner> for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, report: &DeliveryResult<'_>, token: usize) {
        let report = match report {
            Ok(record) => Ok(Offset(record.offset())),
            Err((error, record)) => Err(ClientError::new(
                format!("delivering a record to {:?}", record.topic()),
                error.clone(),
            )),
        };
        (self.0)((token, report));
    }
}
