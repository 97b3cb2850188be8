//! Following topics while they grow: how many distinct keys lie in each, under read_committed.

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

/// What was seen in one topic so far.
#[derive(Clone, Debug, Default)]
pub struct TopicCounts {
    /// Committed records.
    pub records: u64,
    /// Their distinct keys.
    pub keys: HashSet<Vec<u8>>,
    /// The producer's times of the first and the last record, in milliseconds since 1970.
    pub times_ms: Option<(i64, i64)>,
}

/// Follows topics until it is dropped.
pub struct Tail {
    seen: Arc<Mutex<HashMap<String, TopicCounts>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tail {
    /// Begins at the beginning of each of the topics, which must exist.
    ///
    /// # Errors
    /// Kafka does not know the topics.
    pub fn start(kafka: &str, topics: &[&str]) -> Result<Self> {
        let consumer = reader(kafka, "read_committed")?;
        let mut from = TopicPartitionList::new();
        for topic in topics {
            for (partition, _) in high_watermarks(kafka, topic)? {
                from.add_partition_offset(topic, partition.0, Offset::Beginning)?;
            }
        }
        consumer.assign(&from).context("following the topics")?;
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            move || follow(&consumer, &seen, &stop)
        });
        Ok(Self {
            seen,
            stop,
            thread: Some(thread),
        })
    }

    /// How many distinct keys a topic has.
    #[must_use]
    pub fn keys(&self, topic: &str) -> u64 {
        self.lock().get(topic).map_or(0, |seen| seen.keys.len() as u64)
    }

    /// How many committed records a topic has.
    #[must_use]
    pub fn records(&self, topic: &str) -> u64 {
        self.lock().get(topic).map_or(0, |seen| seen.records)
    }

    /// When the first and the last record of a topic were written, in milliseconds since 1970.
    #[must_use]
    pub fn times_ms(&self, topic: &str) -> Option<(i64, i64)> {
        self.lock().get(topic).and_then(|seen| seen.times_ms)
    }

    /// How many distinct keys several topics have together.
    #[must_use]
    pub fn keys_of_all(&self, topics: &[&str]) -> u64 {
        let all = self.lock();
        let keys: HashSet<&Vec<u8>> = topics
            .iter()
            .filter_map(|topic| all.get(*topic))
            .flat_map(|seen| &seen.keys)
            .collect();
        keys.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, TopicCounts>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// An error (the broker restarts) is no end: who waits on the counts has a limit of its own.
fn follow(consumer: &BaseConsumer, seen: &Mutex<HashMap<String, TopicCounts>>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else {
            continue;
        };
        let time = message.timestamp().to_millis().unwrap_or(0);
        let mut all = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = all.entry(message.topic().to_owned()).or_default();
        topic.records += 1;
        topic.keys.insert(message.key().unwrap_or_default().to_vec());
        topic.times_ms = match topic.times_ms {
            None => Some((time, time)),
            Some((first, last)) => Some((first.min(time), last.max(time))),
        };
    }
}
