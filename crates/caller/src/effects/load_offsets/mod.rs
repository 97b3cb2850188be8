//! Loading of committed offsets, call notes and log bounds from Kafka, off the loop. A partition that cannot be loaded,
//! for want of a leader for example, holds up no other.

pub(crate) mod assigned;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kafka::offsets::Committed;
use kafka::offsets::log_check::LogCheck;
use kafka::{ClientError, Consumer};
use pipeline::delivery::{Assignment, LoadedNotes};
use records::{Offset, Partition, TopicId};
use service::failpoint::guard_removed;

use crate::config::Config;
use crate::effects::completion::Completion;
use crate::effects::{Shell, numbers};

/// Timeout of one request for committed offsets or log bounds. Offsets are withheld while a transaction is
/// pending on them; the retry after a timeout ends a transaction that an earlier run of this instance has
/// left open.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for which a log end below the committed offset is read again: a new leader may lag for a moment.
const LOG_END_WAIT: Duration = Duration::from_secs(10);

/// Interval between two reads of such a log end.
const LOG_END_RETRY: Duration = Duration::from_millis(200);

/// Maximum number of partitions that are loaded at a time.
// Each takes a thread, and each without a leader takes it for the whole timeout. Fewer than the runtime's blocking threads
// by far, which commits need, too.
const THREADS_MAX: usize = 32;

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
                let (partitions, completions) = (partitions.clone(), completions.clone());
                move || {
                    load(&consumer, &log_check, &topic, &partitions, |partition, loaded| {
                        completions.send(Completion::NotesLoaded {
                            assignment,
                            partition,
                            loaded,
                        });
                    })
                }
            });
            let failed: Vec<(Partition, String)> = match loading.await {
                Ok(failed) => failed
                    .into_iter()
                    .map(|(partition, error)| (partition, error.to_string()))
                    .collect(),
                // A panic, which is a defect. The partitions must not wait for it for ever.
                Err(error) => partitions
                    .into_iter()
                    .map(|partition| (partition, error.to_string()))
                    .collect(),
            };
            // All in one: they are loaded again together, by one request for their offsets.
            if !failed.is_empty() {
                completions.send(Completion::NotesNotLoaded { assignment, failed });
            }
        });
    }

    /// Loads partitions again that could not be loaded, after a delay, and reports them by readiness.
    pub(crate) fn load_again(
        &mut self,
        assignment: Assignment,
        failed: Vec<(Partition, String)>,
        delay: Duration,
    ) {
        let topic = &self.config.topics.pending;
        let mut partitions = Vec::with_capacity(failed.len());
        for (partition, error) in failed {
            let reason = format!("{topic}/{partition} is not read, its offsets are loaded again: {error}");
            self.assigned.not_loaded(partition, reason);
            // One line for all of them: they mostly have one cause, and readiness names each.
            if partitions.is_empty() {
                tracing::warn!(topic, %partition, %error, "call notes not loaded, retrying");
            }
            partitions.push(partition);
        }
        if partitions.len() > 1 {
            tracing::warn!(topic, partitions = ?numbers(&partitions), "call notes not loaded, retrying");
        }
        self.update_readiness();
        self.load_after(assignment, partitions, delay);
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

/// Reads the committed offsets and notes of partitions, and the bounds of their logs, and passes each partition on as soon
/// as it is loaded. Returns those that could not be loaded. Blocks.
fn load(
    consumer: &Consumer,
    log_check: &Mutex<LogCheck>,
    topic: &str,
    partitions: &[Partition],
    on_loaded: impl Fn(Partition, LoadedNotes) + Sync,
) -> Vec<(Partition, ClientError)> {
    // Offsets before bounds: the log end read afterwards cannot be below an offset that is valid.
    let wanted: Vec<(Partition, Option<Committed>)> = match consumer.committed(partitions, REQUEST_TIMEOUT) {
        Ok(committed) => committed
            .into_iter()
            .map(|committed| (committed.partition, Some(committed)))
            .collect(),
        Err(error) => match partitions {
            [partition] => return vec![(*partition, error)],
            // They are withheld while a transaction is pending on one of them. So each is asked for alone.
            _ => partitions.iter().map(|partition| (*partition, None)).collect(),
        },
    };
    load_each(
        wanted,
        |partition, committed| {
            let committed = match committed {
                Some(committed) => committed,
                None => committed_of(consumer, partition)?,
            };
            load_one(consumer, log_check, topic, committed)
        },
        on_loaded,
    )
}

/// Loads each partition, several at a time, and passes it on at once. Returns those that failed. Blocks until the last one
/// is done.
fn load_each<C: Send, E: Send>(
    wanted: Vec<(Partition, C)>,
    load: impl Fn(Partition, C) -> Result<LoadedNotes, E> + Sync,
    on_loaded: impl Fn(Partition, LoadedNotes) + Sync,
) -> Vec<(Partition, E)> {
    let others = wanted.len().min(THREADS_MAX).saturating_sub(1);
    let (wanted, failed) = (Mutex::new(wanted.into_iter()), Mutex::new(Vec::new()));
    let load_some = || {
        // Locked for the step alone, not while a partition is being loaded.
        let next = || wanted.lock().unwrap_or_else(PoisonError::into_inner).next();
        while let Some((partition, committed)) = next() {
            match load(partition, committed) {
                Ok(loaded) => on_loaded(partition, loaded),
                Err(error) => {
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.push((partition, error));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..others {
            // With fewer threads it takes longer; this one is left in any case.
            let started = std::thread::Builder::new()
                .name("load".into())
                .spawn_scoped(scope, load_some);
            if started.is_err() {
                break;
            }
        }
        load_some();
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn committed_of(consumer: &Consumer, partition: Partition) -> Result<Committed, ClientError> {
    let committed = consumer.committed(&[partition], REQUEST_TIMEOUT)?;
    // The response is about the partitions that were asked for.
    let missing =
        || ClientError::unavailable(format!("reading the committed offset of partition {partition}"));
    committed.into_iter().next().ok_or_else(missing)
}

/// Reads the bounds of a partition, and checks its log up to the committed offset.
fn load_one(
    consumer: &Consumer,
    log_check: &Mutex<LogCheck>,
    topic: &str,
    committed: Committed,
) -> Result<LoadedNotes, ClientError> {
    let started = Instant::now();
    // As the consumer has it, which reports a change before it returns a record of the new topic. Another
    // client could see the id of a topic that this one does not read yet, or reads no more.
    let topic_id = consumer.topic_id().and_then(|id| TopicId::new(&id));
    // A test removes the guard: a caller then goes on at an offset of the old outbox.
    let outbox = topic_id.filter(|_| !guard_removed!("guard-outbox-id"));
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
    Ok(LoadedNotes {
        committed: committed.offset,
        metadata: committed.metadata,
        epoch_end,
        outbox,
        log_start: bounds.start,
        log_end: if looks_empty { Offset(0) } else { bounds.end },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use kafka::KafkaSettings;
    use rdkafka::mocking::MockCluster;

    use super::*;

    fn notes(log_end: i64) -> LoadedNotes {
        LoadedNotes {
            committed: None,
            metadata: String::new(),
            epoch_end: None,
            outbox: None,
            log_start: Offset(0),
            log_end: Offset(log_end),
        }
    }

    /// The last partition is loaded while the requests of all others are still without an answer.
    #[test]
    fn partitions_without_leader_delay_no_other() {
        let healthy = Partition(31);
        let wanted = (0..=healthy.0).map(|number| (Partition(number), ())).collect();
        let deadline = Instant::now() + Duration::from_secs(60);
        let (is_loaded, loaded) = mpsc::channel();
        let loaded = Mutex::new(loaded);
        let failed = load_each(
            wanted,
            |partition, ()| {
                if partition == healthy {
                    return Ok(notes(7));
                }
                // One after the other they see it; the channel stays closed for all after the first.
                let loaded = loaded.lock().map_err(|_| "poisoned")?;
                match loaded.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                    Ok(at) if at == healthy => Err("no leader"),
                    Ok(_) | Err(mpsc::RecvTimeoutError::Timeout) => Err("the healthy partition waits"),
                    Err(mpsc::RecvTimeoutError::Disconnected) => Err("no leader"),
                }
            },
            {
                let is_loaded = Mutex::new(Some(is_loaded));
                move |partition, loaded| {
                    assert_eq!(loaded, notes(7));
                    let sender = is_loaded.lock().expect("one partition is loaded").take();
                    sender.expect("once").send(partition).expect("it is waited for");
                }
            },
        );
        let mut of: Vec<i32> = failed.iter().map(|(partition, _)| partition.0).collect();
        of.sort_unstable();
        assert_eq!(of, (0..healthy.0).collect::<Vec<_>>());
        assert!(failed.iter().all(|(_, why)| *why == "no leader"), "{failed:?}");
    }

    #[test]
    fn partition_without_leader_fails_alone() {
        const TOPIC: &str = "outbox";
        let brokers = MockCluster::new(1).expect("a mock");
        brokers.create_topic(TOPIC, 3, 1).expect("a topic");
        brokers.partition_leader(TOPIC, 1, None).expect("no leader");
        let settings = KafkaSettings {
            bootstrap_servers: brokers.bootstrap_servers(),
            group_id: "group".into(),
            properties: [].into(),
        };
        let membership = Config::default().membership();
        let consumer = Consumer::join(&settings, &membership, TOPIC).expect("a consumer");
        let log_check = Mutex::new(LogCheck::open(&settings).expect("a client"));
        let load = |partitions: &[i32]| {
            let partitions: Vec<Partition> = partitions.iter().copied().map(Partition).collect();
            let loaded = Mutex::new(Vec::new());
            let failed = load(&consumer, &log_check, TOPIC, &partitions, |partition, notes| {
                let mut loaded = loaded.lock().expect("no panic");
                loaded.push((partition.0, notes.log_end));
            });
            let mut loaded = loaded.into_inner().expect("no panic");
            loaded.sort_unstable();
            let failed = failed
                .into_iter()
                .map(|(partition, error)| (partition.0, error.to_string()));
            (loaded, failed.collect::<Vec<_>>())
        };
        let (loaded, failed) = load(&[0, 1, 2]);
        assert_eq!(loaded, [(0, Offset(0)), (2, Offset(0))]);
        assert!(
            matches!(&failed[..], [(1, error)] if error.contains("the bounds of outbox/1")),
            "{failed:?}"
        );
        brokers.partition_leader(TOPIC, 1, Some(1)).expect("a leader");
        // librdkafka asks for the leader now and then, so that it may take more than one attempt.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let (loaded, failed) = load(&[1]);
            if loaded == [(1, Offset(0))] {
                break;
            }
            assert!(Instant::now() < deadline, "{loaded:?}, {failed:?}");
        }
    }
}
