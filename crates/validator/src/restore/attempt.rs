//! One try of a restore: what it asks is asked of Kafka and the store. The order of the questions and what
//! the answers mean is decided in [`pipeline::admission::restore`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use kafka::ClientError;
use kafka::changelog::{ChangelogReader, ReadError};
use kafka::error::ErrorClass;
use pipeline::admission::restore::{Answer, Chunk, Names, Question, Restore, Step, Tail};
use records::{Bounds, Offset, Partition, Timestamp};
use service::failpoint::{guard_removed, kill_at};
use store::{Change, DirectoryError, Identity, Options, Store};

use super::Plan;

impl Plan {
    /// One try. `None` if it was cancelled.
    pub(super) fn attempt(
        &self,
        reader: &ChangelogReader,
        partition: Partition,
        store: &mut Option<Box<Store>>,
        cancelled: &AtomicBool,
    ) -> anyhow::Result<Option<Offset>> {
        self.check_ids()?;
        let names = self.names(partition);
        let mut restore = Restore::of(&names);
        let mut question = Question::Committed;
        let mut is_new_group = false;
        let mut orders = None;
        loop {
            let asked = Instant::now();
            let Some(answer) = self.ask(reader, &names, question, store, cancelled)? else {
                return Ok(None);
            };
            tracing::debug!(%partition, ?question, ?answer, ms = asked.elapsed().as_millis(), "restoring");
            is_new_group |= answer == Answer::Committed(None);
            if let Answer::OrdersBounds(bounds) = answer {
                orders = Some(bounds);
            }
            match restore.on(answer) {
                Step::Ask(next) => question = next,
                Step::Ready(start) => {
                    if is_new_group && start > Offset(0) {
                        tracing::warn!(
                            %partition, %start, group = names.group_id,
                            "the topic's oldest orders were deleted before this group began; starting with the oldest \
                             there is",
                        );
                    }
                    return Ok(Some(start));
                }
                Step::Refused(reason) => {
                    // The answer to the last question is why.
                    return Err(match orders.filter(|_| question == Question::OrdersBounds) {
                        Some(orders) => refused(format!("{reason}. {}", times(reader, &names, orders))),
                        None => refused(reason),
                    });
                }
            }
        }
    }

    /// That the topics are those of which the state directory holds the state. It was asked at the start; topics
    /// may have been deleted and created again since.
    fn check_ids(&self) -> anyhow::Result<()> {
        let names: Vec<&str> = self.topic_ids.keys().map(String::as_str).collect();
        if names.is_empty() || guard_removed!("guard-topic-ids") {
            return Ok(());
        }
        let found = self.admin.topic_ids(&names, ANSWER_MAX)?;
        match self.directory.claim_ids(&found) {
            Err(error @ DirectoryError::Recreated { .. }) => Err(refused(error.to_string())),
            other => Ok(other?),
        }
    }

    fn names(&self, partition: Partition) -> Names {
        Names {
            topics: self.config.topics.clone(),
            group_id: self.config.kafka.group_id.clone(),
            partition,
            store: self.directory.store(partition).display().to_string(),
        }
    }

    /// Asks a question. `None` if the restore was cancelled meanwhile.
    fn ask(
        &self,
        reader: &ChangelogReader,
        names: &Names,
        question: Question,
        store: &mut Option<Box<Store>>,
        cancelled: &AtomicBool,
    ) -> anyhow::Result<Option<Answer>> {
        let (topics, partition) = (&names.topics, names.partition);
        Ok(Some(match question {
            Question::Committed => {
                let committed = reader.input_committed(&topics.orders, partition, ANSWER_MAX)?;
                Answer::Committed(committed.offset)
            }
            Question::ChangelogBounds => Answer::ChangelogBounds(reader.bounds(partition, ANSWER_MAX)?),
            Question::OrdersBounds => {
                Answer::OrdersBounds(reader.bounds_of(&topics.orders, partition, ANSWER_MAX)?)
            }
            Question::Checkpoint => {
                let store = match store {
                    Some(store) => store,
                    None => store.insert(Box::new(self.open(partition)?)),
                };
                Answer::Checkpoint(store.checkpoint())
            }
            Question::OutboxIsEmpty => {
                let outbox = reader.bounds_of(&topics.pending, partition, ANSWER_MAX)?;
                Answer::OutboxIsEmpty(!reader.has_committed(&topics.pending, partition, outbox)?)
            }
            Question::Read(from, to) => {
                let to = target(reader, partition, to)?;
                let opened = store
                    .as_deref_mut()
                    .context("the store was not opened before the changelog was read")?;
                match self.read(reader, names, opened, (from, to), cancelled) {
                    Ok(true) => Answer::Read,
                    Ok(false) => return Ok(None),
                    Err(error) => {
                        if error.is::<store::StoreError>() {
                            *store = None;
                            self.discard(partition)?;
                        }
                        return Err(error);
                    }
                }
            }
        }))
    }

    fn open(&self, partition: Partition) -> anyhow::Result<Store> {
        let path = self.directory.store(partition);
        let identity = Identity {
            changelog: self.config.topics.changelog.clone(),
            partition,
            partitions: self.partitions,
        };
        let cache = usize::try_from(self.config.store.cache.as_u64()).unwrap_or(usize::MAX);
        let options = Options {
            cache_bytes: cache / self.partitions.max(1),
            verify: self.config.store.verify,
        };
        let opened = Store::open(&path, &identity, options)?;
        if let Some(why) = opened.rebuilt_because {
            self.metrics.stores_rebuilt.inc();
            tracing::warn!(%partition, path = %path.display(), why, "the store is not trusted and is rebuilt");
        }
        Ok(opened.store)
    }

    fn discard(&self, partition: Partition) -> anyhow::Result<()> {
        let path = self.directory.store(partition);
        self.metrics.stores_rebuilt.inc();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing the store {} failed", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Reads the changelog into the store. `false` if it was cancelled.
    fn read(
        &self,
        reader: &ChangelogReader,
        names: &Names,
        store: &mut Store,
        (from, to): (Offset, Offset),
        cancelled: &AtomicBool,
    ) -> anyhow::Result<bool> {
        let mut tail = Tail::new(from, to, CHUNK);
        let mut records = 0;
        let outcome = reader.read(
            names.partition,
            from,
            to,
            || cancelled.load(Ordering::Acquire),
            |change| {
                records += 1;
                let full = tail
                    .take(change.key, change.value, change.offset)
                    .map_err(|error| {
                        refused(format!(
                            "the record {}/{}@{} cannot be read: {error}; is a later version of the \
                             validator running, or does something else write to the changelog?",
                            names.topics.changelog, names.partition, change.offset
                        ))
                    })?;
                full.map_or(Ok(()), |chunk| {
                    write(store, &chunk)?;
                    Ok(store.persist()?)
                })
            },
        );
        self.metrics.restore_records.inc_by(records);
        match outcome {
            Ok(()) => {}
            Err(ReadError::Cancelled) => return Ok(false),
            Err(ReadError::ClientError(fault)) if fault.class == ErrorClass::Permanent => {
                return Err(refused(format!(
                    "{fault}; the changelog was cut while it was read"
                )));
            }
            Err(ReadError::ClientError(fault)) => return Err(fault.into()),
            Err(ReadError::Sink(error)) => return Err(error),
        }
        // Made durable with what comes after it: after a crash the disk may be a second behind, and orders wait.
        tail.end().map_or(Ok(()), |chunk| write(store, &chunk))?;
        Ok(true)
    }
}

/// Where the reading ends: at the changelog's high watermark, unless a test takes that guard out.
fn target(reader: &ChangelogReader, partition: Partition, high_watermark: Offset) -> anyhow::Result<Offset> {
    if guard_removed!("guard-high-watermark") {
        return Ok(reader.stable_bounds(partition, ANSWER_MAX)?.end);
    }
    Ok(high_watermark)
}

/// From when to when orders may be missing, as far as the topics tell.
fn times(reader: &ChangelogReader, names: &Names, orders: Bounds) -> String {
    let Names {
        topics, partition, ..
    } = names;
    let before = reader
        .bounds(*partition, ANSWER_MAX)
        .and_then(|Bounds { start, end }| {
            let start = start.max(Offset(end.0 - LOOK_BACK));
            reader.last_at(&topics.changelog, *partition, Bounds { start, end })
        });
    let after = reader.first_at(&topics.orders, *partition, orders);
    let text = |at: Result<Option<Timestamp>, ClientError>| match at {
        Ok(Some(Timestamp(ms))) => {
            let since_epoch = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
            humantime::format_rfc3339_millis(UNIX_EPOCH + since_epoch).to_string()
        }
        Ok(None) => "an unknown time".into(),
        Err(fault) => format!("an unknown time ({fault})"),
    };
    format!(
        "The last order that was admitted before is of {}, the first one that there is now of {}",
        text(before),
        text(after)
    )
}

/// Writes a chunk.
fn write(store: &mut Store, chunk: &Chunk) -> anyhow::Result<()> {
    kill_at!("during-restore");
    let mut changes: Vec<Change<'_>> = chunk
        .changes
        .iter()
        .map(|(key, entry)| Change {
            key,
            entry: entry.as_deref(),
        })
        .collect();
    store.apply(&mut changes, chunk.checkpoint)?;
    Ok(())
}

/// A restore that trying again does not help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(pub(super) String);

pub(super) fn refused(reason: String) -> anyhow::Error {
    anyhow!(Refused(reason))
}

/// Longer than a coordinator takes to move; what is not answered by then is asked again.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Behind the last committed record lie markers, and perhaps records that were aborted.
const LOOK_BACK: i64 = 1_000;
/// As many records as a store takes in one transaction: a few MB in memory.
const CHUNK: usize = 10_000;
