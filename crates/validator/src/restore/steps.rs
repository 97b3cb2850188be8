//! The steps of one restore.
//!
//! The order of the steps carries G1 and G3; in any other there is a story in which an order is admitted twice:
//! 1. the group's committed offset, once no transaction is pending on it;
//! 2. only then the changelog's high watermark, seen by a read_uncommitted client;
//! 3. the changelog, read committed, until the position has reached that watermark.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use kafka::changelog::{ChangelogReader, Interrupted};
use kafka::fault::Class;
use kafka::offsets::{Bounds, Committed};
use records::{Entry, Offset, Partition};
use service::failpoint::{guard_removed, kill_at};
use store::{Change, Identity, Options, Store};

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
        let committed = reader.input_committed(&self.config.topics.orders, partition, ANSWER_MAX)?;
        let changelog = reader.bounds(partition, ANSWER_MAX)?;
        let target = if guard_removed!("guard-high-watermark") {
            reader.stable_bounds(partition, ANSWER_MAX)?.end
        } else {
            changelog.end
        };
        let next = self.input_position(reader, &committed, changelog)?;
        let opened = match store {
            Some(store) => store,
            None => store.insert(Box::new(self.open(partition)?)),
        };
        self.check_changelog(reader, partition, opened.checkpoint(), changelog)?;
        match self.read(reader, partition, opened, target, cancelled) {
            Err(error) if error.is::<store::StoreError>() => {
                *store = None;
                self.discard(partition)?;
                Err(error)
            }
            Ok(true) => Ok(Some(next)),
            Ok(false) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The input offset to go on at.
    fn input_position(
        &self,
        reader: &ChangelogReader,
        committed: &Committed,
        changelog: Bounds,
    ) -> anyhow::Result<Offset> {
        let (topic, group) = (&self.config.topics.orders, &self.config.kafka.group_id);
        let partition = committed.partition;
        let Bounds { start, end } = reader.bounds_of(topic, partition, ANSWER_MAX)?;
        match committed.offset {
            // What was processed before is known from the changelog, so beginning again repeats nothing.
            None if start == Offset(0) => Ok(start),
            None if changelog.end == Offset(0) => {
                tracing::warn!(
                    %partition, %start, group,
                    "the topic's oldest orders were deleted before this group began; starting with the oldest there is",
                );
                Ok(start)
            }
            None => Err(refused(format!(
                "group {group:?} has lost its committed offset of {topic}/{partition} (it expires after a week \
                 without a member), and the oldest orders, below {start}, are deleted: some may never have been \
                 processed; compare them with the outbox, then set the offset of the group while no validator runs"
            ))),
            Some(next) if next < start => Err(refused(format!(
                "orders {next} to {start} of {topic}/{partition} were deleted before they were processed (the \
                 topic's retention is too short, or its records were deleted); find these orders at their \
                 source, then set the offset of group {group:?} to {start} while no validator runs"
            ))),
            Some(next) if next > end => Err(refused(format!(
                "the committed offset {next} of {topic}/{partition} is behind the partition's end {end}: the topic \
                 was deleted and created again, or its log was cut; compare it with the outbox, then set the \
                 offset of group {group:?} while no validator runs"
            ))),
            Some(next) => Ok(next),
        }
    }

    /// A changelog that has lost keys is not restored from: the orders of these keys could be paid twice.
    fn check_changelog(
        &self,
        reader: &ChangelogReader,
        partition: Partition,
        checkpoint: Option<Offset>,
        bounds: Bounds,
    ) -> anyhow::Result<()> {
        let (changelog, pending) = (&self.config.topics.changelog, &self.config.topics.pending);
        let from = checkpoint.unwrap_or(Offset(0));
        if from < bounds.start {
            return Err(refused(format!(
                "the changelog {changelog}/{partition} begins at {}, and the store needs it from {from}: keys that \
                 were deleted from it are unknown, and their orders would be paid twice; rebuild the changelog \
                 from the outbox before this partition goes on",
                bounds.start
            )));
        }
        if from > bounds.end {
            return Err(refused(format!(
                "the store knows the changelog {changelog}/{partition} up to {from}, and it ends at {}: the topic was \
                 deleted and created again, or has lost its end, or the store is another cluster's. The store \
                 is kept, as it may hold the last copy of these keys. If it is another cluster's, remove {}; \
                 otherwise rebuild the changelog before this partition goes on",
                bounds.end,
                self.directory.store(partition).display()
            )));
        }
        if bounds.end == Offset(0) {
            // Each order of the outbox has its key in the changelog, by the same transaction.
            let outbox = reader.bounds_of(pending, partition, ANSWER_MAX)?;
            if reader.has_committed(pending, partition, outbox)? {
                return Err(refused(format!(
                    "the changelog {changelog}/{partition} is empty, and the outbox {pending}/{partition} is not: the \
                     changelog was deleted and created again, and the keys of these orders are unknown; rebuild \
                     it from the outbox before this partition goes on"
                )));
            }
        }
        Ok(())
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
        partition: Partition,
        store: &mut Store,
        end: Offset,
        cancelled: &AtomicBool,
    ) -> anyhow::Result<bool> {
        let from = store.checkpoint().unwrap_or(Offset(0));
        let mut chunk: Vec<(Vec<u8>, Option<Vec<u8>>)> = Vec::new();
        let mut records = 0;
        let outcome = reader.read(
            partition,
            from,
            end,
            || cancelled.load(Ordering::Acquire),
            |change| {
                if let Some(value) = change.value {
                    Entry::decode(value).map_err(|error| {
                        refused(format!(
                            "the record {}/{partition}@{} cannot be read: {error}; is a later version of the \
                         validator running, or does something else write to the changelog?",
                            self.config.topics.changelog, change.offset
                        ))
                    })?;
                }
                chunk.push((change.key.to_vec(), change.value.map(<[u8]>::to_vec)));
                records += 1;
                if chunk.len() >= CHUNK {
                    kill_at!("during-restore");
                    apply(store, &mut chunk, change.offset.next())?;
                    store.persist()?;
                }
                Ok::<(), anyhow::Error>(())
            },
        );
        self.metrics.restore_records.inc_by(records);
        match outcome {
            Ok(()) => {}
            Err(Interrupted::Cancelled) => return Ok(false),
            Err(Interrupted::Fault(fault)) if fault.class == Class::Refused => {
                return Err(refused(format!(
                    "{fault}; the changelog was cut while it was read"
                )));
            }
            Err(Interrupted::Fault(fault)) => return Err(fault.into()),
            Err(Interrupted::Sink(error)) => return Err(error),
        }
        kill_at!("during-restore");
        if from < end {
            apply(store, &mut chunk, end)?;
            store.persist()?;
        }
        Ok(true)
    }
}

fn apply(
    store: &mut Store,
    chunk: &mut Vec<(Vec<u8>, Option<Vec<u8>>)>,
    checkpoint: Offset,
) -> anyhow::Result<()> {
    let mut changes: Vec<Change<'_>> = chunk
        .iter()
        .map(|(key, entry)| Change {
            key,
            entry: entry.as_deref(),
        })
        .collect();
    store.apply(&mut changes, checkpoint)?;
    chunk.clear();
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
/// As many records as a store takes in one transaction: a few MB in memory.
const CHUNK: usize = 10_000;
