//! Records made by hand, for stories about single ones.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use records::Partition;

const LIMIT: Duration = Duration::from_secs(30);

/// A record of the orders topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputRecord {
    /// Where it is sent.
    pub partition: Partition,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; none for a tombstone.
    pub value: Option<Vec<u8>>,
}

/// A valid order.
#[must_use]
pub fn order(partition: i32, id: &str) -> InputRecord {
    InputRecord {
        partition: Partition(partition),
        key: Some(id.into()),
        value: Some(
            format!(r#"{{"order_id":"{id}","amount":1250,"currency":"EUR","customer_id":"customer-1"}}"#)
                .into_bytes(),
        ),
    }
}

/// Valid orders, named by a prefix and their numbers.
#[must_use]
pub fn orders(partition: i32, prefix: &str, count: u32) -> Vec<InputRecord> {
    (0..count)
        .map(|number| order(partition, &format!("{prefix}-{number}")))
        .collect()
}

/// Sends records, in their order, and waits until Kafka has them.
///
/// # Errors
/// Kafka does not take one.
pub fn send(kafka: &str, topic: &str, records: &[InputRecord]) -> Result<()> {
    send_with(kafka, topic, records, OwnedHeaders::new())
}

/// Sends records that all have these headers, in their order, and waits until Kafka has them.
///
/// # Errors
/// Kafka does not take one.
pub fn send_with(kafka: &str, topic: &str, records: &[InputRecord], headers: OwnedHeaders) -> Result<()> {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("client.id", "harness-by-hand")
        .set("enable.idempotence", "true")
        .set("message.max.bytes", "67108864")
        .set("message.timeout.ms", LIMIT.as_millis().to_string())
        .create()
        .context("creating a producer")?;
    for record in records {
        let mut sent: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic)
            .partition(record.partition.0)
            .headers(headers.clone());
        sent.key = record.key.as_deref();
        sent.payload = record.value.as_deref();
        producer
            .send(sent)
            .map_err(|(error, _)| error)
            .with_context(|| format!("sending to {topic}/{}", record.partition))?;
    }
    producer
        .flush(LIMIT)
        .with_context(|| format!("sending to {topic}"))?;
    ensure!(
        producer.in_flight_count() == 0,
        "not all records for {topic} were acknowledged"
    );
    Ok(())
}
