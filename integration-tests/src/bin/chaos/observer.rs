//! Observers: one reads outbox and changelog while they are written, the other one takes snapshots of all
//! positions.

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

/// Interval between two snapshots.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(500);

/// Running observers; they stop when this is dropped.
pub(crate) struct Observers {
    stop: Arc<AtomicBool>,
    reading: Option<JoinHandle<Vec<ObservedRecords>>>,
    snapshots: Option<JoinHandle<Vec<Snapshot>>>,
}

/// Observations of a run.
pub(crate) struct Observed {
    /// Records of the outbox and of the changelog, as a reader saw them while they were written.
    pub(crate) seen: Vec<ObservedRecords>,
    /// Positions of all topics at the same time, in order.
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
        let snapshots = std::thread::spawn({
            let (stop, positions) = (Arc::clone(&stop), Positions::new(pipeline));
            move || positions.take_snapshots(&stop)
        });
        Ok(Self {
            stop,
            reading: Some(reading),
            snapshots: Some(snapshots),
        })
    }

    /// Stops the observers; returns what they have seen.
    pub(crate) fn stop(mut self) -> Result<Observed> {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow!("an observer thread panicked");
        let reading = self.reading.take().context("the observers were stopped before")?;
        let snapshots = self
            .snapshots
            .take()
            .context("the observers were stopped before")?;
        Ok(Observed {
            seen: reading.join().map_err(panicked)?,
            snapshots: snapshots.join().map_err(panicked)?,
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
        // A reader that silently skipped records would see no violation in them.
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .create()
        .context("creating the observer's consumer")?;
    let mut from = TopicPartitionList::new();
    for topic in topics {
        for partition in 0..partitions {
            // From the beginning and without a group: the reader commits nothing and takes part in no
            // rebalance.
            from.add_partition_offset(topic, partition, At::Beginning)?;
        }
    }
    consumer.assign(&from).context("following the topics")?;
    Ok(consumer)
}

/// Follows the topics until it is stopped.
// An error does not end it: brokers are killed all the time, and only what was seen is compared.
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
            let position = (Partition(record.partition()), Offset(record.offset()));
            seen.records.insert(position, fingerprint(record.key()));
        }
    }
    seen.into_values().collect()
}

/// Source of snapshots: the group and the topics that one transaction writes.
struct Positions {
    kafka: String,
    group: String,
    orders: String,
    topics: [String; 3],
}

impl Positions {
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

    fn take_snapshots(&self, stop: &AtomicBool) -> Vec<Snapshot> {
        let mut snapshots = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            // While a broker does not answer there is no snapshot to compare.
            snapshots.extend(self.snapshot().ok());
            std::thread::sleep(SNAPSHOT_INTERVAL);
        }
        snapshots
    }

    /// Returns the offsets of all topics and the committed offsets.
    // The order matters: what was readable first must be committed, and what is committed must be written.
    // Another order would report violations that are only transactions between two of these reads.
    fn snapshot(&self) -> Result<Snapshot> {
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
