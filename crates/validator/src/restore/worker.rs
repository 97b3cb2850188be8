//! A restore thread: takes one restore at a time from the queue and makes one attempt. A restore is retried until
//! it succeeds, halts or is cancelled.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use crossbeam_channel::Sender;
use kafka::ClientError;
use kafka::admin::Admin;
use kafka::changelog::ChangelogReader;
use kafka::error::ErrorClass;
use records::{Partition, TopicsNote};
use store::{StateDirectory, StoreWriter};

use super::errors::RestoreErrors;
use super::queue::JobQueue;
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
    pub(super) directory: Arc<StateDirectory>,
    /// Writes the stores that are opened here, also later.
    pub(super) writer: StoreWriter,
    pub(super) metrics: Metrics,
    /// Topics that the state directory belongs to.
    pub(super) note: TopicsNote,
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
    /// Starts the thread. It ends when the queue is closed.
    pub(super) fn spawn(
        self,
        number: usize,
        queue: Arc<JobQueue>,
        finished: Sender<Restored>,
    ) -> anyhow::Result<JoinHandle<()>> {
        let mut reader = ChangelogReader::open(&self.config.kafka, &self.config.topics.changelog)?;
        std::thread::Builder::new()
            .name(format!("restore-{number}"))
            .spawn(move || {
                // Connects to the brokers while the group is still being joined: the first restore saves that
                // time.
                reader.warm_up(&self.config.topics.orders, Partition(0), WARM_UP_TIMEOUT);
                work(&queue, &finished, |job| self.restore(&mut reader, job));
            })
            .context("a restore thread cannot be started")
    }

    /// Makes one attempt. Returns `None` if it failed and is to be retried.
    fn restore(&self, reader: &mut ChangelogReader, job: &mut RestoreJob) -> Option<Restored> {
        let (partition, id) = (job.partition, job.id);
        let outcome = if job.cancelled.load(Ordering::Acquire) {
            Outcome::Cancelled
        } else {
            // A panic would end the thread, and the partition would wait for ever without saying why.
            let attempt =
                AssertUnwindSafe(|| self.attempt(reader, partition, &mut job.store, &job.cancelled));
            match catch_unwind(attempt)
                .unwrap_or_else(|_| Err(halted("the restore panicked; see the log".into())))
            {
                Ok(Some((next, epoch, forgotten))) => match job.store.take() {
                    Some(store) => Outcome::Ready(store, next, epoch, forgotten),
                    None => Outcome::Halted("the restore ended without a store".into()),
                },
                Ok(None) => Outcome::Cancelled,
                Err(error) => match error.downcast_ref::<Halted>() {
                    Some(halted) => Outcome::Halted(halted.0.clone()),
                    None => {
                        let text = format!("{error:#}");
                        tracing::warn!(%partition, error = text, "restore failed, retrying");
                        self.errors.set(partition, Some(text));
                        self.reopen_if_stuck(reader, &error, job.failed + 1);
                        return None;
                    }
                },
            }
        };
        // Closed before the partition's next restore may open the file.
        job.store = None;
        // Whatever the outcome: a halted partition has its reason in the admission, a cancelled one is not
        // ours.
        self.errors.set(partition, None);
        if let Outcome::Ready(store, next, ..) = &outcome {
            self.metrics.restores.inc();
            self.metrics
                .restore_seconds
                .observe(job.started.elapsed().as_secs_f64());
            tracing::info!(
                %partition, %next, checkpoint = ?store.checkpoint(), keys = store.len(),
                ms = job.started.elapsed().as_millis(), "partition restored",
            );
        }
        Some(Restored {
            partition,
            id,
            outcome,
        })
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

/// Makes attempts at the restores of the queue, until it is closed. A failed attempt returns `None`.
fn work(
    queue: &JobQueue,
    finished: &Sender<Restored>,
    mut attempt: impl FnMut(&mut RestoreJob) -> Option<Restored>,
) {
    while let Some(mut job) = queue.take() {
        let Some(restored) = attempt(&mut job) else {
            job.failed = job.failed.saturating_add(1);
            let due = Instant::now() + retry_wait(job.failed);
            queue.retry(job, due);
            continue;
        };
        queue.end(job.partition);
        // Fails once the run loop has ended, and with it the process.
        if finished.send(restored).is_err() {
            return;
        }
    }
}

/// Returns the wait after this number of failed attempts.
fn retry_wait(failed: u32) -> Duration {
    let doublings = failed.saturating_sub(1).min(16);
    (RETRY_MIN * 2_u32.pow(doublings)).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use pipeline::admission::RestoreId;

    use super::*;

    #[test]
    fn failing_restores_do_not_block_a_neighbour() {
        let queue = Arc::<JobQueue>::default();
        // More restores fail than there are threads.
        for (id, partition) in [0, 1, 2, 3, 4].into_iter().enumerate() {
            let id = RestoreId(id as u64);
            queue.add(RestoreJob::new(Partition(partition), id, None, Arc::default()));
        }
        let (finished, results) = crossbeam_channel::unbounded();
        let threads = [(); 2].map(|()| {
            let (queue, finished) = (Arc::clone(&queue), finished.clone());
            std::thread::spawn(move || {
                work(&queue, &finished, |job| {
                    (job.partition == Partition(4)).then(|| Restored {
                        partition: job.partition,
                        id: job.id,
                        outcome: Outcome::Cancelled,
                    })
                });
            })
        });
        let restored = results.recv_timeout(Duration::from_secs(10)).expect("a result");
        assert_eq!(restored.partition, Partition(4));
        queue.close();
        for thread in threads {
            thread.join().expect("no panic");
        }
    }

    #[test]
    fn backoff_doubles_up_to_its_maximum() {
        let waits = [1, 2, 3, 4, 5, 6, u32::MAX].map(|failed| retry_wait(failed).as_millis());
        assert_eq!(waits, [200, 400, 800, 1600, 3000, 3000, 3000]);
    }
}
