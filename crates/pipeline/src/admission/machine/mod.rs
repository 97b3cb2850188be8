//! The state machine of stage one: events in, actions out.
//!
//! It tracks which partitions are assigned and which of them may process, and it holds the open
//! transaction. The program waits for events and performs the actions in their order; the result of an action
//! comes back as an event, before the next action is performed.
//!
//! Every failure, be it an aborted transaction, an unknown outcome, a fenced producer or a broken store, has
//! the same recovery: stop processing, open a new producer with the same transactional id, which ends what
//! the old one left open, and restore each partition from its committed offset and its changelog.

mod event;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use records::dead_letter::Reason;
use records::{Entry, IdempotencyKey, KeyHash, Offset, Partition, Timestamp, header};
use schemas::wire::VALUE_SCHEMA_ID;
use schemas::{SchemaId, Schemas, Unread};

use crate::admission::input::Input;
use crate::admission::membership::Membership;
use crate::admission::refusals::{MassRefusal, RefusalSettings, Refusals, Step};
use crate::admission::retention::Window;
use crate::admission::rules::{Refusal, Rules};
use crate::admission::schema_waits::{SchemaWait, SchemaWaits};
use crate::admission::transaction::{Admitted, NextOffset, Transaction, TransactionLimits};
use crate::admission::verdict::{Payload, Verdict, decide};

pub use self::event::{Action, AdmitResult, Event, PartitionState, RestoreId, SeenAgain, StoreFailure};

/// Interval between attempts to open a producer, after an attempt that failed.
const PRODUCER_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum number of recoveries in a row without a wait before the next producer.
// One failure may be reported several times: by the commit, by the fenced producer and by the store. More
// than these are a failure that persists, and must not be retried as fast as the brokers respond.
const IMMEDIATE_RECOVERIES_MAX: u32 = 3;

/// State machine of stage one. `M` is the group metadata that a transaction's offsets are sent with.
#[derive(Debug)]
pub struct Admission<M> {
    rules: Rules,
    limits: TransactionLimits,
    partitions: BTreeMap<Partition, PartitionState>,
    transaction: Option<Transaction>,
    refusals: Refusals,
    /// Schemas by which values are read; `None` if values are checked as they are.
    schemas: Option<Schemas>,
    schema_waits: SchemaWaits,
    /// Changelog offset up to which each store equals the changelog.
    // Kept after the release of a partition, until its next restore: its last transaction ends after that.
    checkpoints: BTreeMap<Partition, Offset>,
    /// Time for which keys are remembered; `None`: for ever.
    retention: Option<Duration>,
    /// Retention window of each partition, kept like its checkpoint.
    windows: BTreeMap<Partition, Window>,
    /// Membership as of the last assignment or revocation; `None` before the first one and after fencing.
    membership: Option<Membership<M>>,
    producer: Producer,
    /// Recoveries since the last commit.
    consecutive_failures: u32,
    last_restore_id: RestoreId,
    stopping: bool,
    /// Time of the creation.
    started: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Producer {
    Ready,
    /// No producer; the next attempt to open one is due at this time.
    OpenAt(Instant),
}

impl<M: Clone> Admission<M> {
    /// Creates a state machine without partitions and without a producer, which the first tick opens. It
    /// pauses no partition for its refusals ([`Admission::with_refusals`]).
    #[must_use]
    pub fn new(rules: Rules, limits: TransactionLimits, now: Instant) -> Self {
        Self {
            rules,
            limits,
            partitions: BTreeMap::new(),
            transaction: None,
            refusals: Refusals::new(RefusalSettings::OFF),
            schemas: None,
            schema_waits: SchemaWaits::default(),
            checkpoints: BTreeMap::new(),
            retention: None,
            windows: BTreeMap::new(),
            membership: None,
            producer: Producer::OpenAt(now),
            consecutive_failures: 0,
            last_restore_id: RestoreId::default(),
            stopping: false,
            started: now,
        }
    }

    /// The same state machine, with these settings for refusals in mass.
    #[must_use]
    pub fn with_refusals(mut self, settings: RefusalSettings) -> Self {
        self.refusals = Refusals::new(settings);
        self
    }

    /// The same state machine, which reads values in the wire format of a schema registry; `None`: it checks values as they
    /// are.
    #[must_use]
    pub fn with_schemas(mut self, schemas: Option<Schemas>) -> Self {
        self.schemas = schemas;
        self
    }

    /// The same state machine, which remembers the keys of admitted orders for this time; `None`: for ever.
    #[must_use]
    pub const fn with_retention(mut self, retention: Option<Duration>) -> Self {
        self.retention = retention;
        self
    }

    /// Decides on an input record and adds it to the open transaction, which it begins if there is none.
    /// `known` looks a key up in the partition's store, which knows it by its hash.
    ///
    /// # Errors
    /// Returns the error of `known`; to be followed by [`Event::StoreFailed`]. The record is not decided.
    pub fn admit<E>(
        &mut self,
        input: &Input<'_>,
        wall: Timestamp,
        now: Instant,
        known: impl FnOnce(&IdempotencyKey, KeyHash) -> Result<Option<Entry>, E>,
    ) -> Result<AdmitResult, E> {
        let is_running = matches!(
            self.partitions.get(&input.partition),
            Some(PartitionState::Running { .. })
        );
        // Such a record may be in the consumer's queue still. Dropping it is safe: the partition starts again
        // at its committed offset.
        if !is_running || self.stopping || self.is_paused(input.partition) {
            return Ok(AdmitResult::NotRunning);
        }
        let payload = match self.payload(input, now) {
            Ok(payload) => payload,
            Err(schema) => {
                self.schema_waits.begin(input.partition, input.offset, schema);
                return Ok(AdmitResult::AwaitsSchema(schema));
            }
        };
        let transaction = self.transaction.as_ref();
        let window = self.windows.get(&input.partition).copied().unwrap_or_default();
        let record = |at| window.record(self.retention, at, wall);
        // Computed once: it costs as much as both look-ups.
        let mut looked_up = None;
        let mut seen = None;
        let verdict = decide(&self.rules, input, payload, wall, record, |key| {
            let hash = *looked_up.insert(KeyHash::from(key));
            // The transaction first: its keys are not in the store before Kafka has committed them.
            let found = match transaction.and_then(|transaction| transaction.get(input.partition, hash)) {
                Some(entry) => Some(entry),
                None => known(key, hash)?,
            };
            // Not the very record that was admitted, which is known for as long as it is in the window.
            seen = found
                .filter(|first| first.source != input.offset)
                .map(|first| (key.clone(), first));
            Ok(found)
        })?;
        // By such a clock the order would be refused as from the future.
        if let Some(reason) = window.clock_behind(self.retention, wall)
            && !matches!(verdict, Verdict::Duplicate { .. })
        {
            return Ok(AdmitResult::ClockBehind(reason));
        }
        let begins = self.transaction.is_none();
        let again = seen.and_then(|(key, entry)| {
            let recorded = window.record_again(self.retention, entry.source, input.at, wall)?;
            Some(SeenAgain { key, entry, recorded })
        });
        let window = self.windows.entry(input.partition).or_default();
        let admitted = match (&verdict, &again) {
            (Verdict::Admit { key, entry, recorded }, _) => {
                window.admitted(input.offset, *recorded);
                Some((looked_up.unwrap_or_else(|| KeyHash::from(key)), *entry))
            }
            // A duplicate or conflict must not replace the entry of the order that was admitted.
            (Verdict::Duplicate { .. } | Verdict::Refuse(_), Some(again)) => {
                window.seen_again(again.recorded);
                Some((
                    looked_up.unwrap_or_else(|| KeyHash::from(&again.key)),
                    again.entry,
                ))
            }
            (Verdict::Duplicate { .. } | Verdict::Refuse(_), None) => None,
        };
        self.refusals
            .decided(input.partition, input.offset, &verdict, now);
        let bytes = input.bytes();
        self.transaction
            .get_or_insert_with(|| Transaction::begin(now))
            .take(input.partition, input.offset, bytes, admitted);
        Ok(AdmitResult::Decided {
            verdict,
            begins,
            again,
        })
    }

    /// Takes note that no record of the partition below `next` is still to come: behind its last record are transaction
    /// markers or aborted records. Returns `true` if that begins a transaction, which commits the offset alone.
    #[must_use]
    pub fn reached_end(&mut self, partition: Partition, next: Offset, now: Instant) -> bool {
        let Some(PartitionState::Running { committed }) = self.partitions.get(&partition) else {
            return false;
        };
        // What was read ahead of a pause is not decided, and comes again; so does a record that waits for its schema.
        if next <= *committed || self.stopping || self.is_paused(partition) {
            return false;
        }
        let begins = self.transaction.is_none();
        self.transaction
            .get_or_insert_with(|| Transaction::begin(now))
            .pass(partition, next);
        begins
    }

    /// Returns the value of a record, or the schema that it needs.
    fn payload<'a>(&self, input: &Input<'a>, now: Instant) -> Result<Result<Payload<'a>, Refusal>, SchemaId> {
        let bytes = match self.rules.value(input) {
            Ok(bytes) => bytes,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Some(schemas) = &self.schemas else {
            return Ok(Ok(Payload {
                bytes,
                document: None,
            }));
        };
        let has_id_header = header::last(input.headers, VALUE_SCHEMA_ID).is_some();
        let (reason, detail) = match schemas.read(bytes, has_id_header, now) {
            Ok(document) => {
                let document = Some(document);
                return Ok(Ok(Payload { bytes, document }));
            }
            Err(Unread::Needs(schema)) => return Err(schema),
            Err(Unread::Invalid(why)) => (Reason::NotAnOrder, why),
            Err(Unread::UnknownSchema(why)) => (Reason::UnknownSchema, why),
            Err(Unread::UnusableSchema(why)) => (Reason::UnusableSchema, why),
        };
        Ok(Err(Refusal { reason, detail }))
    }

    /// Returns `true` while no record of a running partition may be decided.
    fn is_paused(&self, partition: Partition) -> bool {
        self.refusals.is_paused(partition) || self.schema_waits.is_waiting(partition)
    }

    /// Notes that there is no further record to read: the open transaction ends earlier than under a backlog.
    pub fn caught_up(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.caught_up();
        }
    }

    /// Returns the actions to perform for an event, in their order.
    pub fn on(&mut self, event: Event<M>, now: Instant) -> Vec<Action<M>> {
        match event {
            Event::Assigned(partitions, membership) => self.assigned(partitions, membership, now),
            Event::Revoked(partitions, membership) => self.revoked(partitions, membership, now),
            Event::Lost(partitions) => self.lost(partitions, now),
            Event::Fenced => self.fenced(now),
            Event::Restored {
                partition,
                id,
                next,
                checkpoint,
                window,
            } => self.restored(partition, id, next, checkpoint, window),
            Event::Forgettable(partition, forgotten) => {
                // Noted with the next offset: without new orders the window does not move, and nothing is forgotten.
                if let (Some(PartitionState::Running { .. }), Some(window)) =
                    (self.partitions.get(&partition), self.windows.get_mut(&partition))
                {
                    window.forget(forgotten);
                }
                Vec::new()
            }
            Event::Halt(partition, reason) => self.halt(partition, reason, now),
            Event::RestoreHalted(partition, id, reason) => {
                // Compared by id: an earlier restore may have seen a state that is gone.
                if self.partitions.get(&partition) == Some(&PartitionState::Restoring(id)) {
                    self.partitions.insert(partition, PartitionState::Halted(reason));
                }
                Vec::new()
            }
            Event::Committed(reached) => self.committed(&reached, false, now),
            Event::CommittedRetireProducer(reached) => self.committed(&reached, true, now),
            Event::TransactionFailed => self.recover(now),
            Event::StoreFailed(partition, failure) => {
                let mut actions = self.recover(now);
                actions.push(match failure {
                    // The changelog has all that the store had, so it is rebuilt.
                    StoreFailure::Corrupt => Action::Discard(partition),
                    // A sound file would be rebuilt for hours, or lost on a full disk. Its restore opens it
                    // again, retries until it can be written, and reads the changelog's tail.
                    StoreFailure::Unavailable => Action::Close(partition),
                });
                actions
            }
            Event::ProducerOpened => self.producer_opened(),
            Event::ProducerFailed => {
                self.producer = Producer::OpenAt(now + PRODUCER_RETRY_INTERVAL);
                Vec::new()
            }
            Event::SchemaAnswered(id, answer) => self.schema_answered(id, answer, now),
            Event::Tick => self.tick(now),
            Event::Stop => self.stop(now),
        }
    }

    /// Returns the latest time for the next [`Event::Tick`]; `None` while nothing is due.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let end = self
            .transaction
            .as_ref()
            .map(|transaction| transaction.due(&self.limits));
        // No clock here: the start of a wait is surely not in the future.
        let pauses = self.schema_waits.is_due().then_some(self.started);
        let due = end.into_iter().chain(self.refusals.due()).chain(pauses);
        match self.producer {
            Producer::OpenAt(at) => due.chain([at]).min(),
            Producer::Ready => due.min(),
        }
    }

    /// Returns the partitions most of whose records are refused, which are paused after each further one.
    pub fn mass_refusals(&self) -> impl Iterator<Item = (Partition, MassRefusal)> + '_ {
        self.refusals.in_mass()
    }

    /// Returns the schemas that partitions wait for.
    #[must_use]
    pub fn wanted_schemas(&self) -> BTreeSet<SchemaId> {
        self.schema_waits.wanted()
    }

    /// Returns the partitions that wait for a schema.
    pub fn schema_waits(&self) -> impl Iterator<Item = SchemaWait> + '_ {
        self.schema_waits.iter()
    }

    /// Returns the assigned partitions and their states.
    #[must_use]
    pub fn partitions(&self) -> &BTreeMap<Partition, PartitionState> {
        &self.partitions
    }

    /// Returns the recorded time before which keys of a running partition can be forgotten; `None` if none can.
    #[must_use]
    pub fn cutoff(&self, partition: Partition) -> Option<Timestamp> {
        let state = self.partitions.get(&partition);
        let is_running = matches!(state, Some(PartitionState::Running { .. }));
        let window = self.windows.get(&partition).filter(|_| is_running)?;
        window.cutoff(self.retention)
    }

    /// Returns the recorded time of the newest order of a partition that was restored.
    #[must_use]
    pub fn newest(&self, partition: Partition) -> Option<Timestamp> {
        self.windows.get(&partition)?.newest()
    }

    fn schema_answered(&mut self, id: SchemaId, answer: schemas::Answer, now: Instant) -> Vec<Action<M>> {
        if let Some(schemas) = &mut self.schemas {
            schemas.insert(id, answer, now);
        }
        let ended = self.schema_waits.end(id).into_iter();
        ended
            .map(|(partition, at)| Action::Start(partition, at))
            .collect()
    }

    fn assigned(
        &mut self,
        partitions: Vec<Partition>,
        membership: Membership<M>,
        now: Instant,
    ) -> Vec<Action<M>> {
        let mut actions = self.update_membership(membership, now);
        for partition in &partitions {
            self.partitions.insert(*partition, PartitionState::AwaitsProducer);
        }
        actions.push(Action::Accept(partitions));
        // Without a producer the last transaction may still be open, and its offsets pending: the restores
        // wait for `ProducerOpened`.
        if self.producer == Producer::Ready {
            actions.extend(self.restore_waiting());
        }
        actions
    }

    fn revoked(
        &mut self,
        partitions: Vec<Partition>,
        membership: Membership<M>,
        now: Instant,
    ) -> Vec<Action<M>> {
        let mut actions = self.update_membership(membership, now);
        // The partitions are ours until they are released, so the open transaction is still committed.
        actions.extend(self.end(now));
        actions.extend(self.release(partitions));
        actions
    }

    /// Replaces the membership, and recovers if the member was out of the group since the last one.
    fn update_membership(&mut self, membership: Membership<M>, now: Instant) -> Vec<Action<M>> {
        let before = self.membership.replace(membership);
        let is_same = before.map(|before| before.member_id)
            == self.membership.as_ref().map(|now| now.member_id.clone());
        if is_same || self.partitions.is_empty() {
            return Vec::new();
        }
        // librdkafka may rejoin under a new member id without a revocation or a loss, and keeps its
        // partitions. Others may have processed them meanwhile, or own them now, and a transaction begun as
        // the old member would pass Kafka's check under the new membership. So everything starts again.
        for state in self.partitions.values_mut() {
            // Halted partitions, too: another member may have changed the state that they were halted for.
            if matches!(state, PartitionState::Halted(_)) {
                *state = PartitionState::AwaitsProducer;
            }
        }
        self.recover(now)
    }

    fn lost(&mut self, partitions: Vec<Partition>, now: Instant) -> Vec<Action<M>> {
        // Nothing of a lost partition may be committed, and a transaction is committed whole or not at all.
        let mut actions = if self.transaction.is_some() {
            self.recover(now)
        } else {
            Vec::new()
        };
        actions.extend(self.release(partitions));
        actions
    }

    fn fenced(&mut self, now: Instant) -> Vec<Action<M>> {
        self.transaction = None;
        self.refusals.forget_all();
        self.schema_waits.forget_all();
        self.membership = None;
        // Another process that took over the membership has the same transactional id, so it fences this
        // producer, too.
        self.producer = Producer::OpenAt(now);
        let mut actions = vec![Action::DropProducer];
        // No `Pause` and no release: the consumer was fenced and takes no further calls.
        for (partition, state) in std::mem::take(&mut self.partitions) {
            if matches!(state, PartitionState::Restoring(_)) {
                actions.push(Action::CancelRestore(partition));
            }
            actions.push(Action::Close(partition));
        }
        actions
    }

    fn release(&mut self, partitions: Vec<Partition>) -> Vec<Action<M>> {
        self.refusals.forget(&partitions);
        let mut actions = Vec::new();
        for partition in &partitions {
            self.schema_waits.forget(*partition);
            if let Some(PartitionState::Restoring(_)) = self.partitions.remove(partition) {
                actions.push(Action::CancelRestore(*partition));
            }
            actions.push(Action::Close(*partition));
        }
        // Last: after it the next owner may start.
        actions.push(Action::Release(partitions));
        actions
    }

    fn restored(
        &mut self,
        partition: Partition,
        id: RestoreId,
        next: Offset,
        checkpoint: Offset,
        window: Window,
    ) -> Vec<Action<M>> {
        // The offsets of an earlier restore may be outdated: the partition has been revoked or has failed
        // since.
        if self.partitions.get(&partition) != Some(&PartitionState::Restoring(id)) {
            return Vec::new();
        }
        self.partitions
            .insert(partition, PartitionState::Running { committed: next });
        self.checkpoints.insert(partition, checkpoint);
        self.windows.insert(partition, window);
        let mut actions = vec![Action::Start(partition, next)];
        // The process that noted it may have died before it removed the keys, or this store is older.
        actions.extend(
            window
                .forgotten()
                .map(|forgotten| Action::Forget(partition, forgotten)),
        );
        actions
    }

    /// Halts a running partition, once what was decided before is committed.
    fn halt(&mut self, partition: Partition, reason: String, now: Instant) -> Vec<Action<M>> {
        if !matches!(
            self.partitions.get(&partition),
            Some(PartitionState::Running { .. })
        ) {
            return Vec::new();
        }
        let mut actions = self.end(now);
        self.refusals.end_pause(partition);
        self.schema_waits.forget(partition);
        self.partitions
            .insert(partition, PartitionState::Halted(reason.clone()));
        actions.push(Action::Pause(vec![partition]));
        actions.push(Action::Close(partition));
        actions.push(Action::ReportHalt(partition, reason));
        actions
    }

    fn committed(
        &mut self,
        reached: &HashMap<Partition, Offset>,
        retire_producer: bool,
        now: Instant,
    ) -> Vec<Action<M>> {
        let mut must_recover = retire_producer;
        let mut actions = Vec::new();
        if let Some(transaction) = self.transaction.take() {
            self.consecutive_failures = 0;
            let mut forgets = Vec::new();
            for (partition, next) in transaction.offsets() {
                // A partition that was revoked with this transaction is no longer in the map.
                if let Some(PartitionState::Running { committed }) = self.partitions.get_mut(&partition) {
                    *committed = next;
                    // Only now that the note is committed: without it the next owner would halt on the changelog's new
                    // start, or, with a setting that has changed, admit the orders of these keys again.
                    let window = self.windows.get_mut(&partition);
                    let noted = window.and_then(Window::noted);
                    forgets.extend(noted.map(|forgotten| Action::Forget(partition, forgotten)));
                }
            }
            for (partition, admitted) in transaction.into_admitted() {
                // Without entries the changelog has no new record, so the checkpoint stays.
                if admitted.is_empty() {
                    continue;
                }
                match reached.get(&partition) {
                    Some(offset) if *offset > Offset(0) => {
                        actions.extend(self.apply(partition, admitted, *offset));
                    }
                    // The entries are committed, at an unknown offset. Dropping them would admit their orders
                    // again, so the store is restored. That of a released partition is, by its next owner.
                    Some(_) | None => must_recover |= self.partitions.contains_key(&partition),
                }
            }
            actions.extend(forgets);
        }
        // Last: the commit counts, so its entries go to the stores before the producer is replaced.
        if must_recover {
            actions.extend(self.recover(now));
        }
        actions
    }

    /// Applies committed entries to a store. Halts the partition if the changelog has lost its end.
    fn apply(&mut self, partition: Partition, admitted: Admitted, reached: Offset) -> Vec<Action<M>> {
        let checkpoint = self.checkpoints.get(&partition).copied().unwrap_or(Offset(0));
        let written = i64::try_from(admitted.len()).unwrap_or(i64::MAX);
        let newest = self.newest(partition);
        // A log only grows: each new record lies at the checkpoint or after it.
        if reached.0 >= checkpoint.0.saturating_add(written) {
            self.checkpoints.insert(partition, reached);
            return vec![Action::Apply(partition, admitted, reached, newest)];
        }
        // The keys are added all the same: their orders are on the outbox. The checkpoint stays, so that the
        // next restore compares it with the changelog, too.
        let mut actions = vec![Action::Apply(partition, admitted, checkpoint, newest)];
        if let Some(state) = self.partitions.get_mut(&partition) {
            self.refusals.end_pause(partition);
            self.schema_waits.forget(partition);
            let reason = lost_end(partition, written, reached, checkpoint);
            *state = PartitionState::Halted(reason.clone());
            actions.push(Action::Pause(vec![partition]));
            actions.push(Action::Close(partition));
            actions.push(Action::ReportHalt(partition, reason));
        }
        actions
    }

    /// Ends the open transaction, if there is one.
    fn end(&mut self, now: Instant) -> Vec<Action<M>> {
        match (&self.transaction, &self.membership) {
            (Some(transaction), Some(membership)) => {
                let with_note = |(partition, offset)| NextOffset {
                    partition,
                    offset,
                    forgotten: self.windows.get(&partition).and_then(Window::forgotten),
                };
                let offsets = transaction.offsets().map(with_note).collect();
                vec![Action::EndTransaction(offsets, membership.metadata.clone())]
            }
            // Kafka cannot fence offsets that come without a membership, so they are never sent.
            (Some(_), None) => self.recover(now),
            (None, _) => Vec::new(),
        }
    }

    /// Recovers from any failure; see the head of this file.
    fn recover(&mut self, now: Instant) -> Vec<Action<M>> {
        // Perhaps committed, perhaps not: the restore learns it from Kafka.
        self.transaction = None;
        self.refusals.end_pauses();
        self.schema_waits.forget_all();
        let mut actions = Vec::new();
        let mut running = Vec::new();
        for (partition, state) in &mut self.partitions {
            match state {
                PartitionState::Running { .. } => running.push(*partition),
                // It may have read its offsets while the failed transaction was still pending.
                PartitionState::Restoring(_) => actions.push(Action::CancelRestore(*partition)),
                PartitionState::AwaitsProducer => continue,
                // A new producer repairs no lost records.
                PartitionState::Halted(_) => continue,
            }
            *state = PartitionState::AwaitsProducer;
        }
        if !running.is_empty() {
            // First, so that no further record arrives for a transaction that is over.
            actions.insert(0, Action::Pause(running));
        }
        actions.push(Action::DropProducer);
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        // On the next tick, not here: opening a producer may take seconds, and a revocation that waits for
        // its acknowledgement goes first.
        self.producer = Producer::OpenAt(match self.consecutive_failures {
            ..=IMMEDIATE_RECOVERIES_MAX => now,
            _ => now + PRODUCER_RETRY_INTERVAL,
        });
        actions
    }

    fn producer_opened(&mut self) -> Vec<Action<M>> {
        self.producer = Producer::Ready;
        self.restore_waiting()
    }

    fn restore_waiting(&mut self) -> Vec<Action<M>> {
        let mut actions = Vec::new();
        for (partition, state) in &mut self.partitions {
            if *state == PartitionState::AwaitsProducer {
                // Never reused, also after the partition was revoked: a late result must match no later restore.
                self.last_restore_id = RestoreId(self.last_restore_id.0 + 1);
                *state = PartitionState::Restoring(self.last_restore_id);
                actions.push(Action::Restore(*partition, self.last_restore_id));
            }
        }
        actions
    }

    fn tick(&mut self, now: Instant) -> Vec<Action<M>> {
        match self.producer {
            Producer::OpenAt(at) if at <= now => return vec![Action::OpenProducer],
            Producer::OpenAt(_) | Producer::Ready => {}
        }
        match &self.transaction {
            // Alone: its failure stops the partitions, and one that continues behind it would run.
            Some(transaction) if transaction.due(&self.limits) <= now => self.end(now),
            Some(_) | None if self.schema_waits.is_due() => vec![Action::Pause(self.schema_waits.announce())],
            Some(_) | None => match self.refusals.step(now) {
                Some(Step::Pause(partition)) => vec![Action::Pause(vec![partition])],
                Some(Step::Continue(partition, next)) => vec![Action::Start(partition, next)],
                None => Vec::new(),
            },
        }
    }

    fn stop(&mut self, now: Instant) -> Vec<Action<M>> {
        let mut actions = self.end(now);
        self.stopping = true;
        for (partition, state) in &self.partitions {
            if matches!(state, PartitionState::Restoring(_)) {
                actions.push(Action::CancelRestore(*partition));
            }
            actions.push(Action::Close(*partition));
        }
        actions.push(Action::Leave);
        actions
    }
}

/// Describes a changelog whose end was lost while its partition was running.
fn lost_end(partition: Partition, written: i64, reached: Offset, checkpoint: Offset) -> String {
    format!(
        "the changelog of partition {partition} was written up to offset {reached} by a transaction with {written} \
         keys, and the store was equal to it up to {checkpoint} before: the changelog has lost records that Kafka had \
         acknowledged (its log was truncated, or the topic was deleted and created again). Their keys are \
         unknown to any other validator, which would admit their orders again, and they would be paid twice. \
         This validator's store is kept, as it may hold the last copy of these keys: stop all validators, keep \
         this state directory, and rebuild the changelog from the outbox: outbox state rebuild"
    )
}

#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;
