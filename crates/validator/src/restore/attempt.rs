//! One attempt at a restore: performs the requests of [`pipeline::admission::restore`], which decides their
//! order and what the responses mean.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::Context;
use kafka::ClientError;
use kafka::changelog::{ChangelogReader, ReadError};
use kafka::offsets::Committed;
use pipeline::admission::restore::{
    NewestOrder, Restore, RestoreContext, RestoreRequest, RestoreResponse, RestoreStep,
};
use records::key::InvalidKey;
use records::pending::Admission;
use records::{Bounds, Forgotten, IdempotencyKey, LeaderEpoch, Offset, Partition, Timestamp, TopicsNote};
use service::failpoint::{guard_removed, kill_at};
use store::{Identity, Options, Store, StoreError};

use super::read_changelog::{ChangelogRange, ChangelogRead};
use super::worker::{Worker, halted};

/// Timeout of one request. Longer than a coordinator takes to move, so that a retry is the exception.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of offsets below a topic's end that are searched for its last record. Transaction markers and
/// aborted records may follow it.
const LOOK_BACK: i64 = 1_000;
/// Factor by which the search grows if there is none.
const LOOK_BACK_GROWTH: i64 = 10;

/// Number of updates that all stores together keep in memory: some 10 MiB, and as much again while they are written.
const RECENT_UPDATES: usize = 1 << 17;
/// Minimum of a store: fewer are not worth a transaction of its file.
const RECENT_UPDATES_MIN: usize = 1 << 11;

/// Number of parts of the retention whose keys are kept, and forgotten, together.
const PERIODS: u32 = 8;

/// Input offset to process from, the leader epoch committed with it, and the keys that are forgotten.
pub(super) type RestoredState = (Offset, Option<LeaderEpoch>, Option<Forgotten>);

/// Responses that later requests of the attempt depend on.
#[derive(Default)]
struct Seen {
    committed: Option<Committed>,
    /// Bounds of the orders topic's partition.
    orders: Option<Bounds>,
}

impl Seen {
    /// Returns the committed offset and its leader epoch, with the bounds that the offset is within; `None` if
    /// no epoch was committed.
    fn committed_in_epoch(&self) -> Option<(Bounds, (Offset, LeaderEpoch))> {
        let committed = self.committed.as_ref()?;
        Some((self.orders?, (committed.offset?, committed.leader_epoch?)))
    }

    /// Returns the leader epoch that was committed with this offset.
    fn epoch_of(&self, offset: Offset) -> Option<LeaderEpoch> {
        let committed = self.committed.as_ref()?;
        committed
            .leader_epoch
            .filter(|_| committed.offset == Some(offset))
    }
}

impl Worker {
    /// Returns the input offset to process from, the leader epoch committed with it and the keys that are forgotten, or
    /// `None` if the restore was cancelled.
    pub(super) fn attempt(
        &self,
        reader: &ChangelogReader,
        partition: Partition,
        store: &mut Option<Box<Store>>,
        cancelled: &AtomicBool,
    ) -> anyhow::Result<Option<RestoredState>> {
        let context = self.context(partition);
        // Before any offset is read: offsets and keys of another topic mean nothing.
        self.check_topic_ids(&context)?;
        let mut restore = Restore::new(&context);
        // The committed offset first. It is not returned while a transaction of the last owner is pending, so
        // everything read after it includes that transaction.
        let mut request = RestoreRequest::CommittedOffset;
        let mut is_new_group = false;
        let mut seen = Seen::default();
        loop {
            let sent_at = Instant::now();
            let performed = self.perform(reader, (&context, &mut seen), &request, store, cancelled);
            if let Err(error) = &performed
                && let Some(failed) = error.downcast_ref::<StoreError>()
            {
                // A store that failed is not used any further. The next attempt opens it again, or builds a new one
                // if it is corrupt.
                *store = None;
                if failed.is_corruption() {
                    self.discard_store(partition)?;
                }
            }
            let Some(response) = performed? else {
                return Ok(None);
            };
            tracing::debug!(%partition, ?request, ?response, ms = sent_at.elapsed().as_millis(), "restoring");
            is_new_group |= matches!(response, RestoreResponse::CommittedOffset(None, _));
            match restore.on(response) {
                RestoreStep::Request(next) => request = next,
                RestoreStep::Ready(start) => {
                    // Passed by each restore, also by one whose store had every record of the changelog.
                    kill_at!("during-restore");
                    if is_new_group && start > Offset(0) {
                        // Not a loss that this group has caused, but an operator may expect those orders.
                        tracing::warn!(
                            %partition, %start, group = context.group_id,
                            "the topic's oldest orders were deleted before this group began; starting with the \
                             oldest there is",
                        );
                    }
                    let oldest = store.as_ref().and_then(|store| store.oldest());
                    return Ok(Some((start, seen.epoch_of(start), restore.forgotten(oldest))));
                }
                RestoreStep::Halted(reason) => {
                    // Orders are missing if their bounds led to this step. Then the operator needs the
                    // period.
                    return Err(
                        match seen.orders.filter(|_| request == RestoreRequest::OrdersBounds) {
                            Some(orders) => halted(format!("{reason}. {}", gap(reader, &context, orders))),
                            None => halted(reason),
                        },
                    );
                }
            }
        }
    }

    /// Checks that the topics are still those that this validator started with. Topics may have been recreated
    /// since.
    pub(super) fn check_topic_ids(&self, context: &RestoreContext) -> anyhow::Result<()> {
        if guard_removed!("guard-topic-ids") {
            return Ok(());
        }
        let topics = &context.topics;
        let names = [&topics.orders, &topics.pending, &topics.changelog].map(String::as_str);
        let found = self.admin.topic_ids(&names, REQUEST_TIMEOUT)?;
        let now = TopicsNote::of(topics, self.note.partitions, &found);
        context.check_unchanged(&now).map_err(halted)
    }

    pub(super) fn context(&self, partition: Partition) -> RestoreContext {
        RestoreContext {
            topics: self.config.topics.clone(),
            note: self.note.clone(),
            group_id: self.config.kafka.group_id.clone(),
            partition,
            store: self.directory.store(partition).display().to_string(),
        }
    }

    /// Performs a request. Returns `None` if the restore was cancelled meanwhile.
    fn perform(
        &self,
        reader: &ChangelogReader,
        (context, seen): (&RestoreContext, &mut Seen),
        request: &RestoreRequest,
        store: &mut Option<Box<Store>>,
        cancelled: &AtomicBool,
    ) -> anyhow::Result<Option<RestoreResponse>> {
        let (topics, partition) = (&context.topics, context.partition);
        Ok(Some(match *request {
            RestoreRequest::CommittedOffset => {
                let committed = reader.input_committed(&topics.orders, partition, REQUEST_TIMEOUT)?;
                let committed = seen.committed.insert(committed);
                RestoreResponse::CommittedOffset(committed.offset, noted(committed.metadata.clone()))
            }
            RestoreRequest::OtherNotes => {
                let count = i32::try_from(self.note.partitions).unwrap_or(i32::MAX);
                let others: Vec<Partition> = (0..count)
                    .map(Partition)
                    .filter(|other| *other != partition)
                    .collect();
                let found = reader.input_metadata(&topics.orders, &others, REQUEST_TIMEOUT)?;
                RestoreResponse::OtherNotes(
                    found
                        .into_iter()
                        .map(|(partition, metadata)| (partition, noted(metadata)))
                        .collect(),
                )
            }
            RestoreRequest::ChangelogBounds => {
                RestoreResponse::ChangelogBounds(reader.bounds(partition, REQUEST_TIMEOUT)?)
            }
            RestoreRequest::OrdersBounds => {
                let bounds = reader.bounds_of(&topics.orders, partition, REQUEST_TIMEOUT)?;
                RestoreResponse::OrdersBounds(*seen.orders.insert(bounds))
            }
            RestoreRequest::OrdersEpochEnd => {
                let epoch_end = seen.committed_in_epoch().map(|(orders, committed)| {
                    let log = (topics.orders.as_str(), partition);
                    let log_check = reader.log_check();
                    log_check.epoch_end(log, orders.start, committed, REQUEST_TIMEOUT)
                });
                RestoreResponse::OrdersEpochEnd(epoch_end.transpose()?)
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
            RestoreRequest::ApplyChangelog {
                start,
                checkpoint,
                end,
            } => {
                let range = ChangelogRange {
                    start,
                    checkpoint,
                    end: read_target(reader, partition, end)?,
                };
                let opened = store
                    .as_deref_mut()
                    .context("the store was not opened before the changelog was read")?;
                match self.read_changelog(
                    reader,
                    context,
                    opened,
                    range,
                    || cancelled.load(Ordering::Acquire),
                    &self.metrics.restore_records,
                )? {
                    ChangelogRead::Applied => RestoreResponse::ChangelogApplied,
                    ChangelogRead::Differs(offset) => RestoreResponse::StoreDiffers(offset),
                    ChangelogRead::Cancelled => return Ok(None),
                }
            }
            RestoreRequest::NewestOrder => RestoreResponse::NewestOrder(newest_order(reader, context)?),
            RestoreRequest::IsKnown(ref key) => {
                let opened = store
                    .as_deref()
                    .context("the store was not opened before its keys were compared with the outbox")?;
                RestoreResponse::IsKnown(opened.get(key)?.is_some())
            }
        }))
    }

    pub(super) fn open_store(&self, partition: Partition) -> anyhow::Result<Store> {
        let path = self.directory.store(partition);
        // Opening a store of another changelog or partition count rebuilds it: it has the keys of other
        // orders.
        let identity = Identity {
            changelog: self.config.topics.changelog.clone(),
            partition,
            partitions: self.note.partitions,
        };
        let cache = usize::try_from(self.config.store.cache.as_u64()).unwrap_or(usize::MAX);
        let options = Options {
            // The setting is the total: one instance may own all partitions.
            cache_bytes: cache / self.note.partitions.max(1),
            recent_max: (RECENT_UPDATES / self.note.partitions.max(1)).max(RECENT_UPDATES_MIN),
            period: self.config.store.retention.map(|retention| retention / PERIODS),
        };
        let opened = Store::open(&path, &identity, options, &self.writer)?;
        if let Some(why) = opened.rebuild_reason {
            self.metrics.stores_rebuilt.inc();
            tracing::warn!(
                %partition, path = %path.display(), why,
                "store not trusted, rebuilding it from the changelog"
            );
        }
        Ok(opened.store)
    }

    pub(super) fn discard_store(&self, partition: Partition) -> anyhow::Result<()> {
        tracing::error!(%partition, "store corrupt, rebuilding it from the changelog");
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

/// Returns the metadata of a committed offset. A test removes the guard: topics that have grown then look right
/// to a validator that has lost its state directory, and orders are paid twice.
fn noted(metadata: String) -> String {
    if guard_removed!("guard-topics-note") {
        return String::new();
    }
    metadata
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

/// Looks for the newest committed order of the outbox partition, from its end backwards.
fn newest_order(reader: &ChangelogReader, context: &RestoreContext) -> anyhow::Result<Option<NewestOrder>> {
    if guard_removed!("guard-newest-order") {
        return Ok(None);
    }
    // The last stable offset: a transaction of a caller that is still open must not hold up the validators. An
    // order that is committed behind it is not compared.
    let Bounds { start, mut end } =
        reader.stable_bounds_of(&context.topics.pending, context.partition, REQUEST_TIMEOUT)?;
    // Read afterwards: what is appended meanwhile counts as pending.
    let is_last = reader
        .bounds_of(&context.topics.pending, context.partition, REQUEST_TIMEOUT)?
        .end
        <= end;
    let mut length = LOOK_BACK;
    // Down to the start if need be: an aborted transaction of any size may follow the newest order, and
    // without one nothing is compared.
    while start < end {
        let from = start.max(Offset(end.0 - length));
        let newest = newest_order_within(reader, context, Bounds { start: from, end })?;
        if let Some(newest) = newest {
            return Ok(Some(NewestOrder { is_last, ..newest }));
        }
        (end, length) = (from, length.saturating_mul(LOOK_BACK_GROWTH));
    }
    Ok(None)
}

fn newest_order_within(
    reader: &ChangelogReader,
    context: &RestoreContext,
    bounds: Bounds,
) -> anyhow::Result<Option<NewestOrder>> {
    let RestoreContext {
        topics, partition, ..
    } = context;
    let mut newest = None;
    let read = reader.read_other(&topics.pending, *partition, bounds, |record| {
        // What a person has written to the outbox by hand has no source, and no entry.
        let is_of_partition = Admission::read(&record.headers.readable).is_ok_and(|admission| {
            admission.source.topic == topics.orders && admission.source.partition == *partition
        });
        if is_of_partition && record.offset < bounds.end {
            newest = Some(NewestOrder {
                offset: record.offset,
                key: IdempotencyKey::from_bytes(record.key)?,
                is_last: false,
            });
        }
        Ok::<(), InvalidKey>(())
    });
    match read {
        Ok(()) | Err(ReadError::Cancelled) => Ok(newest),
        Err(ReadError::Client(error)) => Err(error.into()),
        Err(ReadError::Sink(error)) => Err(error.into()),
    }
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
