//! Follows topics while they grow, under read_committed, and counts records and distinct keys.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::read_back::topics::{high_watermarks, reader};

/// Counts of one topic so far.
#[derive(Clone, Debug, Default)]
pub struct TopicCounts {
    /// Number of committed records.
    pub records: u64,
    /// Distinct keys of the records.
    pub keys: HashSet<Vec<u8>>,
    /// Earliest and latest timestamp set by a producer, in milliseconds since 1970.
    pub times_ms: Option<(i64, i64)>,
}

/// A background reader of several topics; dropping it stops the reader.
pub struct Tail {
    counts: Arc<Mutex<HashMap<String, TopicCounts>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tail {
    /// Starts to read these topics from their beginnings.
    ///
    /// # Errors
    /// A topic does not exist, or Kafka does not answer.
    pub fn start(kafka: &str, topics: &[&str]) -> Result<Self> {
        // Aborted records must not count as progress.
        let consumer = reader(kafka, "read_committed")?;
        let mut from = TopicPartitionList::new();
        for topic in topics {
            for (partition, _) in high_watermarks(kafka, topic)? {
                from.add_partition_offset(topic, partition.0, Offset::Beginning)?;
            }
        }
        consumer.assign(&from).context("following the topics")?;
        let counts = Arc::new(Mutex::new(HashMap::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
            move || follow(&consumer, &counts, &stop)
        });
        Ok(Self {
            counts,
            stop,
            thread: Some(thread),
        })
    }

    /// Number of distinct keys in a topic.
    #[must_use]
    pub fn keys(&self, topic: &str) -> u64 {
        self.lock()
            .get(topic)
            .map_or(0, |counts| counts.keys.len() as u64)
    }

    /// Number of committed records in a topic.
    #[must_use]
    pub fn records(&self, topic: &str) -> u64 {
        self.lock().get(topic).map_or(0, |counts| counts.records)
    }

    /// Earliest and latest timestamp of a topic, in milliseconds since 1970.
    #[must_use]
    pub fn times_ms(&self, topic: &str) -> Option<(i64, i64)> {
        self.lock().get(topic).and_then(|counts| counts.times_ms)
    }

    /// Number of distinct keys in the union of several topics.
    #[must_use]
    pub fn keys_of_all(&self, topics: &[&str]) -> u64 {
        let all = self.lock();
        // A union, because a call may be parked and accepted when its caller was interrupted.
        let keys: HashSet<&Vec<u8>> = topics
            .iter()
            .filter_map(|topic| all.get(*topic))
            .flat_map(|counts| &counts.keys)
            .collect();
        keys.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, TopicCounts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed, and a drop must not panic again.
            let _ended = thread.join();
        }
    }
}

fn follow(consumer: &BaseConsumer, counts: &Mutex<HashMap<String, TopicCounts>>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        // Errors are skipped, as while a broker restarts: whoever waits for the counts has a timeout.
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else {
            continue;
        };
        let time = message.timestamp().to_millis().unwrap_or(0);
        let mut all = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = all.entry(message.topic().to_owned()).or_default();
        topic.records += 1;
        topic.keys.insert(message.key().unwrap_or_default().to_vec());
        topic.times_ms = match topic.times_ms {
            // Minimum and maximum: timestamps of several producers are not in offset order.
            None => Some((time, time)),
            Some((first, last)) => Some((first.min(time), last.max(time))),
        };
    }
}
