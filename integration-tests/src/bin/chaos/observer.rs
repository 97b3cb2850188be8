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
    kafka: String,
    /// Outbox and changelog.
    topics: [String; 2],
    partitions: i32,
    positions: Arc<Positions>,
    paused: Arc<AtomicBool>,
    running: Option<Running>,
    earlier: Observed,
}

/// Threads of the observers.
struct Running {
    stop: Arc<AtomicBool>,
    reading: JoinHandle<Vec<ObservedRecords>>,
    snapshots: JoinHandle<Vec<Snapshot>>,
}

/// Observations of a run.
#[derive(Default)]
pub(crate) struct Observed {
    /// Records of the outbox and of the changelog, as a reader saw them while they were written.
    pub(crate) seen: Vec<ObservedRecords>,
    /// Positions of all topics at the same time, in order.
    pub(crate) snapshots: Vec<Snapshot>,
}

impl Observers {
    pub(crate) fn start(pipeline: &Pipeline) -> Result<Self> {
        let mut observers = Self {
            kafka: pipeline.kafka.clone(),
            topics: [pipeline.topics.pending.clone(), pipeline.topics.changelog.clone()],
            partitions: pipeline.partitions,
            positions: Arc::new(Positions::new(pipeline)),
            paused: Arc::new(AtomicBool::new(false)),
            running: None,
            earlier: Observed::default(),
        };
        observers.follow_again()?;
        Ok(observers)
    }

    /// Starts the observers, at the beginning of the topics.
    pub(crate) fn follow_again(&mut self) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let consumer = reader(&self.kafka, &self.topics, self.partitions)?;
        let reading = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || follow(&consumer, &stop)
        });
        let snapshots = std::thread::spawn({
            let (stop, paused) = (Arc::clone(&stop), Arc::clone(&self.paused));
            let positions = Arc::clone(&self.positions);
            move || positions.take_snapshots(&stop, &paused)
        });
        self.running = Some(Running {
            stop,
            reading,
            snapshots,
        });
        Ok(())
    }

    /// Takes no snapshots until [`Observers::resume_snapshots`].
    pub(crate) fn pause_snapshots(&self) {
        self.paused.store(true, Ordering::SeqCst);
    }

    pub(crate) fn resume_snapshots(&self) {
        self.paused.store(false, Ordering::SeqCst);
    }

    /// Stops the observers and forgets what they have seen of a topic. [`Observers::follow_again`] starts
    /// them again.
    pub(crate) fn forget(&mut self, topic: &str) -> Result<()> {
        self.end()?;
        self.earlier.seen.retain(|seen| seen.topic != topic);
        for snapshot in &mut self.earlier.snapshots {
            snapshot.readable.remove(topic);
            snapshot.ends.remove(topic);
        }
        Ok(())
    }

    /// Stops the observers; returns what they have seen.
    pub(crate) fn stop(mut self) -> Result<Observed> {
        self.end()?;
        Ok(std::mem::take(&mut self.earlier))
    }

    fn end(&mut self) -> Result<()> {
        let running = self.running.take().context("the observers were stopped before")?;
        running.stop.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow!("an observer thread panicked");
        self.earlier
            .seen
            .extend(running.reading.join().map_err(panicked)?);
        let snapshots = running.snapshots.join().map_err(panicked)?;
        self.earlier.snapshots.extend(snapshots);
        Ok(())
    }
}

impl Drop for Observers {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.stop.store(true, Ordering::Relaxed);
        }
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

    fn take_snapshots(&self, stop: &AtomicBool, paused: &AtomicBool) -> Vec<Snapshot> {
        let mut snapshots = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            if !paused.load(Ordering::SeqCst) {
                // While a broker does not answer there is no snapshot to compare.
                let snapshot = self.snapshot().ok();
                // Paused while it was taken: its offsets may not belong together.
                snapshots.extend(snapshot.filter(|_| !paused.load(Ordering::SeqCst)));
            }
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
