//! Restore threads of a process: each job sends the requests that the pipeline asks for.

use std::sync::LazyLock;

use pipeline::admission::RestoreId;
use pipeline::admission::restore::{
    Chunk, NewestOrder, Restore, RestoreContext, RestoreRequest, RestoreResponse, RestoreStep, Tail,
};
use records::{
    Bounds, Entry, Forgotten, IdempotencyKey, KeyHash, Offset, Partition, TopicId, Topics, TopicsNote,
};

use crate::admission::broker::{LogEntry, Topic};
use crate::admission::disk::Store;
use crate::admission::mutations::Mutation;
use crate::admission::simulation::Env;

/// Restore of a partition, possibly cancelled.
pub(crate) struct RestoreJob {
    pub(crate) partition: Partition,
    pub(crate) id: RestoreId,
    store: Option<Store>,
    pub(crate) cancelled: bool,
    restore: Restore<'static>,
    request: RestoreRequest,
    reading: Option<(Offset, Tail)>,
    early_end: Option<Offset>,
}

/// Result of a restore.
pub(crate) struct Restored {
    pub(crate) partition: Partition,
    pub(crate) id: RestoreId,
    pub(crate) outcome: Outcome,
}

pub(crate) enum Outcome {
    Ready(Store, Offset, Option<Forgotten>),
    Halted(String),
    Cancelled,
}

/// Topics of the simulated cluster, which stay the same.
static NOTE: LazyLock<TopicsNote> = LazyLock::new(|| TopicsNote {
    partitions: PARTITIONS_MAX,
    orders: TopicId::new("orders"),
    pending: TopicId::new("pending"),
    changelog: TopicId::new("changelog"),
    forgotten: None,
});

const PARTITIONS_MAX: usize = 8;

static CONTEXTS: LazyLock<Vec<RestoreContext>> = LazyLock::new(|| {
    let context = |number| RestoreContext {
        topics: Topics::default(),
        note: NOTE.clone(),
        group_id: "order-validator".into(),
        partition: Partition(number),
        store: format!("state/{number}.redb"),
    };
    (0..).take(PARTITIONS_MAX).map(context).collect()
});

const CHUNK: usize = 2;

impl RestoreJob {
    pub(crate) fn new(partition: Partition, id: RestoreId, store: Option<Store>) -> Self {
        Self {
            partition,
            id,
            store,
            cancelled: false,
            restore: Restore::new(&CONTEXTS[crate::admission::orders::index(partition)]),
            request: RestoreRequest::CommittedOffset,
            reading: None,
            early_end: None,
        }
    }

    /// Runs one step of the thread. Returns the result when the restore is over.
    pub(crate) fn step(&mut self, host: usize, env: &mut Env) -> Option<Restored> {
        if self.cancelled && !env.is(Mutation::OldRestoreAccepted) {
            return Some(self.over(Outcome::Cancelled));
        }
        if env.faults && env.chance(1, 60) {
            self.retry();
            return None;
        }
        let Some(response) = self.perform(host, env) else {
            // A timeout of the brokers, or a position that does not move, ends the attempt.
            if env.chance(1, 20) {
                self.retry();
            }
            return None;
        };
        let mut next = self.restore.on(response);
        // In the same step: the topics stay the same, so it does not matter when their notes are read.
        if next == RestoreStep::Request(RestoreRequest::OtherNotes) {
            next = self.restore.on(RestoreResponse::OtherNotes(other_notes(env)));
        }
        // Likewise: the simulation's brokers lose no records.
        if next == RestoreStep::Request(RestoreRequest::OrdersEpochEnd) {
            next = self.restore.on(RestoreResponse::OrdersEpochEnd(None));
        }
        match next {
            RestoreStep::Request(request) => {
                self.request = request;
                None
            }
            RestoreStep::Ready(next) => {
                let store = self.store.take().expect("an open store");
                let forgotten = self.restore.forgotten(None);
                Some(self.over(Outcome::Ready(store, next, forgotten)))
            }
            RestoreStep::Halted(reason) => Some(self.over(Outcome::Halted(reason))),
        }
    }

    fn over(&self, outcome: Outcome) -> Restored {
        Restored {
            partition: self.partition,
            id: self.id,
            outcome,
        }
    }

    fn retry(&mut self) {
        let store = self.store.take();
        let cancelled = self.cancelled;
        *self = Self::new(self.partition, self.id, store);
        self.cancelled = cancelled;
    }

    fn perform(&mut self, host: usize, env: &mut Env) -> Option<RestoreResponse> {
        let partition = self.partition;
        let changelog = env.broker.log(Topic::Changelog, partition);
        Some(match self.request.clone() {
            RestoreRequest::CommittedOffset => {
                if env.is(Mutation::HighWatermarkFirst) && self.early_end.is_none() {
                    self.early_end = Some(changelog.high_watermark());
                    return None;
                }
                let requires_stable = !matches!(
                    env.mutation,
                    Some(Mutation::NoRequireStable | Mutation::NoRequireStablePipelined)
                );
                if requires_stable && !env.broker.is_stable(partition) {
                    return None;
                }
                let committed = env.broker.committed(partition);
                let note = || TopicsNote {
                    forgotten: env.broker.forgotten(partition),
                    ..NOTE.clone()
                };
                let metadata = committed.map_or(String::new(), |_| note().encode());
                RestoreResponse::CommittedOffset(committed, metadata)
            }
            RestoreRequest::OtherNotes => RestoreResponse::OtherNotes(other_notes(env)),
            RestoreRequest::ChangelogBounds => {
                let end = match self.early_end {
                    Some(end) => end,
                    None if env.is(Mutation::LastStableOffsetAsEnd) => changelog.last_stable_offset(),
                    None => changelog.high_watermark(),
                };
                RestoreResponse::ChangelogBounds(Bounds {
                    start: changelog.start,
                    end,
                })
            }
            RestoreRequest::OrdersBounds => RestoreResponse::OrdersBounds(Bounds {
                start: Offset(0),
                end: env.orders.end(partition),
            }),
            // The simulation's brokers lose no records.
            RestoreRequest::OrdersEpochEnd => RestoreResponse::OrdersEpochEnd(None),
            RestoreRequest::Checkpoint => {
                let disk = &mut env.disks[host];
                let store = self.store.get_or_insert_with(|| Store::open(disk, partition));
                RestoreResponse::Checkpoint(store.content.checkpoint)
            }
            RestoreRequest::OutboxIsEmpty => {
                let outbox = env.broker.log(Topic::Outbox, partition);
                let committed = outbox.committed().next().is_some();
                // Off with this mutation, since it would hide the guard that the mutation removes.
                RestoreResponse::OutboxIsEmpty(!committed || env.is(Mutation::LastStableOffsetAsEnd))
            }
            // Without the comparison: simulated logs lose nothing, and it would hide the rules that mutations
            // remove.
            RestoreRequest::ApplyChangelog {
                start,
                checkpoint,
                end,
            } => {
                return self.read(start.max(checkpoint), end, host, env);
            }
            RestoreRequest::NewestOrder => {
                // Off with a mutation, since it would hide the rule that the mutation removes.
                let is_off = env.mutation.is_some() && !env.is(Mutation::NewestOrderLate);
                RestoreResponse::NewestOrder(newest_order(env, partition).filter(|_| !is_off))
            }
            RestoreRequest::IsKnown(key) => {
                let store = self.store.as_ref().expect("an open store");
                let key = match newest_order(env, partition) {
                    Some(newest) if env.is(Mutation::NewestOrderLate) => newest.key,
                    Some(_) | None => key,
                };
                RestoreResponse::IsKnown(store.content.entries.contains_key(&KeyHash::from(&key)))
            }
        })
    }

    /// Reads up to three records, as a read_committed consumer does: up to the last stable offset.
    fn read(&mut self, from: Offset, to: Offset, host: usize, env: &mut Env) -> Option<RestoreResponse> {
        let (mut position, mut tail) = self
            .reading
            .take()
            .unwrap_or_else(|| (from, Tail::new(from, to, CHUNK)));
        let records_now = env.draw(4);
        let log = env.broker.log(Topic::Changelog, self.partition);
        let sees_all = env.is(Mutation::ReadsUncommitted);
        let stable = if sees_all {
            log.high_watermark()
        } else {
            log.last_stable_offset()
        };
        if position < log.start {
            // Out of range: another process has deleted forgotten keys meanwhile.
            self.retry();
            return None;
        }
        let mut full = Vec::new();
        for _ in 0..records_now {
            if position >= to.min(stable) {
                break;
            }
            let record = match log.entry_at(position) {
                LogEntry::Committed(record) => Some(record),
                LogEntry::Open(_, record) | LogEntry::Aborted(record) if sees_all => Some(record),
                LogEntry::Open(..) | LogEntry::Aborted(_) | LogEntry::Marker => None,
            };
            let at = record.and_then(|record| record.recorded);
            if let Some((key, entry)) = record.and_then(|record| record.change.as_ref()) {
                let taken = tail.take(key.as_bytes(), Some(&entry.encode()), position, at);
                full.extend(taken.expect("an entry"));
            }
            position = position.next();
        }
        let timed_out = env.is(Mutation::RestoreTimeoutIsComplete) && position >= stable && env.chance(1, 8);
        let store = self.store.as_mut().expect("an open store");
        let is_done = position >= to || timed_out;
        if is_done {
            full.extend(tail.end());
        } else {
            self.reading = Some((position, tail));
        }
        for chunk in full {
            if env.faults && env.chance(1, 80) {
                // The disk fails. The store must not be used further.
                self.store = None;
                env.disks[host].stores.remove(&self.partition);
                self.retry();
                return None;
            }
            write(store, chunk);
            store.persist(&mut env.disks[host], self.partition);
        }
        is_done.then_some(RestoreResponse::ChangelogApplied)
    }
}

fn other_notes(env: &Env) -> Vec<(Partition, String)> {
    (0..)
        .map(Partition)
        .take(PARTITIONS_MAX)
        .filter(|partition| env.broker.committed(*partition).is_some())
        .map(|partition| (partition, NOTE.encode()))
        .collect()
}

fn write(store: &mut Store, chunk: Chunk) {
    let changes = chunk.changes.into_iter().map(|(key, entry)| {
        (
            KeyHash::of(&key),
            entry.map(|bytes| Entry::decode(&bytes).expect("an entry")),
        )
    });
    store.apply(changes, chunk.checkpoint, chunk.recorded);
}

fn newest_order(env: &Env, partition: Partition) -> Option<NewestOrder> {
    let outbox = env.broker.log(Topic::Outbox, partition);
    let newest = outbox.committed().last()?;
    let order = env.orders.at(partition, newest.source).expect("an order");
    Some(NewestOrder {
        offset: newest.source,
        key: IdempotencyKey::new(&order.key).expect("an admitted key"),
        is_last: outbox.last_stable_offset() == outbox.high_watermark(),
    })
}
