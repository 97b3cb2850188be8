//! Restores: each partition's store is brought to the end of its changelog, on threads of their own, so
//! that the run loop goes on polling and other partitions go on working.

mod attempt;

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, Sender};
use kafka::ClientError;
use kafka::admin::Admin;
use kafka::changelog::ChangelogReader;
use kafka::error::ErrorClass;
use pipeline::admission::Token;
use records::{Offset, Partition};
use store::Store;

use self::attempt::{Refused, refused};
use crate::config::Config;
use crate::metrics::Metrics;

/// The restore threads, and the restores that are wanted.
pub(crate) struct Restorers {
    jobs: Vec<Sender<Job>>,
    wanted: HashMap<Partition, Arc<AtomicBool>>,
    results: Receiver<Restored>,
    troubles: Arc<Troubles>,
}

/// Why the last try of each restore under way has failed, as it is told to those who ask for readiness.
#[derive(Default)]
struct Troubles {
    errors: Mutex<BTreeMap<Partition, String>>,
    has_news: AtomicBool,
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
    topic_ids: BTreeMap<String, String>,
    admin: Arc<Admin>,
    troubles: Arc<Troubles>,
}

impl Restorers {
    /// Starts the threads.
    ///
    /// # Errors
    /// librdkafka refused a setting, or there is no thread left.
    pub(crate) fn start(
        config: &Config,
        partitions: usize,
        topic_ids: BTreeMap<String, String>,
        admin: &Arc<Admin>,
        directory: &Arc<store::StateDirectory>,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let troubles = Arc::<Troubles>::default();
        let plan = Plan {
            config: config.clone(),
            partitions,
            directory: Arc::clone(directory),
            metrics: metrics.clone(),
            topic_ids,
            admin: Arc::clone(admin),
            troubles: Arc::clone(&troubles),
        };
        // Bounded by the partitions: each has at most one restore that is wanted and one that is cancelled.
        let (finished, results) = crossbeam_channel::unbounded();
        let jobs = (0..config.store.restores_max)
            .map(|number| {
                let mut reader = ChangelogReader::open(&config.kafka, &config.topics.changelog)?;
                let (sender, jobs) = crossbeam_channel::unbounded::<Job>();
                let (plan, finished) = (plan.clone(), finished.clone());
                std::thread::Builder::new()
                    .name(format!("restore-{number}"))
                    .spawn(move || {
                        reader.warm_up(&plan.config.topics.orders, Partition(0), WARM_UP_MAX);
                        for job in jobs {
                            if finished.send(plan.restore(&mut reader, job)).is_err() {
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
            troubles,
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

    /// Why the last try of a partition's restore failed.
    pub(crate) fn trouble(&self, partition: Partition) -> Option<String> {
        self.troubles.lock().get(&partition).cloned()
    }

    /// Whether any of that has changed since this was asked last.
    pub(crate) fn has_news(&self) -> bool {
        self.troubles.has_news.swap(false, Ordering::AcqRel)
    }
}

impl Troubles {
    fn set(&self, partition: Partition, error: Option<String>) {
        let mut errors = self.lock();
        let was = match error {
            Some(error) => errors.insert(partition, error),
            None => errors.remove(&partition),
        };
        if was.as_ref() != errors.get(&partition) {
            self.has_news.store(true, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Partition, String>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plan {
    fn restore(&self, reader: &mut ChangelogReader, job: Job) -> Restored {
        let Job {
            partition,
            token,
            mut store,
            cancelled,
        } = job;
        let began = Instant::now();
        let (mut again, mut failed) = (AGAIN_MIN, 0);
        let outcome = loop {
            if cancelled.load(Ordering::Acquire) {
                break Outcome::Cancelled;
            }
            // A panic must not leave the partition waiting for a thread that has died.
            let attempt = AssertUnwindSafe(|| self.attempt(reader, partition, &mut store, &cancelled));
            match catch_unwind(attempt)
                .unwrap_or_else(|_| Err(refused("the restore panicked; see the log".into())))
            {
                Ok(Some(next)) => match store.take() {
                    Some(store) => break Outcome::Ready(store, next),
                    None => break Outcome::Refused("the restore ended without a store".into()),
                },
                Ok(None) => break Outcome::Cancelled,
                Err(error) => match error.downcast_ref::<Refused>() {
                    Some(refused) => break Outcome::Refused(refused.0.clone()),
                    None => {
                        let text = format!("{error:#}");
                        tracing::warn!(%partition, error = text, "the restore is tried again");
                        self.troubles.set(partition, Some(text));
                        std::thread::sleep(again);
                        again = (again * 2).min(AGAIN_MAX);
                        failed += 1;
                        self.reopen_if_of_no_use(reader, &error, failed);
                    }
                },
            }
        };
        self.troubles.set(partition, None);
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

    /// A client that has met a fatal error is of no further use. Nor may be one that keeps failing: librdkafka has
    /// been seen to hold on for minutes to what a broker told it of a partition while brokers came and went.
    fn reopen_if_of_no_use(&self, reader: &mut ChangelogReader, error: &anyhow::Error, failed: u32) {
        let is_lost = |fault: &ClientError| fault.class == ErrorClass::Fatal;
        if error.downcast_ref().is_some_and(is_lost) || failed.is_multiple_of(REOPEN_EVERY) {
            match ChangelogReader::open(&self.config.kafka, &self.config.topics.changelog) {
                Ok(opened) => *reader = opened,
                Err(fault) => tracing::warn!(error = %fault, "the changelog reader cannot be opened anew"),
            }
        }
    }
}

/// What begins meanwhile waits for it; the group takes as long to assign partitions.
const WARM_UP_MAX: Duration = Duration::from_secs(1);
/// How long to wait before a restore that failed is tried again: longer each time, since a full disk is not
/// emptied by writing to it, but never so long that a person waits for it.
const AGAIN_MIN: Duration = Duration::from_millis(200);
const AGAIN_MAX: Duration = Duration::from_secs(3);
/// After so many tries in vain the next one is made with a new client.
const REOPEN_EVERY: u32 = 4;
