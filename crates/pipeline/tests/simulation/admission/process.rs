//! One validator: the real machine and the real verdicts, in a shell that does its actions as the program
//! does, a little at a time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use pipeline::admission::{
    Action, Admission, Admitted, Event, Input, KeySource, Limits, Membership, PartitionState, Partitioner,
    RecordKey, Rules, Taken, Token, Verdict,
};
use records::{Offset, Partition, Timestamp};

use crate::admission::broker::{Record, Refusal, Topic};
use crate::admission::checker::{Promise, Violation, broken};
use crate::admission::disk::Store;
use crate::admission::group::{Meta, Notice, ProcessId};
use crate::admission::mutations::Mutation;
use crate::admission::orders::index;
use crate::admission::producer::{Ended, Ending, Producer};
use crate::admission::restoring::{Job, Outcome, Restored};
use crate::admission::world::Env;

pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) instance: usize,
    /// The machine that it runs on, by its disk.
    pub(crate) host: usize,
    pub(crate) asleep_until: u64,
    /// It has been asked to stop.
    pub(crate) stops: bool,
    /// It has ended by itself.
    pub(crate) left: bool,
    /// Another member has its instance id; it holds nothing, and joins again when the id is nobody's.
    awaits_name: bool,
    admission: Admission<Meta>,
    actions: VecDeque<Action<Meta>>,
    doing: Option<Doing>,
    stores: BTreeMap<Partition, Store>,
    /// One partition's restores run one after the other.
    jobs: BTreeMap<Partition, VecDeque<Job>>,
    results: VecDeque<Restored>,
    producer: Option<Producer>,
    /// The consumer: the next offset of each started partition, and whether it is paused.
    started: BTreeMap<Partition, (Offset, bool)>,
    /// As the machine was told it last.
    meta: Option<Meta>,
    /// For mutations that go on without asking Kafka.
    known: BTreeMap<Partition, Offset>,
}

/// What takes a while; nothing is polled meanwhile.
enum Doing {
    End(Ending),
    Open,
}

impl Process {
    pub(crate) fn start(id: ProcessId, instance: usize, host: usize, env: &mut Env) -> Self {
        let rules = Rules {
            key: KeySource::Pointer("/order_id".into()),
            record_key: RecordKey::IsIdempotencyKey,
            partitioner: Partitioner::Any,
            partitions: 2,
            record_bytes_max: 1 << 20,
        };
        let limits = Limits {
            commit_interval: Duration::from_millis(20),
            orders_max: 1 + env.draw(4),
            bytes_max: 1 << 20,
        };
        env.group.start(id, instance);
        Self {
            id,
            instance,
            host,
            asleep_until: 0,
            stops: false,
            left: false,
            awaits_name: false,
            admission: Admission::new(rules, limits, env.now),
            actions: VecDeque::new(),
            doing: None,
            stores: BTreeMap::new(),
            jobs: BTreeMap::new(),
            results: VecDeque::new(),
            producer: None,
            started: BTreeMap::new(),
            meta: None,
            known: BTreeMap::new(),
        }
    }

    /// A turn of the run loop, or a part of one.
    pub(crate) fn step(&mut self, env: &mut Env) -> Result<(), Violation> {
        if env.chance(1, 2)
            && let Some(producer) = &mut self.producer
        {
            producer.pump(env);
        }
        match self.doing.take() {
            Some(doing) => self.go_on(doing, env)?,
            None if self.actions.is_empty() && self.awaits_name => self.look(env),
            None if self.actions.is_empty() => self.next_event(env)?,
            None => {}
        }
        while self.doing.is_none() && !self.left {
            let Some(action) = self.actions.pop_front() else {
                return self.check(env);
            };
            self.perform(action, env)?;
            // A crash, or anything else, may come between two actions.
            if env.chance(1, 5) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether a restore is under way.
    pub(crate) fn restores(&self) -> bool {
        self.jobs.values().any(|jobs| !jobs.is_empty())
    }

    /// A turn of one of the restore threads.
    pub(crate) fn step_restore(&mut self, env: &mut Env) {
        let with_jobs = self.jobs.values().filter(|jobs| !jobs.is_empty()).count();
        if with_jobs == 0 {
            return;
        }
        let number = env.draw(with_jobs);
        let mut jobs = self.jobs.values_mut().filter(|jobs| !jobs.is_empty());
        let Some(jobs) = jobs.nth(number) else {
            return;
        };
        if let Some(restored) = jobs.front_mut().and_then(|job| job.step(self.host, env)) {
            jobs.pop_front();
            self.results.push_back(restored);
        }
    }

    /// The process is killed.
    pub(crate) fn killed(self, env: &mut Env) {
        env.group.gone(self.id);
        self.end(env);
    }

    /// What is left of a process that has ended, however.
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
        if self.stops {
            self.tell(Event::Stop, env);
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
                    if let Some(notice) = env.group.poll(self.id) {
                        self.notice(notice, env);
                        return Ok(());
                    }
                }
                2 => {
                    if self.admission.due().is_some_and(|due| due <= env.now) {
                        self.tell(Event::Tick, env);
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
        Ok(())
    }

    fn tell(&mut self, event: Event<Meta>, env: &mut Env) {
        env.trace(|| format!("process {} is told {event:?}", self.id));
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

    fn notice(&mut self, notice: Notice, env: &mut Env) {
        match notice {
            Notice::Assigned(partitions, meta) => {
                self.tell(Event::Assigned(partitions, membership(meta, env)), env);
            }
            Notice::Revoked(partitions, meta) => {
                self.tell(Event::Revoked(partitions, membership(meta, env)), env);
            }
            Notice::Lost(partitions) => {
                env.count("partitions lost");
                self.tell(Event::Lost(partitions), env);
            }
            Notice::Replaced => self.replaced(env),
        }
    }

    fn replaced(&mut self, env: &mut Env) {
        env.trace(|| format!("process {} is replaced", self.id));
        env.count("processes replaced");
        env.group.gone(self.id);
        // What was to be done in the former membership is done no more.
        self.actions.clear();
        self.started.clear();
        self.awaits_name = true;
        self.tell(Event::Expelled, env);
    }

    /// Looks whose its instance id is: nobody's, perhaps that of a ghost yet, or surely that of another process.
    fn look(&mut self, env: &mut Env) {
        if env.group.is_free(self.instance) {
            env.count("memberships begun again");
            env.group.start(self.id, self.instance);
            self.awaits_name = false;
        } else if self.stops || env.group.is_alive(self.instance) && env.chance(1, 20) {
            self.left = true;
        }
    }

    pub(crate) fn awaits_name(&self) -> bool {
        self.awaits_name
    }

    fn restored(&mut self, restored: Restored, env: &mut Env) -> Result<(), Violation> {
        let Restored {
            partition,
            mut token,
            outcome,
        } = restored;
        if env.is(Mutation::OldRestoreCounts)
            && let Some(PartitionState::Restoring(wanted)) = self.admission.partitions().get(&partition)
        {
            token = *wanted;
        }
        let wanted = self.admission.partitions().get(&partition) == Some(&PartitionState::Restoring(token));
        match outcome {
            Outcome::Ready(store, next) if wanted => {
                self.stores.insert(partition, store);
                self.tell(Event::Restored(partition, token, next), env);
                Ok(())
            }
            Outcome::Refused(reason) => broken(
                Promise::Drain,
                format!("{partition} is refused, and nothing was lost: {reason}"),
            ),
            // A store that is dropped keeps what was durable.
            Outcome::Ready(..) | Outcome::Cancelled => Ok(()),
        }
    }

    /// Takes the next record of a started partition. `false` if there is none.
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
        let wall = Timestamp(i64::try_from(env.steps).expect("few steps"));
        let overlay_kept = env.is(Mutation::OverlayKept);
        let orders = std::rc::Rc::clone(&env.orders);
        let order = orders.at(partition, next).expect("an order");
        self.started.insert(partition, (order.offset.next(), false));
        let input = Input {
            partition,
            offset: order.offset,
            key: Some(order.key.as_bytes()),
            value: Some(order.value.as_bytes()),
            headers: &[],
            unreadable_header: None,
        };
        let (stores, ever_sent) = (&self.stores, &env.ever_sent);
        let taken = self.admission.admit(&input, wall, env.now, |key| {
            let store = stores.get(&partition).filter(|_| !fails).ok_or(())?;
            let kept = || ever_sent.get(&(self.id, partition, key.clone())).copied();
            let found = store.content.entries.get(key).copied();
            Ok::<_, ()>(found.or_else(|| overlay_kept.then(kept).flatten()))
        });
        match taken {
            Ok(Taken::NotRunning) => {}
            Ok(Taken::Decided { verdict, begins }) => {
                env.trace(|| {
                    format!(
                        "process {} takes {partition}@{}: {verdict:?}",
                        self.id, order.offset
                    )
                });
                self.send(partition, order.offset, verdict, begins, env);
            }
            Err(()) => {
                env.count("stores failed");
                self.tell(Event::StoreFailed(partition), env);
            }
        }
    }

    fn send(&mut self, partition: Partition, source: Offset, verdict: Verdict, begins: bool, env: &mut Env) {
        let Some(producer) = &mut self.producer else {
            self.tell(Event::Failed, env);
            return;
        };
        if begins {
            producer.begin();
        }
        if producer.has_failed {
            self.tell(Event::Failed, env);
            return;
        }
        match verdict {
            Verdict::Admit { key, entry } => {
                if matches!(
                    env.mutation,
                    Some(Mutation::StoreDurableFirst | Mutation::StoreVisibleFirst)
                ) && let Some(store) = self.stores.get_mut(&partition)
                {
                    let checkpoint = store.content.checkpoint.unwrap_or(Offset(0));
                    store.apply([(key.clone(), Some(entry))], checkpoint);
                    if env.is(Mutation::StoreDurableFirst) {
                        store.persist(&mut env.disks[self.host], partition);
                    }
                }
                if env.is(Mutation::OverlayKept) {
                    env.ever_sent.insert((self.id, partition, key.clone()), entry);
                }
                producer.send((Topic::Outbox, partition), Record { source, change: None });
                let change = Some((key, entry));
                producer.send((Topic::Changelog, partition), Record { source, change });
            }
            Verdict::Duplicate { .. } => {}
            Verdict::Refuse(_) => {
                producer.send((Topic::DeadLetters, partition), Record { source, change: None });
            }
        }
    }

    fn perform(&mut self, action: Action<Meta>, env: &mut Env) -> Result<(), Violation> {
        env.trace(|| format!("process {} does {action:?}", self.id));
        match action {
            Action::Accept(_) => env.group.accept(self.id),
            Action::Restore(partition, token) => self.restore(partition, token, env),
            Action::CancelRestore(partition) => {
                for job in self.jobs.entry(partition).or_default() {
                    job.cancelled = true;
                }
            }
            Action::Start(partition, offset) => return self.begin(partition, offset, env),
            Action::Pause(partitions) => {
                for partition in partitions {
                    if let Some((_, paused)) = self.started.get_mut(&partition) {
                        *paused = true;
                    }
                }
            }
            Action::End(offsets, meta) => self.doing = Some(Doing::End(Ending::new(offsets, meta))),
            Action::Apply(partition, admitted, checkpoint) => {
                self.apply(partition, admitted, checkpoint, env);
            }
            Action::Abandon => self.abandon(env),
            Action::OpenProducer => self.doing = Some(Doing::Open),
            Action::Close(partition) => {
                if let Some(mut store) = self.stores.remove(&partition) {
                    store.persist(&mut env.disks[self.host], partition);
                }
            }
            Action::Discard(partition) => {
                self.stores.remove(&partition);
                env.disks[self.host].stores.remove(&partition);
            }
            Action::GiveUp(partitions) => {
                self.started
                    .retain(|partition, _| !partitions.contains(partition));
                env.group.give_up(self.id, &partitions);
            }
            Action::Leave => {
                env.group.leave(self.id);
                self.left = true;
            }
        }
        Ok(())
    }

    fn restore(&mut self, partition: Partition, token: Token, env: &mut Env) {
        let store = self.stores.remove(&partition);
        let jobs = self.jobs.entry(partition).or_default();
        for job in jobs.iter_mut() {
            job.cancelled = true;
        }
        if env.is(Mutation::UnknownIsAborted)
            && let (Some(_), Some(next)) = (&store, self.known.get(&partition).copied())
        {
            let outcome = Outcome::Ready(store.expect("it was just there"), next);
            self.results.push_back(Restored {
                partition,
                token,
                outcome,
            });
            return;
        }
        env.count("restores");
        jobs.push_back(Job::new(partition, token, store));
    }

    fn begin(&mut self, partition: Partition, offset: Offset, env: &mut Env) -> Result<(), Violation> {
        self.started.insert(partition, (offset, false));
        self.known.insert(partition, offset);
        if self.is_owner(partition, env) {
            let content = self.stores.get(&partition).map(|store| &store.content);
            env.checker.works(partition, offset, content)?;
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

    fn apply(&mut self, partition: Partition, admitted: Admitted, mut checkpoint: Offset, env: &mut Env) {
        let Some(store) = self.stores.get_mut(&partition) else {
            self.tell(Event::StoreFailed(partition), env);
            return;
        };
        if env.faults && env.chance(1, 100) {
            env.count("stores failed");
            self.tell(Event::StoreFailed(partition), env);
            return;
        }
        if env.is(Mutation::CheckpointAtLogEnd) {
            checkpoint = env.broker.log(Topic::Changelog, partition).high_watermark();
        }
        let changes = admitted.into_iter().map(|(key, entry)| (key, Some(entry)));
        store.apply(changes, checkpoint);
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

    fn go_on(&mut self, doing: Doing, env: &mut Env) -> Result<(), Violation> {
        match doing {
            Doing::Open => self.open(env),
            Doing::End(ending) => self.end_transaction(ending, env),
        }
        Ok(())
    }

    fn open(&mut self, env: &mut Env) {
        let keeps = matches!(
            env.mutation,
            Some(Mutation::ProducerReused | Mutation::UnknownIsAborted)
        );
        if keeps && self.producer.is_some() {
            self.tell(Event::ProducerOpened, env);
            return;
        }
        let id = env.transactional_id(self.instance, self.id);
        match env.broker.init(id) {
            // The answer is lost.
            Ok(_) if env.faults && env.chance(1, 40) => self.tell(Event::ProducerFailed, env),
            Ok(epoch) => {
                self.producer = Some(env.producer(id, epoch));
                self.tell(Event::ProducerOpened, env);
            }
            Err(Refusal::Concurrent) if env.faults && env.chance(1, 20) => {
                self.tell(Event::ProducerFailed, env);
            }
            Err(Refusal::Concurrent | Refusal::Fenced) => self.doing = Some(Doing::Open),
        }
    }

    fn end_transaction(&mut self, mut ending: Ending, env: &mut Env) {
        let Some(producer) = &mut self.producer else {
            self.tell(Event::Failed, env);
            return;
        };
        let reached: HashMap<Partition, Offset> = producer.reached.clone();
        match ending.go_on(self.id, producer, env) {
            None => self.doing = Some(Doing::End(ending)),
            Some(Ended::Committed) => {
                env.count(if env.faults {
                    "transactions committed amid faults"
                } else {
                    "transactions committed in the calm"
                });
                let reached = producer.reached.clone();
                self.known.extend(ending.offsets);
                self.tell(Event::Committed(reached), env);
            }
            Some(Ended::CommittedRetireProducer) => {
                env.count("commits that were sent again");
                let reached = producer.reached.clone();
                self.known.extend(ending.offsets);
                self.tell(Event::CommittedRetireProducer(reached), env);
            }
            Some(Ended::Unknown) if env.is(Mutation::UnknownIsCommitted) => {
                self.tell(Event::Committed(reached), env);
            }
            Some(Ended::Aborted) => {
                env.count("transactions aborted");
                self.tell(Event::Failed, env);
            }
            Some(Ended::Unknown) => {
                env.count("outcomes unknown");
                self.tell(Event::Failed, env);
            }
            Some(Ended::Replaced) => self.replaced(env),
        }
    }

    fn is_owner(&self, partition: Partition, env: &Env) -> bool {
        self.meta
            .is_some_and(|meta| env.group.owns(self.id, meta, partition))
    }

    /// Between two turns: what this process works on as its owner equals what is decided.
    fn check(&self, env: &Env) -> Result<(), Violation> {
        for (partition, stage) in self.admission.partitions() {
            let PartitionState::Running { committed } = stage else {
                continue;
            };
            if self.is_owner(*partition, env) {
                let content = self.stores.get(partition).map(|store| &store.content);
                env.checker.works(*partition, *committed, content)?;
            }
        }
        Ok(())
    }

    /// Whether it works on a partition as its owner, for the end.
    pub(crate) fn works_on(&self, partition: Partition, env: &Env) -> bool {
        debug_assert!(index(partition) < env.partitions.len());
        let runs = matches!(
            self.admission.partitions().get(&partition),
            Some(PartitionState::Running { .. })
        );
        runs && self.is_owner(partition, env)
    }
}

fn membership(meta: Meta, env: &Env) -> Membership<Meta> {
    let member = if env.is(Mutation::RejoinUnheard) {
        1
    } else {
        meta.member
    };
    Membership {
        member_id: member.to_string().into(),
        metadata: meta,
    }
}
