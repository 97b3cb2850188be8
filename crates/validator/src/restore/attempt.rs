//! One attempt at a restore: performs the requests of [`pipeline::admission::restore`], which decides their
//! order and what the responses mean.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::Context;
use kafka::ClientError;
use kafka::changelog::ChangelogReader;
use kafka::offsets::Committed;
use pipeline::admission::restore::{Restore, RestoreContext, RestoreRequest, RestoreResponse, RestoreStep};
use records::{Bounds, LeaderEpoch, Offset, Partition, Timestamp};
use service::failpoint::guard_removed;
use store::{DirectoryError, Identity, Options, Store, StoreError};

use super::worker::{Worker, halted};

/// Timeout of one request. Longer than a coordinator takes to move, so that a retry is the exception.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of offsets below the changelog's end that are searched for its last record. Transaction markers and
/// aborted records may follow it.
const LOOK_BACK: i64 = 1_000;

impl Worker {
    /// Returns the input offset to process from and the leader epoch committed with it, or `None` if the restore
    /// was cancelled.
    pub(super) fn attempt(
        &self,
        reader: &ChangelogReader,
        partition: Partition,
        store: &mut Option<Box<Store>>,
        cancelled: &AtomicBool,
    ) -> anyhow::Result<Option<(Offset, Option<LeaderEpoch>)>> {
        // Before any offset is read: offsets and keys of another topic mean nothing.
        self.check_topic_ids()?;
        let context = self.context(partition);
        let mut restore = Restore::new(&context);
        // The committed offset first. It is not returned while a transaction of the last owner is pending, so
        // everything read after it includes that transaction.
        let mut request = RestoreRequest::CommittedOffset;
        let mut is_new_group = false;
        let mut orders = None;
        let mut input = None;
        loop {
            let sent_at = Instant::now();
            let Some(response) = self.perform(reader, (&context, &mut input), request, store, cancelled)?
            else {
                return Ok(None);
            };
            tracing::debug!(%partition, ?request, ?response, ms = sent_at.elapsed().as_millis(), "restoring");
            is_new_group |= response == RestoreResponse::CommittedOffset(None);
            if let RestoreResponse::OrdersBounds(bounds) = response {
                orders = Some(bounds);
            }
            match restore.on(response) {
                RestoreStep::Request(next) => request = next,
                RestoreStep::Ready(start) => {
                    if is_new_group && start > Offset(0) {
                        // Not a loss that this group has caused, but an operator may expect those orders.
                        tracing::warn!(
                            %partition, %start, group = context.group_id,
                            "the topic's oldest orders were deleted before this group began; starting with the \
                             oldest there is",
                        );
                    }
                    let epoch = input
                        .filter(|at| at.offset == Some(start))
                        .and_then(|at| at.leader_epoch);
                    return Ok(Some((start, epoch)));
                }
                RestoreStep::Halted(reason) => {
                    // Orders are missing if their bounds led to this step. Then the operator needs the
                    // period.
                    return Err(match orders.filter(|_| request == RestoreRequest::OrdersBounds) {
                        Some(orders) => halted(format!("{reason}. {}", gap(reader, &context, orders))),
                        None => halted(reason),
                    });
                }
            }
        }
    }

    /// Checks that the topics are still those that the state directory belongs to. Topics may have been
    /// recreated since the start.
    fn check_topic_ids(&self) -> anyhow::Result<()> {
        let names: Vec<&str> = self.topic_ids.keys().map(String::as_str).collect();
        if names.is_empty() || guard_removed!("guard-topic-ids") {
            return Ok(());
        }
        let found = self.admin.topic_ids(&names, REQUEST_TIMEOUT)?;
        match self.directory.claim_ids(&found) {
            Err(error @ DirectoryError::TopicRecreated { .. }) => Err(halted(error.to_string())),
            other => Ok(other?),
        }
    }

    fn context(&self, partition: Partition) -> RestoreContext {
        RestoreContext {
            topics: self.config.topics.clone(),
            group_id: self.config.kafka.group_id.clone(),
            partition,
            store: self.directory.store(partition).display().to_string(),
        }
    }

    /// Performs a request. Returns `None` if the restore was cancelled meanwhile.
    fn perform(
        &self,
        reader: &ChangelogReader,
        (context, input): (&RestoreContext, &mut Option<Committed>),
        request: RestoreRequest,
        store: &mut Option<Box<Store>>,
        cancelled: &AtomicBool,
    ) -> anyhow::Result<Option<RestoreResponse>> {
        let (topics, partition) = (&context.topics, context.partition);
        Ok(Some(match request {
            RestoreRequest::CommittedOffset => {
                let committed = reader.input_committed(&topics.orders, partition, REQUEST_TIMEOUT)?;
                RestoreResponse::CommittedOffset(input.insert(committed).offset)
            }
            RestoreRequest::ChangelogBounds => {
                RestoreResponse::ChangelogBounds(reader.bounds(partition, REQUEST_TIMEOUT)?)
            }
            RestoreRequest::OrdersBounds => {
                RestoreResponse::OrdersBounds(reader.bounds_of(&topics.orders, partition, REQUEST_TIMEOUT)?)
            }
            RestoreRequest::OrdersEpochEnd => {
                let epoch_end = match input.as_ref().map(|input| (input.offset, input.leader_epoch)) {
                    Some((Some(offset), Some(epoch))) => {
                        let log = (topics.orders.as_str(), partition);
                        let start = reader.bounds_of(log.0, partition, REQUEST_TIMEOUT)?.start;
                        let committed = (offset, epoch);
                        Some(
                            reader
                                .log_check()
                                .epoch_end(log, start, committed, REQUEST_TIMEOUT)?,
                        )
                    }
                    _ => None,
                };
                // A test removes the guard: orders of a log that has grown again are then skipped.
                RestoreResponse::OrdersEpochEnd(epoch_end.filter(|_| !guard_removed!("guard-leader-epoch")))
            }
            RestoreRequest::Checkpoint => {
                let store = match store {
                    Some(store) => store,
                    None => store.insert(Box::new(self.open_store(partition)?)),
                };
                RestoreResponse::Checkpoint(store.checkpoint())
            }
            RestoreRequest::OutboxIsEmpty => {
                // By committed records, since the bounds include transaction markers and aborted records.
                let outbox = reader.bounds_of(&topics.pending, partition, REQUEST_TIMEOUT)?;
                RestoreResponse::OutboxIsEmpty(!reader.has_committed(&topics.pending, partition, outbox)?)
            }
            RestoreRequest::ApplyChangelog(from, to) => {
                let to = read_target(reader, partition, to)?;
                let opened = store
                    .as_deref_mut()
                    .context("the store was not opened before the changelog was read")?;
                match self.read_changelog(reader, context, opened, (from, to), cancelled) {
                    Ok(true) => RestoreResponse::ChangelogApplied,
                    Ok(false) => return Ok(None),
                    Err(error) => {
                        // A store that failed while it was written is not used any further. The next attempt
                        // opens it again, or builds a new one if it is corrupt.
                        if let Some(failed) = error.downcast_ref::<StoreError>() {
                            *store = None;
                            if failed.is_corruption() {
                                self.discard_store(partition)?;
                            }
                        }
                        return Err(error);
                    }
                }
            }
        }))
    }

    fn open_store(&self, partition: Partition) -> anyhow::Result<Store> {
        let path = self.directory.store(partition);
        // Opening a store of another changelog or partition count rebuilds it: it has the keys of other
        // orders.
        let identity = Identity {
            changelog: self.config.topics.changelog.clone(),
            partition,
            partitions: self.partitions,
        };
        let cache = usize::try_from(self.config.store.cache.as_u64()).unwrap_or(usize::MAX);
        let options = Options {
            // The setting is the total: one instance may own all partitions.
            cache_bytes: cache / self.partitions.max(1),
            verify: self.config.store.verify,
        };
        let opened = Store::open(&path, &identity, options)?;
        if let Some(why) = opened.rebuild_reason {
            self.metrics.stores_rebuilt.inc();
            tracing::warn!(
                %partition, path = %path.display(), why,
                "store not trusted, rebuilding it from the changelog"
            );
        }
        Ok(opened.store)
    }

    fn discard_store(&self, partition: Partition) -> anyhow::Result<()> {
        let path = self.directory.store(partition);
        self.metrics.stores_rebuilt.inc();
        match std::fs::remove_file(&path) {
            // A file that is gone already is as good as removed.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing the store {} failed", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Returns the offset to read to: the high watermark. The last stable offset would miss a transaction whose
/// markers are still being written, and its orders would be paid twice; a test removes this guard to show
/// that.
fn read_target(
    reader: &ChangelogReader,
    partition: Partition,
    high_watermark: Offset,
) -> anyhow::Result<Offset> {
    if guard_removed!("guard-high-watermark") {
        return Ok(reader.stable_bounds(partition, REQUEST_TIMEOUT)?.end);
    }
    Ok(high_watermark)
}

/// Describes the period of which orders may be missing, as far as the topics show it.
fn gap(reader: &ChangelogReader, context: &RestoreContext, orders: Bounds) -> String {
    let RestoreContext {
        topics, partition, ..
    } = context;
    let before = reader
        .bounds(*partition, REQUEST_TIMEOUT)
        .and_then(|Bounds { start, end }| {
            let start = start.max(Offset(end.0 - LOOK_BACK));
            reader.last_timestamp(&topics.changelog, *partition, Bounds { start, end })
        });
    let after = reader.first_timestamp(&topics.orders, *partition, orders);
    // Failures become part of the text: the partition halts in any case, and that must not depend on them.
    let text = |at: Result<Option<Timestamp>, ClientError>| match at {
        Ok(Some(Timestamp(ms))) => {
            let since_epoch = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
            humantime::format_rfc3339_millis(UNIX_EPOCH + since_epoch).to_string()
        }
        Ok(None) => "an unknown time".into(),
        Err(error) => format!("an unknown time ({error})"),
    };
    format!(
        "The last order admitted before is of {}, the first order in the topic now is of {}",
        text(before),
        text(after)
    )
}
