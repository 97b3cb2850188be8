//! Standby stores: warm copies of the stores of partitions that other validators own, on a thread of their own.
//!
//! When such a partition is assigned to this validator, its store is closed here, and its restore opens it and reads
//! the short tail that is left. Which validator takes over a partition is Kafka's choice, so that one that keeps standby
//! stores keeps those of all partitions.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use kafka::changelog::ChangelogReader;
use pipeline::admission::restore::{RestoreContext, StandbyRange, forgotten};
use records::{Forgotten, Partition};
use store::{Store, StoreError};

use super::attempt::REQUEST_TIMEOUT;
use super::queue::JobQueue;
use super::read_changelog::ChangelogRead;
use super::worker::Worker;

/// Time between two looks at the changelog. A store is behind by what is written meanwhile.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time after which it is looked up again which keys the owner of a partition has forgotten.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);

/// Standby stores of this validator.
struct Standby {
    worker: Worker,
    queue: Arc<JobQueue>,
    reader: ChangelogReader,
    followed: BTreeMap<Partition, Followed>,
    /// Errors that were logged, so that each is logged once.
    errors: BTreeMap<Partition, String>,
}

struct Followed {
    store: Box<Store>,
    /// Number of offsets that it was behind when it was looked at last.
    lag: u64,
    /// Keys that the owner has forgotten.
    forgotten: Option<Forgotten>,
    /// Time at which they are looked up again.
    note_due: Instant,
}

/// Starts the thread, which ends when the queue is closed.
pub(super) fn spawn(worker: Worker, queue: Arc<JobQueue>) -> anyhow::Result<()> {
    let reader = ChangelogReader::open(&worker.config.kafka, &worker.config.topics.changelog)?;
    let mut standby = Standby {
        worker,
        queue,
        reader,
        followed: BTreeMap::new(),
        errors: BTreeMap::new(),
    };
    std::thread::Builder::new()
        .name("standby".into())
        .spawn(move || {
            while standby.queue.await_standby(INTERVAL) {
                standby.close_unwanted();
                standby.follow_all();
            }
        })
        .context("the thread of the standby stores cannot be started")?;
    Ok(())
}

impl Standby {
    /// Follows the changelog of each partition of another validator.
    fn follow_all(&mut self) {
        let partitions = i32::try_from(self.worker.note.partitions).unwrap_or(i32::MAX);
        for partition in (0..partitions).map(Partition) {
            // Restores wait for their stores, and come first.
            self.close_unwanted();
            if !self.queue.follow(partition) {
                continue;
            }
            // A panic would end the thread, and the standby stores would silently fall behind.
            let followed = catch_unwind(AssertUnwindSafe(|| self.follow(partition)));
            match followed.unwrap_or_else(|_| Err(anyhow!("following panicked; see the log"))) {
                Ok(()) => drop(self.errors.remove(&partition)),
                Err(error) => {
                    self.close(partition);
                    self.report(partition, &error);
                }
            }
        }
        self.report_lag();
    }

    /// Brings a store to the last stable offset of its changelog.
    fn follow(&mut self, partition: Partition) -> anyhow::Result<()> {
        let context = self.worker.context(partition);
        self.worker.check_topic_ids(&context)?;
        let mut followed = match self.followed.remove(&partition) {
            Some(followed) => followed,
            None => Followed {
                store: Box::new(self.worker.open_store(partition)?),
                lag: 0,
                forgotten: None,
                note_due: Instant::now(),
            },
        };
        let stable = self.reader.stable_bounds(partition, REQUEST_TIMEOUT)?;
        let checkpoint = followed.store.checkpoint();
        // Read after the bounds: then it has the reason of what was deleted below them.
        let is_cut = checkpoint.is_none_or(|checkpoint| checkpoint < stable.start);
        if followed.note_due <= Instant::now() || is_cut {
            followed.forgotten = self.forgotten(&context)?;
            followed.note_due = Instant::now() + NOTE_INTERVAL;
            if let Some(forgotten) = followed.forgotten {
                followed.store.forget(forgotten)?;
            }
        }
        followed.lag = StandbyRange::lag(checkpoint, stable);
        let Some(range) = StandbyRange::of(checkpoint, stable, followed.forgotten) else {
            self.followed.insert(partition, followed);
            return Ok(());
        };
        let (worker, reader, queue) = (&self.worker, &self.reader, &self.queue);
        let is_unwanted = || !queue.may_follow(partition);
        let read = worker.read_changelog(
            reader,
            &context,
            &mut followed.store,
            range.into(),
            is_unwanted,
            &worker.metrics.standby_records,
        );
        match read {
            Ok(ChangelogRead::Applied | ChangelogRead::Cancelled) => {
                self.followed.insert(partition, followed);
                Ok(())
            }
            Ok(ChangelogRead::Differs(offset)) => {
                bail!("the store does not have the changelog's record at {offset}")
            }
            Err(error) => {
                drop(followed);
                if error
                    .downcast_ref::<StoreError>()
                    .is_some_and(StoreError::is_corruption)
                {
                    self.worker.discard_store(partition)?;
                }
                Err(error)
            }
        }
    }

    /// Returns what the owner of a partition has forgotten, by the note of the group's committed offset.
    fn forgotten(&self, context: &RestoreContext) -> anyhow::Result<Option<Forgotten>> {
        let orders = &context.topics.orders;
        let found = self
            .reader
            .input_metadata(orders, &[context.partition], REQUEST_TIMEOUT)?;
        let metadata = found.first().map_or("", |(_, metadata)| metadata.as_str());
        Ok(forgotten(context, metadata))
    }

    /// Closes the stores of partitions that are assigned to this validator now.
    fn close_unwanted(&mut self) {
        let unwanted: Vec<Partition> = self
            .followed
            .keys()
            .filter(|partition| !self.queue.may_follow(**partition))
            .copied()
            .collect();
        for partition in unwanted {
            self.close(partition);
        }
    }

    fn close(&mut self, partition: Partition) {
        if let Some(mut followed) = self.followed.remove(&partition)
            && let Err(error) = followed.store.persist()
        {
            // Harmless: what was not made durable is read from the changelog again.
            tracing::warn!(%partition, %error, "standby store closed without its latest entries");
        }
        self.queue.unfollow(partition);
    }

    /// Logs an error, once while it lasts. The partition's restore will meet it too, and say what to do.
    fn report(&mut self, partition: Partition, error: &anyhow::Error) {
        let text = format!("{error:#}");
        if self.errors.get(&partition) != Some(&text) {
            tracing::warn!(%partition, error = text, "standby store does not follow the changelog, retrying");
            self.errors.insert(partition, text);
        }
    }

    fn report_lag(&self) {
        let metrics = &self.worker.metrics;
        let lag: u64 = self.followed.values().map(|followed| followed.lag).sum();
        metrics
            .standby_stores
            .set(i64::try_from(self.followed.len()).unwrap_or(i64::MAX));
        metrics.standby_lag.set(i64::try_from(lag).unwrap_or(i64::MAX));
    }
}
