//! A restore thread: takes one restore at a time and retries it until it succeeds, halts or is cancelled.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use crossbeam_channel::Sender;
use kafka::ClientError;
use kafka::admin::Admin;
use kafka::changelog::ChangelogReader;
use kafka::error::ErrorClass;
use records::Partition;
use store::StateDirectory;

use super::errors::RestoreErrors;
use super::{Outcome, RestoreJob, Restored};
use crate::config::Config;
use crate::metrics::Metrics;

/// Timeout of the connection warm-up. Restores that arrive meanwhile wait for it, and the group takes as long
/// to assign partitions.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// First wait before a failed restore is retried.
const RETRY_MIN: Duration = Duration::from_millis(200);
/// Maximum wait between two attempts. The wait doubles, since writing does not empty a full disk, but an
/// operator who has repaired the cause must not wait long for the next attempt.
const RETRY_MAX: Duration = Duration::from_secs(3);
/// Failed attempts after which the next one uses a new client.
const REOPEN_AFTER: u32 = 4;

/// Shared state of the restore threads.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) config: Config,
    /// Partition count of the orders topic.
    pub(super) partitions: usize,
    pub(super) directory: Arc<StateDirectory>,
    pub(super) metrics: Metrics,
    /// Ids of the topics that the state directory belongs to.
    pub(super) topic_ids: BTreeMap<String, String>,
    pub(super) admin: Arc<Admin>,
    pub(super) errors: Arc<RestoreErrors>,
}

/// Restore error that retrying does not resolve; the text tells the operator what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Halted(pub(super) String);

/// Returns the error that halts the partition.
pub(super) fn halted(reason: String) -> anyhow::Error {
    anyhow!(Halted(reason))
}

impl Worker {
    /// Starts the thread. Jobs are sent to it by the returned sender; it ends when that is dropped.
    pub(super) fn spawn(
        self,
        number: usize,
        finished: Sender<Restored>,
    ) -> anyhow::Result<Sender<RestoreJob>> {
        let mut reader = ChangelogReader::open(&self.config.kafka, &self.config.topics.changelog)?;
        let (sender, jobs) = crossbeam_channel::unbounded::<RestoreJob>();
        std::thread::Builder::new()
            .name(format!("restore-{number}"))
            .spawn(move || {
                // Connects to the brokers while the group is still being joined: the first restore saves that
                // time.
                reader.warm_up(&self.config.topics.orders, Partition(0), WARM_UP_TIMEOUT);
                for job in jobs {
                    // Fails once the run loop has ended, and with it the process.
                    if finished.send(self.restore(&mut reader, job)).is_err() {
                        return;
                    }
                }
            })
            .context("a restore thread cannot be started")?;
        Ok(sender)
    }

    fn restore(&self, reader: &mut ChangelogReader, job: RestoreJob) -> Restored {
        let RestoreJob {
            partition,
            id,
            mut store,
            cancelled,
        } = job;
        let started = Instant::now();
        let (mut retry, mut failed) = (RETRY_MIN, 0);
        let outcome = loop {
            if cancelled.load(Ordering::Acquire) {
                break Outcome::Cancelled;
            }
            // A panic would end the thread, and the partition would wait for ever without saying why.
            let attempt = AssertUnwindSafe(|| self.attempt(reader, partition, &mut store, &cancelled));
            match catch_unwind(attempt)
                .unwrap_or_else(|_| Err(halted("the restore panicked; see the log".into())))
            {
                Ok(Some(next)) => match store.take() {
                    Some(store) => break Outcome::Ready(store, next),
                    None => break Outcome::Halted("the restore ended without a store".into()),
                },
                Ok(None) => break Outcome::Cancelled,
                Err(error) => match error.downcast_ref::<Halted>() {
                    Some(halted) => break Outcome::Halted(halted.0.clone()),
                    None => {
                        let text = format!("{error:#}");
                        tracing::warn!(%partition, error = text, "restore failed, retrying");
                        self.errors.set(partition, Some(text));
                        std::thread::sleep(retry);
                        retry = (retry * 2).min(RETRY_MAX);
                        failed += 1;
                        self.reopen_if_stuck(reader, &error, failed);
                    }
                },
            }
        };
        // Whatever the outcome: a halted partition has its reason in the admission, a cancelled one is not
        // ours.
        self.errors.set(partition, None);
        if let Outcome::Ready(store, next) = &outcome {
            self.metrics.restores.inc();
            self.metrics
                .restore_seconds
                .observe(started.elapsed().as_secs_f64());
            tracing::info!(
                %partition, %next, checkpoint = ?store.checkpoint(), keys = store.len().unwrap_or_default(),
                ms = started.elapsed().as_millis(), "partition restored",
            );
        }
        Restored {
            partition,
            id,
            outcome,
        }
    }

    /// Replaces the client after a fatal error, and after several failures in a row.
    fn reopen_if_stuck(&self, reader: &mut ChangelogReader, error: &anyhow::Error, failed: u32) {
        let is_fatal = |error: &ClientError| error.class == ErrorClass::Fatal;
        // librdkafka has been seen to keep outdated metadata of a partition for minutes while brokers came
        // and went; a new client asks again.
        if error.downcast_ref().is_some_and(is_fatal) || failed.is_multiple_of(REOPEN_AFTER) {
            match ChangelogReader::open(&self.config.kafka, &self.config.topics.changelog) {
                Ok(opened) => *reader = opened,
                // The next attempt uses the old client and comes here again.
                Err(error) => tracing::warn!(%error, "changelog reader not reopened, keeping the old one"),
            }
        }
    }
}
