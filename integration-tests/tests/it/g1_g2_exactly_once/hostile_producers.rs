//! G2: producers that send what fills memory, or times that move the retention window, cost one dead letter each, or an
//! order that is admitted as it is.
//!
//! Set-up: one validator, and orders and other values of 16 MiB, records with 10,000 headers, compressed batches that
//! are many times as long once they are read, empty keys, and records without a time, from 1970 and from next year. The
//! orders topic takes all of that. What breaks parsers is in `invalid_orders.rs`.
//!
//! Must hold: each record is in the outbox or a dead letter with its reason, with all its headers and its own bytes, the
//! partition goes on, and the validator's memory stays bounded.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::cluster::Administrator;
use harness::orders::manual::{InputRecord, order};
use harness::pipeline::Pipeline;
use harness::process::memory::peak_kib;
use harness::read_back::topics::{Keep, Record, high_watermarks, read_topic};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use records::dead_letter::{REASON, Reason};
use records::{Fingerprint, Timestamp};

use crate::assertions::{await_verdicts, expect_outbox};
use crate::run;

const DRAIN_MAX: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(60);
const HEADERS: usize = 10_000;
const MIB: usize = 1024 * 1024;
/// Value of an order of 16 MiB.
const LARGE: usize = 16 * MIB;
/// `max.message.bytes` of the orders topic: the largest value with its headers.
const ORDER_BYTES_MAX: &str = "18000000";
/// Orders of 1 MiB in compressed batches, which have a thousandth of their bytes.
const COMPRESSED: usize = 48;
/// Peak memory of the validator.
const MEMORY_MAX_KIB: u64 = 700 * 1024;

/// Record with what else a producer can set.
#[derive(Clone)]
struct Hostile {
    record: InputRecord,
    headers: usize,
    /// Time of the record, in milliseconds since 1970; -1 for none.
    at: Option<i64>,
    /// `None` if it is a valid order.
    refused: Option<Reason>,
}

fn hostile(id: &str) -> Hostile {
    Hostile {
        record: order(0, id),
        headers: 0,
        at: None,
        refused: None,
    }
}

/// An order with so many bytes more.
fn padded(id: &str, bytes: usize) -> InputRecord {
    let mut record = order(0, id);
    if let Some(value) = &mut record.value {
        value.pop();
        value.extend_from_slice(b",\"note\":\"");
        value.resize(value.len() + bytes, b'x');
        value.extend_from_slice(b"\"}");
    }
    record
}

fn records() -> Vec<Hostile> {
    let year_ms = 365 * 24 * 3600 * 1000;
    let other = |id: &str, refused: Reason, change: fn(&mut InputRecord)| {
        let mut made = hostile(id);
        change(&mut made.record);
        made.refused = Some(refused);
        made
    };
    let at = |id: &str, at: i64, refused: Reason| Hostile {
        at: Some(at),
        refused: Some(refused),
        ..hostile(id)
    };
    let mut all = vec![
        hostile("before"),
        Hostile {
            record: padded("large", LARGE),
            ..hostile("")
        },
        other("large-junk", Reason::NotJson, |record| {
            record.value = Some(vec![b'x'; LARGE]);
        }),
        other("large-string", Reason::NotAnOrder, |record| {
            let text = [&b"\""[..], &vec![b'x'; LARGE], b"\""].concat();
            record.value = Some(text);
        }),
        Hostile {
            headers: HEADERS,
            ..hostile("many-headers")
        },
        Hostile {
            headers: HEADERS,
            ..other("many-headers-junk", Reason::NotJson, |record| {
                record.value = Some(b"{".to_vec());
            })
        },
        other("empty-key", Reason::KeyMismatch, |record| {
            record.key = Some(Vec::new());
        }),
        other("no-key", Reason::KeyMismatch, |record| record.key = None),
        at("without-a-time", -1, Reason::TooOld),
        at("of-1970", 1, Reason::TooOld),
        at(
            "of-next-year",
            Timestamp::now().0 + year_ms,
            Reason::FromTheFuture,
        ),
        at("of-the-last-day", i64::MAX, Reason::FromTheFuture),
    ];
    all.extend((0..COMPRESSED).map(|number| Hostile {
        record: padded(&format!("compressed-{number}"), MIB),
        ..hostile("")
    }));
    all.push(hostile("behind"));
    all
}

#[test]
fn hostile_producer_costs_dead_letters_only() {
    run(|| {
        let mut pipeline = Pipeline::without_topics("hostile-producers", 1)?;
        let topics = pipeline.topics.clone();
        let configs = [
            ("max.message.bytes", ORDER_BYTES_MAX),
            // Any time: by default the broker refuses those of the future.
            ("message.timestamp.after.max.ms", "9223372036854775807"),
        ];
        Administrator::new(&pipeline.kafka)?.create_topic(&topics.orders, 1, &configs)?;
        high_watermarks(&pipeline.kafka, &topics.orders)?;
        pipeline.create_topics()?;
        let sent = records();
        send(&pipeline.kafka, &topics.orders, &sent)?;

        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_verdicts(&pipeline)?;
        let peak = peak_kib(validator.process.id().context("the validator runs")?)?;
        println!("{} records, peak memory of the validator {peak} KiB", sent.len());
        validator.process.terminate(DRAIN_MAX)?;

        let (valid, refused): (Vec<_>, Vec<_>) = sent.into_iter().partition(|sent| sent.refused.is_none());
        let orders: Vec<InputRecord> = valid.iter().map(|sent| sent.record.clone()).collect();
        expect_outbox(&pipeline, &[&orders])?;
        let pending = read_topic(&pipeline.kafka, &topics.pending, Keep::Fingerprints)?;
        for (sent, record) in valid.iter().zip(&pending) {
            expect_unchanged(sent, record)?;
        }
        let letters = read_topic(&pipeline.kafka, &topics.order_dead_letters, Keep::Fingerprints)?;
        ensure!(
            letters.len() == refused.len(),
            "{} dead letters for {} invalid records",
            letters.len(),
            refused.len()
        );
        for (sent, letter) in refused.iter().zip(&letters) {
            expect_unchanged(sent, letter)?;
            let reason = sent.refused.map(Reason::as_str);
            ensure!(
                letter.header(REASON) == reason,
                "{}: {:?}, expected {reason:?}",
                letter.key_text(),
                letter.header(REASON)
            );
        }
        ensure!(
            peak <= MEMORY_MAX_KIB,
            "the validator took {peak} KiB, more than {MEMORY_MAX_KIB}"
        );
        pipeline.passed();
        Ok(())
    });
}

/// Checks that a record has the key, the value and the headers that were sent; both topics keep their order.
fn expect_unchanged(sent: &Hostile, found: &Record) -> Result<()> {
    let headers = found
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("hostile-"));
    ensure!(
        found.key == sent.record.key
            && found.fingerprint == sent.record.value.as_deref().map(Fingerprint::of)
            && headers.count() == sent.headers,
        "{:?}@{} is not what was sent as {:?}",
        found.key_text(),
        found.offset,
        sent.record.key
    );
    Ok(())
}

fn send(kafka: &str, topic: &str, records: &[Hostile]) -> Result<()> {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("client.id", "harness-hostile")
        .set("enable.idempotence", "true")
        .set("compression.type", "zstd")
        // Less than a third of what a client takes, from which on librdkafka may refuse to decompress it.
        .set("message.max.bytes", "25000000")
        .set("batch.size", "25000000")
        .set("queue.buffering.max.kbytes", "262144")
        .set("linger.ms", "200")
        .create()
        .context("creating a producer")?;
    for sent in records {
        let mut headers = OwnedHeaders::new_with_capacity(sent.headers);
        for number in 0..sent.headers {
            let name = format!("hostile-{number}");
            headers = headers.insert(Header {
                key: &name,
                value: Some("v"),
            });
        }
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(0).headers(headers);
        record.timestamp = sent.at;
        record.key = sent.record.key.as_deref();
        record.payload = sent.record.value.as_deref();
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .with_context(|| format!("sending to {topic}"))?;
    }
    producer
        .flush(TIMEOUT)
        .with_context(|| format!("sending to {topic}"))
}
