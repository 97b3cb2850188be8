//! One validator: the real state machine and verdicts, in a shell that performs actions as the program does,
//! one at a time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use pipeline::admission::{
    Action, Admission, AdmitResult, Admitted, Event, Input, KeySource, Membership, OrderForm, PartitionState,
    Partitioner, RecordKey, RestoreId, Rules, SeenAgain, StoreFailure, TransactionLimits, Verdict, Window,
};
use records::{AmountForm, Forgotten, KeyHash, Offset, Partition, Selection, Timestamp};

use crate::admission::broker::{BrokerError, Record, Topic};
use crate::admission::checker::{Guarantee, Violation, violation};
use crate::admission::disk::Store;
use crate::admission::group::{GroupEvent, GroupMetadata, ProcessId};
use crate::admission::mutations::Mutation;
use crate::admission::orders::{RETENTION, WALL, index};
use crate::admission::producer::{CommitOutcome, Producer, TransactionCommit};
use crate::admission::restore_job::{Outcome, RestoreJob, Restored};
use crate::admission::simulation::Env;

pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) instance: usize,
    /// Host, by the index of its disk.
    pub(crate) host: usize,
    pub(crate) asleep_until: u64,
    pub(crate) stop_requested: bool,
    /// `true` once the process has exited.
    pub(crate) left: bool,
    /// Another member has its instance id. It has no partitions, and joins again when the id is vacant.
    awaits_instance_id: bool,
    admission: Admission<GroupMetadata>,
    actions: VecDeque<Action<GroupMetadata>>,
    operation: Option<Operation>,
    stores: BTreeMap<Partition, Store>,
    /// Restores of each partition, which run one after the other.
    restores: BTreeMap<Partition, VecDeque<RestoreJob>>,
    results: VecDeque<Restored>,
    producer: Option<Producer>,
    /// Consumer: next offset of each started partition, and `true` if it is paused.
    started: BTreeMap<Partition, (Offset, bool)>,
    /// Group metadata of the last event.
    meta: Option<GroupMetadata>,
    /// Committed offsets, for mutations that do not ask Kafka.
    known: BTreeMap<Partition, Offset>,
}

/// Operation that takes several steps. The consumer is not polled meanwhile.
enum Operation {
    End(TransactionCommit),
    Open,
}

impl Process {
    pub(crate) fn start(id: ProcessId, instance: usize, host: usize, env: &mut Env) -> Self {
        let rules = Rules {
            form: OrderForm::BuiltIn(AmountForm::MinorUnits),
            key: KeySource::Pointer("/order_id".into()),
            record_key: RecordKey::IsIdempotencyKey,
            fingerprint: Selection::Order,
            partitioner: Partitioner::Any,
            partitions: 2,
            record_bytes_max: 1 << 20,
        };
        let limits = TransactionLimits {
            commit_interval: Duration::from_millis(20),
            backlog_interval: Duration::from_millis(60),
            orders_max: 1 + env.draw(4),
            bytes_max: 1 << 20,
        };
        env.group.start(id, instance);
        Self {
            id,
            instance,
            host,
            asleep_until: 0,
            stop_requested: false,
            left: false,
            awaits_instance_id: false,
            admission: Admission::new(rules, limits, env.now)
                .with_refusals(env.refusals)
                .with_retention(env.forgets.then_some(RETENTION)),
            actions: VecDeque::new(),
            operation: None,
            stores: BTreeMap::new(),
            restores: BTreeMap::new(),
            results: VecDeque::new(),
            producer: None,
            started: BTreeMap::new(),
            meta: None,
            known: BTreeMap::new(),
        }
    }

    /// Runs a turn of the run loop, or a part of one.
    pub(crate) fn step(&mut self, env: &mut Env) -> Result<(), Violation> {
        if env.chance(1, 2)
            && let Some(producer) = &mut self.producer
        {
            producer.pump(env);
        }
        match self.operation.take() {
            Some(operation) => self.advance(operation, env)?,
            None if self.actions.is_empty() && self.awaits_instance_id => self.check_instance_id(env),
            None if self.actions.is_empty() => self.next_event(env)?,
            None => {}
        }
        while self.operation.is_none() && !self.left {
            let Some(action) = self.actions.pop_front() else {
                return self.check(env);
            };
            self.perform(action, env)?;
            // A crash, or anything else, may happen between two actions.
            if env.chance(1, 5) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns `true` if a restore is running.
    pub(crate) fn is_restoring(&self) -> bool {
        self.restores.values().any(|restores| !restores.is_empty())
    }

    /// Runs a step of one of the restore threads.
    pub(crate) fn step_restore(&mut self, env: &mut Env) {
        let with_restores = self
            .restores
            .values()
            .filter(|restores| !restores.is_empty())
            .count();
        if with_restores == 0 {
            return;
        }
        let number = env.draw(with_restores);
        let mut restores = self.restores.values_mut().filter(|restores| !restores.is_empty());
        let Some(restores) = restores.nth(number) else {
            return;
        };
        if let Some(restored) = restores
            .front_mut()
            .and_then(|restore| restore.step(self.host, env))
        {
            restores.pop_front();
            self.results.push_back(restored);
        }
    }

    pub(crate) fn killed(self, env: &mut Env) {
        env.group.process_died(self.id);
        self.end(env);
    }

    /// Removes a process that has exited or was killed.
    pub(crate) fn end(self, env: &mut Env) {
        if let Some(producer) = self.producer {
            env.forget(producer.from);
            env.producers.remove(&producer.from);
        }
        if env.is(Mutation::CheckpointBeforeKeys) {
            for (partition, store) in self.stores {
                if let Some(durable) = env.disks[self.host].stores.get_mut(&partition) {
                    durable.checkpoint = store.content.checkpoint;
                }
            }
        }
    }

    fn next_event(&mut self, env: &mut Env) -> Result<(), Violation> {
        // By the number of steps: in the other seeds nothing changes.
        if env.forgets && env.steps.is_multiple_of(5) {
            self.forget_old_keys(env);
        }
        if self.stop_requested {
            self.handle(Event::Stop, env);
            return Ok(());
        }
        let first = env.draw(4);
        for kind in (first..4).chain(0..first) {
            match kind {
                0 => {
                    if let Some(restored) = self.results.pop_front() {
                        return self.restored(restored, env);
                    }
                }
                1 => {
                    if let Some(group_event) = env.group.poll(self.id) {
                        self.group_event(group_event, env);
                        return Ok(());
                    }
                }
                2 => {
                    if self.admission.due().is_some_and(|due| due <= env.now) {
                        self.handle(Event::Tick, env);
                        return Ok(());
                    }
                    if env.chance(1, env.persist_every) {
                        self.persist(env);
                        return Ok(());
                    }
                }
                _ => {
                    if self.record(env) {
                        return Ok(());
                    }
                }
            }
        }
        self.admission.caught_up();
        Ok(())
    }

    fn handle(&mut self, event: Event<GroupMetadata>, env: &mut Env) {
        env.trace(|| format!("process {} gets {event:?}", self.id));
        match &event {
            Event::Assigned(_, membership) | Event::Revoked(_, membership) => {
                self.meta = Some(membership.metadata);
            }
            _ => {}
        }
        for action in self.admission.on(event, env.now).into_iter().rev() {
            self.actions.push_front(action);
        }
    }

    fn group_event(&mut self, group_event: GroupEvent, env: &mut Env) {
        match group_event {
            GroupEvent::Assigned(partitions, meta) => {
                self.handle(Event::Assigned(partitions, membership(meta, env)), env);
            }
            GroupEvent::Revoked(partitions, meta) => {
                self.handle(Event::Revoked(partitions, membership(meta, env)), env);
            }
            GroupEvent::Lost(partitions) => {
                env.count("partitions lost");
                self.handle(Event::Lost(partitions), env);
            }
            GroupEvent::Fenced => self.fenced(env),
        }
    }

    fn fenced(&mut self, env: &mut Env) {
        env.trace(|| format!("process {} is fenced", self.id));
        env.count("processes fenced");
        env.group.process_died(self.id);
        // Actions of the former membership are not performed.
        self.actions.clear();
        self.started.clear();
        self.awaits_instance_id = true;
        self.handle(Event::Fenced, env);
    }

    /// Checks the owner of the instance id: vacant, perhaps a stale member, or a live process.
    fn check_instance_id(&mut self, env: &mut Env) {
        if env.group.is_free(self.instance) {
            env.count("rejoins");
            env.group.start(self.id, self.instance);
            self.awaits_instance_id = false;
        } else if self.stop_requested || env.group.is_alive(self.instance) && env.chance(1, 20) {
            self.left = true;
        }
    }

    pub(crate) fn awaits_instance_id(&self) -> bool {
        self.awaits_instance_id
    }

    fn restored(&mut self, restored: Restored, env: &mut Env) -> Result<(), Violation> {
        let Restored {
            partition,
            mut id,
            outcome,
        } = restored;
        if env.is(Mutation::OldRestoreAccepted)
            && let Some(PartitionState::Restoring(wanted)) = self.admission.partitions().get(&partition)
        {
            id = *wanted;
        }
        let wanted = self.admission.partitions().get(&partition) == Some(&PartitionState::Restoring(id));
        match outcome {
            Outcome::Ready(store, next, forgotten) if wanted => {
                let checkpoint = store.content.checkpoint.unwrap_or(Offset(0));
                let window = Window::new(store.content.newest, forgotten);
                self.stores.insert(partition, store);
                let event = Event::Restored {
                    partition,
                    id,
                    next,
                    checkpoint,
                    window,
                };
                self.handle(event, env);
                Ok(())
            }
            Outcome::Halted(reason) => violation(
                Guarantee::Drain,
                format!("{partition} is halted without a loss: {reason}"),
            ),
            // A store that is dropped keeps its durable state.
            Outcome::Ready(..) | Outcome::Cancelled => Ok(()),
        }
    }

    /// Looks for keys that can be forgotten, as the run loop does now and then.
    fn forget_old_keys(&mut self, env: &mut Env) {
        let partitions: Vec<Partition> = self.stores.keys().copied().collect();
        for partition in partitions {
            let mut cutoff = self.admission.cutoff(partition);
            if env.is(Mutation::ForgottenByWallClock) && cutoff.is_some() {
                cutoff = Some(WALL);
            }
            let store = &self.stores[&partition];
            let Some(forgotten) = cutoff.and_then(|cutoff| store.forgettable(cutoff)) else {
                continue;
            };
            self.handle(Event::Forgettable(partition, forgotten), env);
            if env.is(Mutation::CutBeforeNote) {
                self.forget(partition, forgotten, env);
            }
        }
    }

    fn forget(&mut self, partition: Partition, forgotten: Forgotten, env: &mut Env) {
        env.count("keys forgotten");
        if let Some(store) = self.stores.get_mut(&partition) {
            store.forget(forgotten);
        }
        let below = if env.is(Mutation::CutTooFar) {
            env.broker.log(Topic::Changelog, partition).last_stable_offset()
        } else {
            forgotten.below
        };
        env.cuts.push((partition, below));
    }

    /// Takes the next record of a started partition. Returns `false` if there is none.
    fn record(&mut self, env: &mut Env) -> bool {
        let first = env.draw(env.partitions.len());
        for turn in 0..env.partitions.len() {
            let partition = env.partitions[(first + turn) % env.partitions.len()];
            let Some((next, false)) = self.started.get(&partition).copied() else {
                continue;
            };
            if env.orders.at(partition, next).is_some() {
                self.admit(partition, next, env);
                return true;
            }
        }
        false
    }

    fn admit(&mut self, partition: Partition, next: Offset, env: &mut Env) {
        let fails = env.faults && env.chance(1, 200);
        let since = if env.forgets { WALL.0 } else { 0 };
        let wall = Timestamp(since + i64::try_from(env.steps).expect("few steps"));
        let aborted_overlay_kept = env.is(Mutation::AbortedOverlayKept);
        let orders = std::rc::Rc::clone(&env.orders);
        let order = orders.at(partition, next).expect("an order");
        self.started.insert(partition, (order.offset.next(), false));
        let input = Input {
            partition,
            offset: order.offset,
            at: Some(if env.is(Mutation::TooOldAccepted) && order.at < WALL {
                // Younger than each order that was admitted.
                WALL
            } else {
                order.at
            }),
            key: Some(order.key.as_bytes()),
            value: Some(order.value.as_bytes()),
            headers: &[],
            unreadable_header: None,
        };
        let (stores, ever_sent) = (&self.stores, &env.ever_sent);
        let taken = self.admission.admit(&input, wall, env.now, |_, key| {
            let store = stores.get(&partition).filter(|_| !fails).ok_or(())?;
            let kept = || ever_sent.get(&(self.id, partition, key)).copied();
            let found = store.content.entries.get(&key).copied();
            Ok::<_, ()>(found.or_else(|| aborted_overlay_kept.then(kept).flatten()))
        });
        match taken {
            Ok(AdmitResult::NotRunning) => {}
            Ok(AdmitResult::AwaitsSchema(schema)) => {
                unreachable!("without a registry, and waits for {schema}")
            }
            Ok(AdmitResult::ClockBehind(reason)) => {
                self.handle(Event::Halt(partition, reason), env);
            }
            Ok(AdmitResult::Decided {
                verdict,
                begins,
                again,
            }) => {
                env.trace(|| {
                    format!(
                        "process {} takes {partition}@{}: {verdict:?}",
                        self.id, order.offset
                    )
                });
                let is_refused = matches!(verdict, Verdict::Refuse(_));
                if is_refused && self.admission.mass_refusals().any(|(of, _)| of == partition) {
                    env.count("pauses for refusals");
                }
                self.send(partition, order.offset, (verdict, again), begins, env);
            }
            Err(()) => {
                env.count("stores failed");
                self.store_failed(partition, env);
            }
        }
    }

    fn send(
        &mut self,
        partition: Partition,
        source: Offset,
        (verdict, again): (Verdict, Option<SeenAgain>),
        begins: bool,
        env: &mut Env,
    ) {
        let Some(producer) = &mut self.producer else {
            self.handle(Event::TransactionFailed, env);
            return;
        };
        if begins {
            producer.begin();
        }
        if producer.has_failed {
            self.handle(Event::TransactionFailed, env);
            return;
        }
        match verdict {
            Verdict::Admit { key, entry, recorded } => {
                if matches!(
                    env.mutation,
                    Some(Mutation::StoreDurableFirst | Mutation::StoreVisibleFirst)
                ) && let Some(store) = self.stores.get_mut(&partition)
                {
                    let checkpoint = store.content.checkpoint.unwrap_or(Offset(0));
                    store.apply([(KeyHash::from(&key), Some(entry))], checkpoint, Some(recorded));
                    if env.is(Mutation::StoreDurableFirst) {
                        store.persist(&mut env.disks[self.host], partition);
                    }
                }
                if env.is(Mutation::AbortedOverlayKept) {
                    env.ever_sent
                        .insert((self.id, partition, KeyHash::from(&key)), entry);
                }
                producer.send((Topic::Outbox, partition), Record::of(source));
                let record = Record {
                    change: Some((key, entry)),
                    recorded: Some(recorded),
                    ..Record::of(source)
                };
                producer.send((Topic::Changelog, partition), record);
            }
            Verdict::Duplicate { .. } => {}
            Verdict::Refuse(_) => {
                producer.send((Topic::DeadLetters, partition), Record::of(source));
            }
        }
        if let Some(SeenAgain { key, entry, recorded }) = again {
            env.count("keys seen again");
            let record = Record {
                change: Some((key, entry)),
                recorded: Some(recorded),
                is_again: true,
                ..Record::of(source)
            };
            producer.send((Topic::Changelog, partition), record);
        }
    }

    fn perform(&mut self, action: Action<GroupMetadata>, env: &mut Env) -> Result<(), Violation> {
        env.trace(|| format!("process {} performs {action:?}", self.id));
        match action {
            Action::Accept(_) => env.group.accept(self.id),
            Action::Restore(partition, id) => self.restore(partition, id, env),
            Action::CancelRestore(partition) => {
                for restore in self.restores.entry(partition).or_default() {
                    restore.cancelled = true;
                }
            }
            Action::Start(partition, offset) => return self.start_partition(partition, offset, env),
            Action::Pause(partitions) => {
                for partition in partitions {
                    if let Some((_, paused)) = self.started.get_mut(&partition) {
                        *paused = true;
                    }
                }
            }
            Action::EndTransaction(offsets, meta) => {
                let mut offsets = offsets;
                if env.is(Mutation::ForgottenNotNoted) {
                    offsets.iter_mut().for_each(|next| next.forgotten = None);
                }
                self.operation = Some(Operation::End(TransactionCommit::new(offsets, meta)));
            }
            Action::Apply(partition, admitted, checkpoint, newest) => {
                self.apply(partition, admitted, (checkpoint, newest), env);
            }
            Action::Forget(partition, forgotten) => self.forget(partition, forgotten, env),
            Action::DropProducer => self.abandon(env),
            Action::OpenProducer => self.operation = Some(Operation::Open),
            Action::Close(partition) => {
                if let Some(mut store) = self.stores.remove(&partition) {
                    store.persist(&mut env.disks[self.host], partition);
                }
            }
            Action::Discard(partition) => {
                self.stores.remove(&partition);
                env.disks[self.host].stores.remove(&partition);
            }
            Action::ReportHalt(partition, reason) => {
                return violation(
                    Guarantee::Drain,
                    format!("{partition} is halted without a loss: {reason}"),
                );
            }
            Action::Release(partitions) => {
                self.started
                    .retain(|partition, _| !partitions.contains(partition));
                env.group.release(self.id, &partitions);
            }
            Action::Leave => {
                env.group.leave(self.id);
                self.left = true;
            }
        }
        Ok(())
    }

    fn restore(&mut self, partition: Partition, id: RestoreId, env: &mut Env) {
        let store = self.stores.remove(&partition);
        let restores = self.restores.entry(partition).or_default();
        for restore in restores.iter_mut() {
            restore.cancelled = true;
        }
        if env.is(Mutation::UnknownIsAborted)
            && let (Some(_), Some(next)) = (&store, self.known.get(&partition).copied())
        {
            let outcome = Outcome::Ready(store.expect("checked above"), next, None);
            self.results.push_back(Restored {
                partition,
                id,
                outcome,
            });
            return;
        }
        env.count("restores");
        restores.push_back(RestoreJob::new(partition, id, store));
    }

    fn start_partition(
        &mut self,
        partition: Partition,
        offset: Offset,
        env: &mut Env,
    ) -> Result<(), Violation> {
        self.started.insert(partition, (offset, false));
        self.known.insert(partition, offset);
        if self.is_owner(partition, env) {
            let content = self.stores.get(&partition).map(|store| &store.content);
            env.checker.check_running(partition, offset, content)?;
            if let Some(content) = content {
                env.trace(|| format!("with {content:?}"));
                env.checker.restored(&env.broker, partition, content)?;
            }
        }
        Ok(())
    }

    fn abandon(&mut self, env: &mut Env) {
        if env.is(Mutation::ProducerReused)
            && let Some(producer) = &mut self.producer
        {
            producer.aborted(env);
            return;
        }
        if env.is(Mutation::UnknownIsAborted) {
            return;
        }
        if let Some(producer) = self.producer.take() {
            producer.abandon(env);
        }
    }

    /// Handles a store that cannot be used: its file is corrupt, or keeps its durable state.
    fn store_failed(&mut self, partition: Partition, env: &mut Env) {
        // By the number of steps, not by a draw: the seeds of the mutations stay the same.
        let failure = if env.steps.is_multiple_of(2) {
            StoreFailure::Corrupt
        } else {
            // What is not durable is lost with the handle.
            self.stores.remove(&partition);
            StoreFailure::Unavailable
        };
        self.handle(Event::StoreFailed(partition, failure), env);
    }

    fn apply(
        &mut self,
        partition: Partition,
        admitted: Admitted,
        (mut checkpoint, newest): (Offset, Option<Timestamp>),
        env: &mut Env,
    ) {
        let Some(store) = self.stores.get_mut(&partition) else {
            self.store_failed(partition, env);
            return;
        };
        if env.faults && env.chance(1, 100) {
            env.count("stores failed");
            self.store_failed(partition, env);
            return;
        }
        if env.is(Mutation::CheckpointAtLogEnd) {
            checkpoint = env.broker.log(Topic::Changelog, partition).high_watermark();
        }
        let changes = admitted.into_iter().map(|(key, entry)| (key, Some(entry)));
        store.apply(changes, checkpoint, newest);
    }

    fn persist(&mut self, env: &mut Env) {
        if self.stores.is_empty() {
            return;
        }
        let number = env.draw(self.stores.len());
        if let Some((partition, store)) = self.stores.iter_mut().nth(number) {
            store.persist(&mut env.disks[self.host], *partition);
        }
    }

    fn advance(&mut self, operation: Operation, env: &mut Env) -> Result<(), Violation> {
        match operation {
            Operation::Open => self.open(env),
            Operation::End(commit) => self.end_transaction(commit, env),
        }
        Ok(())
    }

    fn open(&mut self, env: &mut Env) {
        let keeps = matches!(
            env.mutation,
            Some(Mutation::ProducerReused | Mutation::UnknownIsAborted)
        );
        if keeps && self.producer.is_some() {
            self.handle(Event::ProducerOpened, env);
            return;
        }
        let id = env.transactional_id(self.instance, self.id);
        match env.broker.init(id) {
            // The response is lost.
            Ok(_) if env.faults && env.chance(1, 40) => self.handle(Event::ProducerFailed, env),
            Ok(epoch) => {
                self.producer = Some(env.producer(id, epoch));
                self.handle(Event::ProducerOpened, env);
            }
            Err(BrokerError::Concurrent) if env.faults && env.chance(1, 20) => {
                self.handle(Event::ProducerFailed, env);
            }
            Err(BrokerError::Concurrent | BrokerError::Fenced) => self.operation = Some(Operation::Open),
        }
    }

    fn end_transaction(&mut self, mut commit: TransactionCommit, env: &mut Env) {
        let Some(producer) = &mut self.producer else {
            self.handle(Event::TransactionFailed, env);
            return;
        };
        let reached: HashMap<Partition, Offset> = producer.reached.clone();
        match commit.advance(self.id, producer, env) {
            None => self.operation = Some(Operation::End(commit)),
            Some(CommitOutcome::Committed) => {
                env.count(if env.faults {
                    "transactions committed during faults"
                } else {
                    "transactions committed after the faults"
                });
                let reached = producer.reached.clone();
                self.known
                    .extend(commit.offsets.iter().map(|next| (next.partition, next.offset)));
                self.handle(Event::Committed(reached), env);
            }
            Some(CommitOutcome::CommittedRetireProducer) => {
                env.count("commits with a resent EndTxn");
                let reached = producer.reached.clone();
                self.known
                    .extend(commit.offsets.iter().map(|next| (next.partition, next.offset)));
                self.handle(Event::CommittedRetireProducer(reached), env);
            }
            Some(CommitOutcome::Unknown) if env.is(Mutation::UnknownIsCommitted) => {
                self.handle(Event::Committed(reached), env);
            }
            Some(CommitOutcome::Aborted) => {
                env.count("transactions aborted");
                self.handle(Event::TransactionFailed, env);
            }
            Some(CommitOutcome::Unknown) => {
                env.count("unknown outcomes");
                self.handle(Event::TransactionFailed, env);
            }
            Some(CommitOutcome::Fenced) => self.fenced(env),
        }
    }

    fn is_owner(&self, partition: Partition, env: &Env) -> bool {
        self.meta
            .is_some_and(|meta| env.group.owns(self.id, meta, partition))
    }

    /// Checks the running partitions that this process owns.
    fn check(&self, env: &Env) -> Result<(), Violation> {
        for (partition, state) in self.admission.partitions() {
            let PartitionState::Running { committed } = state else {
                continue;
            };
            if self.is_owner(*partition, env) {
                let content = self.stores.get(partition).map(|store| &store.content);
                env.checker.check_running(*partition, *committed, content)?;
            }
        }
        Ok(())
    }

    /// Returns `true` if the process runs a partition as its owner.
    pub(crate) fn works_on(&self, partition: Partition, env: &Env) -> bool {
        debug_assert!(index(partition) < env.partitions.len());
        let runs = matches!(
            self.admission.partitions().get(&partition),
            Some(PartitionState::Running { .. })
        );
        runs && self.is_owner(partition, env)
    }
}

fn membership(meta: GroupMetadata, env: &Env) -> Membership<GroupMetadata> {
    let member = if env.is(Mutation::RejoinUndetected) {
        1
    } else {
        meta.member
    };
    Membership {
        member_id: member.to_string().into(),
        metadata: meta,
    }
}
