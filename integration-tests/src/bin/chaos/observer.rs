//! Who looks on: a reader that follows the outbox and the changelog while they are written, and one who notes
//! from time to time how far everything has come.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use harness::check::aborted::{ObservedRecords, fingerprint};
use harness::check::atomicity::Snapshot;
use harness::cluster;
use harness::pipeline::Pipeline;
use harness::read_back::topics::{high_watermarks, last_stable_offsets};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};
use records::{Offset, Partition};

/// How long between two snapshots.
const EVERY: Duration = Duration::from_millis(500);

/// The observers; they end when this is dropped.
pub(crate) struct Observers {
    stop: Arc<AtomicBool>,
    reading: Option<JoinHandle<Vec<ObservedRecords>>>,
    noting: Option<JoinHandle<Vec<Snapshot>>>,
}

/// What they have seen.
pub(crate) struct Observed {
    /// Of the outbox and of the changelog.
    pub(crate) seen: Vec<ObservedRecords>,
    pub(crate) snapshots: Vec<Snapshot>,
}

impl Observers {
    pub(crate) fn start(pipeline: &Pipeline) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let topics = [pipeline.topics.pending.clone(), pipeline.topics.changelog.clone()];
        let consumer = reader(&pipeline.kafka, &topics, pipeline.partitions)?;
        let reading = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || follow(&consumer, &stop)
        });
        let noting = std::thread::spawn({
            let (stop, noter) = (Arc::clone(&stop), Noter::new(pipeline));
            move || noter.note(&stop)
        });
        Ok(Self {
            stop,
            reading: Some(reading),
            noting: Some(noting),
        })
    }

    pub(crate) fn end(mut self) -> Result<Observed> {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow!("an observer panicked");
        let reading = self.reading.take().context("ended before")?;
        let noting = self.noting.take().context("ended before")?;
        Ok(Observed {
            seen: reading.join().map_err(panicked)?,
            snapshots: noting.join().map_err(panicked)?,
        })
    }
}

impl Drop for Observers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn reader(kafka: &str, topics: &[String], partitions: i32) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", "harness-observer")
        .set("client.id", "harness-observer")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .create()
        .context("creating the observer's consumer")?;
    let mut from = TopicPartitionList::new();
    for topic in topics {
        for partition in 0..partitions {
            from.add_partition_offset(topic, partition, At::Beginning)?;
        }
    }
    consumer.assign(&from).context("following the topics")?;
    Ok(consumer)
}

/// An error (a broker is gone) is no end; what is not seen is not compared.
fn follow(consumer: &BaseConsumer, stop: &AtomicBool) -> Vec<ObservedRecords> {
    let mut seen: HashMap<String, ObservedRecords> = HashMap::new();
    while !stop.load(Ordering::Relaxed) {
        let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        let topic = record.topic();
        if !seen.contains_key(topic) {
            let new = ObservedRecords {
                topic: topic.to_owned(),
                records: HashMap::new(),
            };
            seen.insert(topic.to_owned(), new);
        }
        if let Some(seen) = seen.get_mut(topic) {
            let place = (Partition(record.partition()), Offset(record.offset()));
            seen.records.insert(place, fingerprint(record.key()));
        }
    }
    seen.into_values().collect()
}

/// One who notes snapshots.
struct Noter {
    kafka: String,
    group: String,
    orders: String,
    topics: [String; 3],
}

impl Noter {
    fn new(pipeline: &Pipeline) -> Self {
        let topics = &pipeline.topics;
        Self {
            kafka: pipeline.kafka.clone(),
            group: pipeline.validator_group.clone(),
            orders: topics.orders.clone(),
            topics: [
                topics.pending.clone(),
                topics.changelog.clone(),
                topics.order_dead_letters.clone(),
            ],
        }
    }

    fn note(&self, stop: &AtomicBool) -> Vec<Snapshot> {
        let mut snapshots = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            // A moment at which a broker does not answer tells nothing.
            snapshots.extend(self.moment().ok());
            std::thread::sleep(EVERY);
        }
        snapshots
    }

    /// In this order; see the checker.
    fn moment(&self) -> Result<Snapshot> {
        let readable = self.of_each(|topic| last_stable_offsets(&self.kafka, topic))?;
        let committed = cluster::committed(&self.kafka, &self.group, &self.orders)?;
        let ends = self.of_each(|topic| high_watermarks(&self.kafka, topic))?;
        Ok(Snapshot {
            readable,
            committed,
            ends,
        })
    }

    fn of_each(
        &self,
        offsets: impl Fn(&str) -> Result<Vec<(Partition, Offset)>>,
    ) -> Result<HashMap<String, HashMap<Partition, Offset>>> {
        self.topics
            .iter()
            .map(|topic| Ok((topic.clone(), offsets(topic)?.into_iter().collect())))
            .collect()
    }
}
