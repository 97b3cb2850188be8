//! Loading of committed offsets, call notes and log bounds from Kafka, off the loop.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kafka::offsets::log_check::LogCheck;
use kafka::{ClientError, Consumer};
use pipeline::delivery::{Assignment, LoadedNotes};
use records::{Offset, Partition, TopicId};
use service::failpoint::guard_removed;

use crate::config::Config;
use crate::effects::Shell;
use crate::effects::completion::Completion;

/// Timeout of one request for committed offsets or log bounds. Offsets are withheld while a transaction is
/// pending on them; the retry after a timeout ends a transaction that an earlier run of this instance has
/// left open.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for which a log end below the committed offset is read again: a new leader may lag for a moment.
const LOG_END_WAIT: Duration = Duration::from_secs(10);

/// Interval between two reads of such a log end.
const LOG_END_RETRY: Duration = Duration::from_millis(200);

impl Shell {
    /// Loads offsets, notes and log bounds of partitions after a delay.
    pub(crate) fn load_after(&self, assignment: Assignment, partitions: Vec<Partition>, delay: Duration) {
        if partitions.is_empty() {
            return;
        }
        let (consumer, completions) = (Arc::clone(&self.consumer), self.completions.clone());
        let (log_check, topic) = (Arc::clone(&self.log_check), self.config.topics.pending.clone());
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let loading = tokio::task::spawn_blocking({
                let partitions = partitions.clone();
                move || load(&consumer, &log_check, &topic, &partitions)
            });
            match loading.await {
                Ok(Ok(loaded)) => {
                    for (partition, loaded) in loaded {
                        completions.send(Completion::NotesLoaded {
                            assignment,
                            partition,
                            loaded,
                        });
                    }
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, "call notes not loaded, retrying"),
                // A panic, which is a defect. The partitions must not wait for it for ever.
                Err(error) => tracing::error!(%error, "call notes not loaded, retrying"),
            }
            completions.send(Completion::NotesNotLoaded {
                assignment,
                partitions,
            });
        });
    }
}

/// Opens the client that checks the outbox's log, and has it connect while the group is being joined.
///
/// # Errors
/// librdkafka refused a setting.
pub(super) fn open_log_check(config: &Config) -> Result<Arc<Mutex<LogCheck>>, ClientError> {
    let log_check = Arc::new(Mutex::new(LogCheck::open(&config.kafka)?));
    let (warmed, topic) = (Arc::clone(&log_check), config.topics.pending.clone());
    drop(tokio::task::spawn_blocking(move || {
        let log_check = warmed.lock().unwrap_or_else(PoisonError::into_inner);
        log_check.warm_up(&topic, Partition(0), REQUEST_TIMEOUT);
    }));
    Ok(log_check)
}

/// Reads the committed offsets and notes of partitions, and the bounds of their logs. Blocks.
fn load(
    consumer: &Consumer,
    log_check: &Mutex<LogCheck>,
    topic: &str,
    partitions: &[Partition],
) -> Result<Vec<(Partition, LoadedNotes)>, ClientError> {
    let started = Instant::now();
    // Offsets before bounds: the log end read afterwards cannot be below an offset that is valid.
    let committed = consumer.committed(partitions, REQUEST_TIMEOUT)?;
    // As the consumer has it, which reports a change before it returns a record of the new topic. Another
    // client could see the id of a topic that this one does not read yet, or reads no more.
    let topic_id = consumer.topic_id().and_then(|id| TopicId::new(&id));
    // A test removes the guard: a caller then goes on at an offset of the old outbox.
    let outbox = topic_id.filter(|_| !guard_removed!("guard-outbox-id"));
    let mut all = Vec::with_capacity(committed.len());
    for committed in committed {
        let bounds = loop {
            let bounds = consumer.bounds(committed.partition, REQUEST_TIMEOUT)?;
            // An offset above the log end halts the partition, so a lagging leader must not be taken at its
            // word.
            let is_ahead = committed.offset.is_some_and(|offset| offset > bounds.end);
            if !is_ahead || started.elapsed() > LOG_END_WAIT {
                break bounds;
            }
            std::thread::sleep(LOG_END_RETRY);
        };
        let epoch_end = match (committed.offset, committed.leader_epoch) {
            // An offset outside of the log halts the partition in any case.
            (Some(offset), Some(epoch)) if (bounds.start..=bounds.end).contains(&offset) => {
                let log_check = log_check.lock().unwrap_or_else(PoisonError::into_inner);
                let log = (topic, committed.partition);
                Some(log_check.epoch_end(log, bounds.start, (offset, epoch), REQUEST_TIMEOUT)?)
            }
            _ => None,
        };
        // A test removes the guard: an outbox then looks empty to a group without offsets.
        let looks_empty = committed.offset.is_none() && guard_removed!("guard-lost-offsets");
        let loaded = LoadedNotes {
            committed: committed.offset,
            metadata: committed.metadata,
            epoch_end,
            outbox: outbox.clone(),
            log_start: bounds.start,
            log_end: if looks_empty { Offset(0) } else { bounds.end },
        };
        all.push((committed.partition, loaded));
    }
    Ok(all)
}
