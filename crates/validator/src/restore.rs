//! Restores: each partition's store is brought to the end of its changelog, on threads of their own, so
//! that the run loop goes on polling and other partitions go on working.
//!
//! The order of the steps carries G1 and G3 (design of the model, rows M6, M7, M8):
//! 1. the group's committed offset, once no transaction is pending on it;
//! 2. only then the changelog's high watermark, seen by a read_uncommitted client;
//! 3. the changelog, read committed, until the position has reached that watermark.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use crossbeam_channel::{Receiver, Sender};
use kafka::changelog::{ChangelogReader, Interrupted};
use kafka::fault::Class;
use kafka::offsets::Bounds;
use pipeline::admission::Token;
use records::{Entry, Offset, Partition};
use service::failpoint::{guard_removed, kill_at};
use store::{Change, Identity, Store};

use crate::config::Config;
use crate::metrics::Metrics;

/// The restore threads, and the restores that are wanted.
pub(crate) struct Restorers {
    jobs: Vec<Sender<Job>>,
    wanted: HashMap<Partition, Arc<AtomicBool>>,
    results: Receiver<Restored>,
}

/// What a restore has come to.
pub(crate) struct Restored {
    /// The partition.
    pub(crate) partition: Partition,
    /// Which restore of it.
    pub(crate) token: Token,
    /// The store as far as it was opened, and the input offset to go on at or why a person must act first.
    pub(crate) outcome: Outcome,
}

/// How a restore ended.
pub(crate) enum Outcome {
    /// The store equals the changelog; processing may go on at this input offset.
    Ready(Box<Store>, Offset),
    /// Only a person can make it possible again.
    Refused(String),
    /// It was cancelled; the store is closed.
    Cancelled,
}

struct Job {
    partition: Partition,
    token: Token,
    store: Option<Box<Store>>,
    cancelled: Arc<AtomicBool>,
}

/// What the threads share.
#[derive(Clone)]
struct Plan {
    config: Config,
    partitions: usize,
    directory: Arc<store::StateDirectory>,
    metrics: Metrics,
}

impl Restorers {
    /// Starts the threads.
    ///
    /// # Errors
    /// librdkafka refused a setting, or there is no thread left.
    pub(crate) fn start(
        config: &Config,
        partitions: usize,
        directory: &Arc<store::StateDirectory>,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let plan = Plan {
            config: config.clone(),
            partitions,
            directory: Arc::clone(directory),
            metrics: metrics.clone(),
        };
        // Bounded by the partitions: each has at most one restore that is wanted and one that is cancelled.
        let (finished, results) = crossbeam_channel::unbounded();
        let jobs = (0..config.store.restores_max)
            .map(|number| {
                let reader = ChangelogReader::open(&config.kafka, &config.topics.changelog)?;
                let (sender, jobs) = crossbeam_channel::unbounded::<Job>();
                let (plan, finished) = (plan.clone(), finished.clone());
                std::thread::Builder::new()
                    .name(format!("restore-{number}"))
                    .spawn(move || {
                        for job in jobs {
                            if finished.send(plan.restore(&reader, job)).is_err() {
                                return;
                            }
                        }
                    })
                    .context("a restore thread cannot be started")?;
                Ok(sender)
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            jobs,
            wanted: HashMap::new(),
            results,
        })
    }

    /// Begins a restore; with the open store, if there is one.
    pub(crate) fn begin(&mut self, partition: Partition, token: Token, store: Option<Box<Store>>) {
        let cancelled = Arc::new(AtomicBool::new(false));
        if let Some(before) = self.wanted.insert(partition, Arc::clone(&cancelled)) {
            before.store(true, Ordering::Release);
        }
        // One partition's restores all go to one thread, in turn: a cancelled one has closed the store
        // before the next one opens it.
        let thread = usize::try_from(partition.0).unwrap_or_default() % self.jobs.len();
        let job = Job {
            partition,
            token,
            store,
            cancelled,
        };
        if self.jobs[thread].send(job).is_err() {
            tracing::error!(%partition, "the restore thread has died; restart the validator");
        }
    }

    /// Cancels the restore of a partition.
    pub(crate) fn cancel(&mut self, partition: Partition) {
        if let Some(cancelled) = self.wanted.remove(&partition) {
            cancelled.store(true, Ordering::Release);
        }
    }

    /// Restores that have come to an end since the last time.
    pub(crate) fn finished(&self) -> Option<Restored> {
        self.results.try_recv().ok()
    }
}

impl Plan {
    fn restore(&self, reader: &ChangelogReader, job: Job) -> Restored {
        let Job {
            partition,
            token,
            mut store,
            cancelled,
        } = job;
        let began = Instant::now();
        let outcome = loop {
            if cancelled.load(Ordering::Acquire) {
                break Outcome::Cancelled;
            }
            match self.attempt(reader, partition, &mut store, &cancelled) {
                Ok(Some(next)) => match store.take() {
                    Some(store) => break Outcome::Ready(store, next),
                    None => break Outcome::Refused("the restore ended without a store".into()),
                },
                Ok(None) => break Outcome::Cancelled,
                Err(error) => match error.downcast_ref::<Refused>() {
                    Some(refused) => break Outcome::Refused(refused.0.clone()),
                    None => {
                        tracing::warn!(%partition, error = format!("{error:#}"), "the restore failed; trying again");
                        std::thread::sleep(AGAIN);
                    }
                },
            }
        };
        if let Outcome::Ready(store, next) = &outcome {
            self.metrics.restores.inc();
            self.metrics
                .restore_seconds
                .observe(began.elapsed().as_secs_f64());
            tracing::info!(
                %partition, %next, checkpoint = ?store.checkpoint(), keys = store.len().unwrap_or_default(),
                ms = began.elapsed().as_millis(), "partition restored",
            );
        }
        Restored {
            partition,
            token,
            outcome,
        }
    }

    /// One try. `None` if it was cancelled.
    fn attempt(
        &self,
        reader: &ChangelogReader,
        partition: Partition,
        store: &mut Option<Box<Store>>,
        cancelled: &AtomicBool,
    ) -> anyhow::Result<Option<Offset>> {
        let next = self.input_position(reader, partition)?;
        let end = if guard_removed!("guard-high-watermark") {
            reader.stable_bounds(partition, ANSWER_MAX)?
        } else {
            reader.bounds(partition, ANSWER_MAX)?
        };
        let opened = match store {
            Some(store) => store,
            None => store.insert(Box::new(self.open(partition)?)),
        };
        if opened.checkpoint().is_some_and(|checkpoint| checkpoint > end.end) {
            tracing::warn!(
                %partition, checkpoint = ?opened.checkpoint(), end = %end.end,
                "the store is ahead of the changelog, so it is another one's; it is rebuilt",
            );
            *store = None;
            self.discard(partition)?;
            bail!("the store of partition {partition} was ahead of its changelog");
        }
        self.check_start(partition, opened.checkpoint(), end)?;
        match self.read(reader, partition, opened, end.end, cancelled) {
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
    fn input_position(&self, reader: &ChangelogReader, partition: Partition) -> anyhow::Result<Offset> {
        let topic = &self.config.topics.orders;
        let committed = reader.input_committed(topic, partition, ANSWER_MAX)?;
        let Bounds { start, end } = reader.input_bounds(topic, partition, ANSWER_MAX)?;
        match committed.offset {
            None if start > Offset(0) => {
                tracing::warn!(
                    %partition, %start, group = self.config.kafka.group_id,
                    "the group has no committed offset here, and the topic's oldest orders are gone; starting with \
                     the oldest there is",
                );
                Ok(start)
            }
            None => Ok(start),
            Some(next) if next < start => Err(refused(format!(
                "orders {next} to {start} of {topic}/{partition} were deleted before they were processed (the \
                 topic's retention is too short, or its records were deleted); find these orders at their \
                 source, then set the offset of group {:?} to {start} while no validator runs",
                self.config.kafka.group_id
            ))),
            Some(next) if next > end => Err(refused(format!(
                "the committed offset {next} of {topic}/{partition} is behind the partition's end {end}: the topic \
                 was deleted and created again, or its log was cut; compare it with the outbox, then set the \
                 offset of group {:?} while no validator runs",
                self.config.kafka.group_id
            ))),
            Some(next) => Ok(next),
        }
    }

    /// A changelog that begins behind the store's checkpoint has lost keys: their orders could be paid
    /// twice.
    fn check_start(
        &self,
        partition: Partition,
        checkpoint: Option<Offset>,
        bounds: Bounds,
    ) -> anyhow::Result<()> {
        let from = checkpoint.unwrap_or(Offset(0));
        if from < bounds.start {
            return Err(refused(format!(
                "the changelog {}/{partition} begins at {}, and the store needs it from {from}: keys that were \
                 deleted from it are unknown, and their orders would be paid twice; rebuild the changelog \
                 from the outbox before this partition goes on",
                self.config.topics.changelog, bounds.start
            )));
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
        let opened = Store::open(&path, &identity, cache / self.partitions.max(1))?;
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
struct Refused(String);

fn refused(reason: String) -> anyhow::Error {
    anyhow!(Refused(reason))
}

/// Longer than a coordinator takes to move; what is not answered by then is asked again.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(200);
/// As many records as a store takes in one transaction: a few MB in memory.
const CHUNK: usize = 10_000;
