//! Restores: bringing the store of a partition to the end of its changelog, on threads of their own, so that
//! the run loop goes on polling and other partitions go on processing.
//!
//! ```text
//! run loop ── start_restore ──▶ queue ──▶ worker: attempt ──▶ finished ── Restored ──▶ run loop
//!                                 ▲                 │
//!                                 └── backoff ◀─────┘ failed
//! ```

mod attempt;
mod errors;
mod open_transactions;
mod queue;
mod read_changelog;
mod standby;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context;
use crossbeam_channel::Receiver;
use kafka::admin::Admin;
use pipeline::admission::RestoreId;
use records::{Forgotten, LeaderEpoch, Offset, Partition, TopicsNote};
use store::{StateDirectory, Store, StoreWriter};

use self::errors::RestoreErrors;
pub(crate) use self::open_transactions::{LostValidators, OpenTransactions};
use self::queue::JobQueue;
use self::worker::Worker;
use crate::config::{Config, StandbySetting};
use crate::metrics::Metrics;

/// Restore threads, and the restores that are running.
pub(crate) struct Restorers {
    queue: Arc<JobQueue>,
    threads: Vec<JoinHandle<()>>,
    /// Cancel flag of the latest restore of each partition.
    cancel_flags: HashMap<Partition, Arc<AtomicBool>>,
    results: Receiver<Restored>,
    errors: Arc<RestoreErrors>,
    open_transactions: OpenTransactions,
}

/// Result of a restore.
pub(crate) struct Restored {
    pub(crate) partition: Partition,
    pub(crate) id: RestoreId,
    pub(crate) outcome: Outcome,
}

/// Outcome of a restore.
pub(crate) enum Outcome {
    /// Store that equals the changelog, and the input offset to process from, with the leader epoch that was
    /// committed with it, and the keys that the partition has forgotten.
    Ready(Box<Store>, Offset, Option<LeaderEpoch>, Option<Forgotten>),
    /// Reason why retrying does not help and an operator must act.
    Halted(String),
    /// Cancelled; the store is closed.
    Cancelled,
}

/// Restore for a thread to perform.
struct RestoreJob {
    partition: Partition,
    id: RestoreId,
    /// Store of the partition, if it is open.
    store: Option<Box<Store>>,
    cancelled: Arc<AtomicBool>,
    started: Instant,
    /// Number of attempts that failed.
    failed: u32,
}

impl RestoreJob {
    fn new(
        partition: Partition,
        id: RestoreId,
        store: Option<Box<Store>>,
        cancelled: Arc<AtomicBool>,
    ) -> Self {
        Self {
            partition,
            id,
            store,
            cancelled,
            started: Instant::now(),
            failed: 0,
        }
    }
}

impl Drop for Restorers {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Restorers {
    /// Starts the threads.
    ///
    /// # Errors
    /// librdkafka refuses a setting, or a thread cannot be started.
    pub(crate) fn start(
        config: &Config,
        note: &TopicsNote,
        admin: &Arc<Admin>,
        directory: &Arc<StateDirectory>,
        metrics: &Metrics,
        open_transactions: OpenTransactions,
    ) -> anyhow::Result<Self> {
        let errors = Arc::<RestoreErrors>::default();
        let worker = Worker {
            config: config.clone(),
            directory: Arc::clone(directory),
            writer: StoreWriter::start().context("the thread that writes the stores cannot be started")?,
            metrics: metrics.clone(),
            note: note.clone(),
            admin: Arc::clone(admin),
            errors: Arc::clone(&errors),
        };
        let queue = Arc::<JobQueue>::default();
        // Unbounded, but each partition has at most one wanted and one cancelled restore.
        let (finished, results) = crossbeam_channel::unbounded();
        let threads = (0..config.store.restores_max)
            .map(|number| worker.clone().spawn(number, Arc::clone(&queue), finished.clone()))
            .collect::<anyhow::Result<_>>()?;
        if config.store.standby == StandbySetting::All {
            standby::spawn(worker, Arc::clone(&queue))?;
        }
        Ok(Self {
            queue,
            threads,
            cancel_flags: HashMap::new(),
            results,
            errors,
            open_transactions,
        })
    }

    /// Starts a restore, with the partition's store if it is open. It cancels an earlier one of the
    /// partition.
    pub(crate) fn start_restore(&mut self, partition: Partition, id: RestoreId, store: Option<Box<Store>>) {
        let cancelled = Arc::new(AtomicBool::new(false));
        if let Some(earlier) = self.cancel_flags.insert(partition, Arc::clone(&cancelled)) {
            earlier.store(true, Ordering::Release);
        }
        self.queue.add(RestoreJob::new(partition, id, store, cancelled));
        // Beside the restore, which waits for those of the partition's last owner by itself.
        self.open_transactions.look();
        if self.threads.iter().any(JoinHandle::is_finished) {
            // Only a panic outside of an attempt ends a thread; the worker catches those within. Its partition
            // cannot be restored any more.
            tracing::error!(
                %partition,
                "restore thread has died, operator action required: restart the validator"
            );
        }
    }

    /// Cancels the restore of a partition, if there is one.
    pub(crate) fn cancel(&mut self, partition: Partition) {
        if let Some(cancelled) = self.cancel_flags.remove(&partition) {
            cancelled.store(true, Ordering::Release);
            self.queue.wake();
        }
    }

    /// Takes note of the assigned partitions: standby stores are kept of all others. Their own stores must be closed.
    pub(crate) fn set_assigned<'a>(&self, partitions: impl Iterator<Item = &'a Partition>) {
        self.queue.set_assigned(partitions);
    }

    /// Returns the next finished restore, if any. Does not wait.
    pub(crate) fn finished(&self) -> Option<Restored> {
        self.results.try_recv().ok()
    }

    /// Returns the error of the last attempt at a partition's restore, while it is retried.
    pub(crate) fn last_error(&self, partition: Partition) -> Option<String> {
        self.errors.get(partition)
    }

    /// Returns whether such an error has changed since the last call.
    pub(crate) fn errors_changed(&self) -> bool {
        self.errors.take_changed()
    }
}
