//! Single records for the orders topic, for scenarios that need particular ones.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use records::{Partition, Timestamp};

use crate::read_back::topics::Record;

/// Timeout until Kafka has acknowledged all records.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A record to send to the orders topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputRecord {
    /// Partition to send it to.
    pub partition: Partition,
    /// Key of the record.
    pub key: Option<Vec<u8>>,
    /// Value of the record; none for a tombstone.
    pub value: Option<Vec<u8>>,
}

/// Creates a valid order with this id as key.
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

/// Creates valid orders with the ids `PREFIX-0`, `PREFIX-1` and so on.
#[must_use]
pub fn orders(partition: i32, prefix: &str, count: u32) -> Vec<InputRecord> {
    (0..count)
        .map(|number| order(partition, &format!("{prefix}-{number}")))
        .collect()
}

/// Sends records in order, and waits until Kafka has acknowledged all.
///
/// # Errors
/// A record is not acknowledged within 30 s.
pub fn send(kafka: &str, topic: &str, records: &[InputRecord]) -> Result<()> {
    send_with(kafka, topic, records, OwnedHeaders::new())
}

/// Sends records in a transaction, and aborts it.
///
/// # Errors
/// Kafka does not acknowledge them, or the end of the transaction, within 30 s.
pub fn abort(kafka: &str, topic: &str, records: &[InputRecord]) -> Result<()> {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("client.id", "harness-aborting")
        .set("transactional.id", format!("{topic}-aborting"))
        .create()
        .context("creating a transactional producer")?;
    let failed = || format!("sending records to {topic} in a transaction that is aborted");
    producer.init_transactions(TIMEOUT).with_context(failed)?;
    producer.begin_transaction().with_context(failed)?;
    for record in records {
        let mut sent: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(record.partition.0);
        sent.key = record.key.as_deref();
        sent.payload = record.value.as_deref();
        producer
            .send(sent)
            .map_err(|(error, _)| error)
            .with_context(failed)?;
    }
    // Flushed, so that the records lie on the topic before they are aborted.
    producer.flush(TIMEOUT).with_context(failed)?;
    producer.abort_transaction(TIMEOUT).with_context(failed)
}

/// Sends records in order, each with this time, and waits until Kafka has acknowledged all.
///
/// # Errors
/// A record is not acknowledged within 30 s.
pub fn send_at(kafka: &str, topic: &str, records: &[InputRecord], at: Timestamp) -> Result<()> {
    send_all(kafka, topic, records, OwnedHeaders::new(), Some(at), "none")
}

/// Sends records in order, each with these headers, and waits until Kafka has acknowledged all.
///
/// # Errors
/// A record is not acknowledged within 30 s.
pub fn send_with(kafka: &str, topic: &str, records: &[InputRecord], headers: OwnedHeaders) -> Result<()> {
    send_all(kafka, topic, records, headers, None, "none")
}

/// As [`send_with`], compressed: Kafka takes a record by its compressed size.
///
/// # Errors
/// A record is not acknowledged within 30 s.
pub fn send_compressed(
    kafka: &str,
    topic: &str,
    records: &[InputRecord],
    headers: OwnedHeaders,
) -> Result<()> {
    send_all(kafka, topic, records, headers, None, "zstd")
}

/// Sends copies of records to their partitions, with key, value, headers and time, and waits until Kafka has acknowledged
/// all.
///
/// # Errors
/// A record is not acknowledged within 30 s.
pub fn send_copies(kafka: &str, topic: &str, records: &[Record]) -> Result<()> {
    let records = records.iter().map(|record| {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &record.headers {
            headers = headers.insert(Header {
                key,
                value: value.as_ref(),
            });
        }
        let mut copy: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic)
            .partition(record.partition.0)
            .headers(headers);
        copy.timestamp = Some(record.timestamp_ms);
        copy.key = record.key.as_deref();
        copy.payload = record.value.as_deref();
        copy
    });
    send_records(kafka, topic, records, "none")
}

fn send_all(
    kafka: &str,
    topic: &str,
    records: &[InputRecord],
    headers: OwnedHeaders,
    at: Option<Timestamp>,
    compression: &str,
) -> Result<()> {
    let records = records.iter().map(|record| {
        let mut sent: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic)
            // Explicit: scenarios place orders, also on the wrong partition.
            .partition(record.partition.0)
            .headers(headers.clone());
        sent.timestamp = at.map(|at| at.0);
        sent.key = record.key.as_deref();
        sent.payload = record.value.as_deref();
        sent
    });
    send_records(kafka, topic, records, compression)
}

fn send_records<'a>(
    kafka: &str,
    topic: &str,
    records: impl Iterator<Item = BaseRecord<'a, [u8], [u8]>>,
    compression: &str,
) -> Result<()> {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("client.id", "harness-manual")
        // Retries keep the order and write nothing twice.
        .set("enable.idempotence", "true")
        // Scenarios send records that the validator must refuse as too large.
        .set("message.max.bytes", "67108864")
        .set("compression.type", compression)
        .set("message.timeout.ms", TIMEOUT.as_millis().to_string())
        .create()
        .context("creating a producer")?;
    for record in records {
        let partition = record.partition.unwrap_or_default();
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .with_context(|| format!("sending to {topic}/{partition}"))?;
    }
    producer
        .flush(TIMEOUT)
        .with_context(|| format!("sending to {topic}"))?;
    ensure!(
        producer.in_flight_count() == 0,
        "{} records for {topic} were not acknowledged within {TIMEOUT:?}",
        producer.in_flight_count()
    );
    Ok(())
}
