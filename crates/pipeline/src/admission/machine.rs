//! The state machine of stage one: events in, actions out.
//!
//! It knows which partitions are assigned and which of them may process, and it holds the open
//! transaction. The program waits, asks, and does what it is told, in the order in which it is told; what
//! comes of an action comes back as an event, before the next action is done.
//!
//! One rule resolves every doubt, be it an aborted transaction, an unknown outcome, a fenced producer or a
//! failed store: nothing is processed, a new producer with the same transactional id ends what was left
//! open, and then each partition is restored from its committed offset and its changelog.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use records::{Entry, IdempotencyKey, Offset, Partition, Timestamp};

use super::input::Input;
use super::membership::Membership;
use super::rules::Rules;
use super::transaction::{Admitted, Limits, Offsets, Transaction};
use super::verdict::{Verdict, decide};

/// PartitionState one's decisions. `M` is what a transaction is bound to a group membership by.
#[derive(Debug)]
pub struct Admission<M> {
    rules: Rules,
    limits: Limits,
    partitions: BTreeMap<Partition, PartitionState>,
    open: Option<Transaction>,
    /// As of the last assignment. `None` before the first one: without a membership that Kafka can check,
    /// nothing is committed.
    membership: Option<Membership<M>>,
    producer: Producer,
    /// How often there was a doubt since something was committed last.
    doubts: u32,
    last_token: Token,
    stopping: bool,
}

/// How far an assigned partition has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionState {
    /// Waits for a producer, whose opening decides what the last one left open.
    AwaitsProducer,
    /// Its store is being brought to the end of the changelog.
    Restoring(Token),
    /// Its orders are processed.
    Running {
        /// The input offset that this member committed last, or began at.
        committed: Offset,
    },
    /// Stands still until a person has acted, for this reason.
    Refused(String),
}

/// Tells the restores of one partition apart: an answer to an earlier one counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Token(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Producer {
    Ready,
    /// To be opened at this time.
    Wanted(Instant),
}

/// What can happen to stage one, other than an input record, which [`Admission::admit`] takes.
#[derive(Debug)]
pub enum Event<M> {
    /// A new generation of the group, perhaps with partitions that are new to this member.
    Assigned(Vec<Partition>, Membership<M>),
    /// Partitions are wanted by another member, and are ours until given up; with the membership as of this
    /// generation.
    Revoked(Vec<Partition>, Membership<M>),
    /// Partitions may already be another member's.
    Lost(Vec<Partition>),
    /// The membership is over, and with it whatever is in hand. Nothing more is told before the program has joined
    /// anew, with a new consumer.
    Expelled,
    /// A store equals its changelog; processing may go on at this input offset.
    Restored(Partition, Token, Offset),
    /// A restore that only a person can make possible again.
    RestoreRefused(Partition, Token, String),
    /// The transaction was committed; for each partition with entries, the changelog offset behind the last.
    Committed(HashMap<Partition, Offset>),
    /// Like `Committed`, but nothing more may be committed with this producer.
    CommittedRetireProducer(HashMap<Partition, Offset>),
    /// The transaction failed, surely or perhaps, at whichever step.
    Failed,
    /// A store cannot be read or written.
    StoreFailed(Partition),
    /// The new producer is there.
    ProducerOpened,
    /// The new producer could not be opened.
    ProducerFailed,
    /// Time has passed.
    Tick,
    /// Stop for good: finish what is open, and leave.
    Stop,
}

/// What the program is to do.
#[derive(Debug)]
pub enum Action<M> {
    /// Tell the group that these partitions are taken; they stay paused.
    Accept(Vec<Partition>),
    /// Bring the partition's store to the end of its changelog; answered by `Restored`.
    Restore(Partition, Token),
    /// A restore of this partition is no longer wanted.
    CancelRestore(Partition),
    /// Hand out the partition's records from this offset on.
    Start(Partition, Offset),
    /// Hand out no more records of these partitions.
    Pause(Vec<Partition>),
    /// End the transaction with these offsets, under this membership; answered by `Committed`, `CommittedRetireProducer` or
    /// `Failed`.
    End(Offsets, M),
    /// Write committed entries, and the changelog offset that they reach to, to the partition's store.
    Apply(Partition, Admitted, Offset),
    /// Abort what is open and drop the producer.
    Abandon,
    /// Open a new producer; answered by `ProducerOpened` or `ProducerFailed`.
    OpenProducer,
    /// Make the partition's store durable and close it.
    Close(Partition),
    /// Delete the partition's store.
    Discard(Partition),
    /// Let the group have these partitions.
    GiveUp(Vec<Partition>),
    /// Leave the group; nothing comes after this.
    Leave,
}

/// What [`Admission::admit`] made of an input record.
#[derive(Debug)]
pub enum Taken {
    /// The partition is not being processed; the record will come again.
    NotRunning,
    /// It is in the open transaction.
    Decided {
        /// What becomes of it.
        verdict: Verdict,
        /// Whether the transaction begins with it.
        begins: bool,
    },
}

impl<M: Clone> Admission<M> {
    /// PartitionState one without partitions and without a producer, which the first tick asks for.
    #[must_use]
    pub fn new(rules: Rules, limits: Limits, now: Instant) -> Self {
        Self {
            rules,
            limits,
            partitions: BTreeMap::new(),
            open: None,
            membership: None,
            producer: Producer::Wanted(now),
            doubts: 0,
            last_token: Token::default(),
            stopping: false,
        }
    }

    /// Takes an input record. `known` looks a key up in the partition's store; the open transaction is
    /// asked first.
    ///
    /// # Errors
    /// The store failed; tell so by [`Event::StoreFailed`].
    pub fn admit<E>(
        &mut self,
        input: &Input<'_>,
        wall: Timestamp,
        now: Instant,
        known: impl FnOnce(&IdempotencyKey) -> Result<Option<Entry>, E>,
    ) -> Result<Taken, E> {
        let is_running = matches!(
            self.partitions.get(&input.partition),
            Some(PartitionState::Running { .. })
        );
        if !is_running || self.stopping {
            return Ok(Taken::NotRunning);
        }
        let open = self.open.as_ref();
        let verdict = decide(&self.rules, input, wall, |key| {
            match open.and_then(|open| open.get(input.partition, key)) {
                Some(entry) => Ok(Some(entry)),
                None => known(key),
            }
        })?;
        let begins = self.open.is_none();
        let admitted = match &verdict {
            Verdict::Admit { key, entry } => Some((key.clone(), *entry)),
            Verdict::Duplicate { .. } | Verdict::Refuse(_) => None,
        };
        let bytes = input.bytes();
        self.open.get_or_insert_with(|| Transaction::begin(now)).take(
            input.partition,
            input.offset,
            bytes,
            admitted,
        );
        Ok(Taken::Decided { verdict, begins })
    }

    /// What is to be done about an event.
    pub fn on(&mut self, event: Event<M>, now: Instant) -> Vec<Action<M>> {
        match event {
            Event::Assigned(partitions, membership) => self.assigned(partitions, membership, now),
            Event::Revoked(partitions, membership) => self.revoked(partitions, membership, now),
            Event::Lost(partitions) => self.lost(partitions, now),
            Event::Expelled => self.expelled(now),
            Event::Restored(partition, token, next) => self.restored(partition, token, next),
            Event::RestoreRefused(partition, token, reason) => {
                if self.partitions.get(&partition) == Some(&PartitionState::Restoring(token)) {
                    self.partitions.insert(partition, PartitionState::Refused(reason));
                }
                Vec::new()
            }
            Event::Committed(reached) => self.committed(&reached),
            Event::CommittedRetireProducer(reached) => {
                let mut actions = self.committed(&reached);
                actions.extend(self.resolve(None, now));
                actions
            }
            Event::Failed => self.resolve(None, now),
            Event::StoreFailed(partition) => self.resolve(Some(partition), now),
            Event::ProducerOpened => self.producer_opened(),
            Event::ProducerFailed => {
                self.producer = Producer::Wanted(now + PRODUCER_AGAIN);
                Vec::new()
            }
            Event::Tick => self.tick(now),
            Event::Stop => self.stop(now),
        }
    }

    /// When [`Event::Tick`] is next to be told, at the latest.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let open = self.open.as_ref().map(|open| open.due(&self.limits));
        match self.producer {
            Producer::Wanted(at) => open.into_iter().chain([at]).min(),
            Producer::Ready => open,
        }
    }

    /// The assigned partitions, and how far each has come.
    #[must_use]
    pub fn partitions(&self) -> &BTreeMap<Partition, PartitionState> {
        &self.partitions
    }

    fn assigned(
        &mut self,
        partitions: Vec<Partition>,
        membership: Membership<M>,
        now: Instant,
    ) -> Vec<Action<M>> {
        let mut actions = self.joined(membership, now);
        for partition in &partitions {
            self.partitions.insert(*partition, PartitionState::AwaitsProducer);
        }
        actions.push(Action::Accept(partitions));
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
        let mut actions = self.joined(membership, now);
        actions.extend(self.end(now));
        actions.extend(self.let_go(partitions));
        actions
    }

    /// A member that was expelled may join anew without a word, its partitions still in hand. Others may have
    /// worked on them meanwhile, or own them now, and the new membership fences nothing of what was begun under
    /// the old one. The group gives each member that joins an id of its own, which tells the two apart.
    fn joined(&mut self, membership: Membership<M>, now: Instant) -> Vec<Action<M>> {
        let before = self.membership.replace(membership);
        let is_same = before.map(|before| before.member_id)
            == self.membership.as_ref().map(|now| now.member_id.clone());
        if is_same || self.partitions.is_empty() {
            return Vec::new();
        }
        // Also what was refused under the old one, since others may have changed what it was refused for.
        for stage in self.partitions.values_mut() {
            if matches!(stage, PartitionState::Refused(_)) {
                *stage = PartitionState::AwaitsProducer;
            }
        }
        self.resolve(None, now)
    }

    fn lost(&mut self, partitions: Vec<Partition>, now: Instant) -> Vec<Action<M>> {
        // Nothing of a lost partition may be committed, and a transaction is committed whole or not at all.
        let mut actions = if self.open.is_some() {
            self.resolve(None, now)
        } else {
            Vec::new()
        };
        actions.extend(self.let_go(partitions));
        actions
    }

    /// Asks nothing of the consumer, which is done for. The producer goes too: whoever has taken the membership has
    /// taken the transactional id with it.
    fn expelled(&mut self, now: Instant) -> Vec<Action<M>> {
        self.open = None;
        self.membership = None;
        self.producer = Producer::Wanted(now);
        let mut actions = vec![Action::Abandon];
        for (partition, stage) in std::mem::take(&mut self.partitions) {
            if matches!(stage, PartitionState::Restoring(_)) {
                actions.push(Action::CancelRestore(partition));
            }
            actions.push(Action::Close(partition));
        }
        actions
    }

    fn let_go(&mut self, partitions: Vec<Partition>) -> Vec<Action<M>> {
        let mut actions = Vec::new();
        for partition in &partitions {
            if let Some(PartitionState::Restoring(_)) = self.partitions.remove(partition) {
                actions.push(Action::CancelRestore(*partition));
            }
            actions.push(Action::Close(*partition));
        }
        actions.push(Action::GiveUp(partitions));
        actions
    }

    fn restored(&mut self, partition: Partition, token: Token, next: Offset) -> Vec<Action<M>> {
        if self.partitions.get(&partition) != Some(&PartitionState::Restoring(token)) {
            return Vec::new();
        }
        self.partitions
            .insert(partition, PartitionState::Running { committed: next });
        vec![Action::Start(partition, next)]
    }

    fn committed(&mut self, reached: &HashMap<Partition, Offset>) -> Vec<Action<M>> {
        let Some(transaction) = self.open.take() else {
            return Vec::new();
        };
        self.doubts = 0;
        for (partition, next) in transaction.offsets() {
            if let Some(PartitionState::Running { committed }) = self.partitions.get_mut(&partition) {
                *committed = next;
            }
        }
        transaction
            .into_admitted()
            .filter(|(_, admitted)| !admitted.is_empty())
            .filter_map(|(partition, admitted)| {
                // Its records were acknowledged, so there is such an offset; without one the store would
                // merely lag, and the next restore bring it up.
                reached
                    .get(&partition)
                    .map(|offset| Action::Apply(partition, admitted, *offset))
            })
            .collect()
    }

    /// Ends the open transaction, if there is one.
    fn end(&mut self, now: Instant) -> Vec<Action<M>> {
        match (&self.open, &self.membership) {
            (Some(open), Some(membership)) => {
                vec![Action::End(open.offsets(), membership.metadata.clone())]
            }
            (Some(_), None) => self.resolve(None, now),
            (None, _) => Vec::new(),
        }
    }

    /// The one way out of every doubt; see the head of this file. The new producer is left to the next
    /// tick: opening it may take a while, and what is on its way to the group goes first.
    fn resolve(&mut self, failed_store: Option<Partition>, now: Instant) -> Vec<Action<M>> {
        self.open = None;
        let mut actions = Vec::new();
        let mut running = Vec::new();
        for (partition, stage) in &mut self.partitions {
            match stage {
                PartitionState::Running { .. } => running.push(*partition),
                PartitionState::Restoring(_) => actions.push(Action::CancelRestore(*partition)),
                PartitionState::AwaitsProducer => continue,
                PartitionState::Refused(_) => continue,
            }
            *stage = PartitionState::AwaitsProducer;
        }
        if !running.is_empty() {
            actions.insert(0, Action::Pause(running));
        }
        actions.push(Action::Abandon);
        actions.extend(failed_store.map(Action::Discard));
        self.doubts = self.doubts.saturating_add(1);
        self.producer = Producer::Wanted(match self.doubts {
            ..=PROMPT_MAX => now,
            _ => now + PRODUCER_AGAIN,
        });
        actions
    }

    fn producer_opened(&mut self) -> Vec<Action<M>> {
        self.producer = Producer::Ready;
        self.restore_waiting()
    }

    fn restore_waiting(&mut self) -> Vec<Action<M>> {
        let mut actions = Vec::new();
        for (partition, stage) in &mut self.partitions {
            if *stage == PartitionState::AwaitsProducer {
                self.last_token = Token(self.last_token.0 + 1);
                *stage = PartitionState::Restoring(self.last_token);
                actions.push(Action::Restore(*partition, self.last_token));
            }
        }
        actions
    }

    fn tick(&mut self, now: Instant) -> Vec<Action<M>> {
        match self.producer {
            Producer::Wanted(at) if at <= now => return vec![Action::OpenProducer],
            Producer::Wanted(_) | Producer::Ready => {}
        }
        match &self.open {
            Some(open) if open.due(&self.limits) <= now => self.end(now),
            Some(_) | None => Vec::new(),
        }
    }

    fn stop(&mut self, now: Instant) -> Vec<Action<M>> {
        let mut actions = self.end(now);
        self.stopping = true;
        for (partition, stage) in &self.partitions {
            if matches!(stage, PartitionState::Restoring(_)) {
                actions.push(Action::CancelRestore(*partition));
            }
            actions.push(Action::Close(*partition));
        }
        actions.push(Action::Leave);
        actions
    }
}

/// How long to wait before a producer that could not be opened is tried again.
const PRODUCER_AGAIN: Duration = Duration::from_millis(500);
/// So many doubts in a row are resolved at once, since one failure may come in several pieces. What goes on failing is
/// not tried again as fast as the brokers answer.
const PROMPT_MAX: u32 = 3;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::super::{KeySource, Partitioner, RecordKey};
    use super::*;

    struct Bench {
        admission: Admission<&'static str>,
        start: Instant,
        stores: HashMap<String, Entry>,
    }

    impl Bench {
        /// Partitions 0 and 1, running.
        fn running() -> Self {
            let rules = Rules {
                key: KeySource::Pointer("/order_id".into()),
                record_key: RecordKey::IsIdempotencyKey,
                partitioner: Partitioner::Any,
                partitions: 2,
                record_bytes_max: 1 << 20,
            };
            let limits = Limits {
                commit_interval: Duration::from_millis(20),
                orders_max: 3,
                bytes_max: 1 << 20,
            };
            let start = Instant::now();
            let admission = Admission::new(rules, limits, start);
            let mut bench = Self {
                admission,
                start,
                stores: HashMap::new(),
            };
            assert_eq!(names(&bench.on(Event::Tick)), ["OpenProducer"]);
            assert!(bench.on(Event::ProducerOpened).is_empty());
            let assigned = bench.on(Event::Assigned(
                vec![Partition(0), Partition(1)],
                generation("member 1", "generation 1"),
            ));
            assert_eq!(names(&assigned), ["Accept", "Restore", "Restore"]);
            bench.restored(0, 1);
            bench.restored(1, 2);
            bench
        }

        fn on(&mut self, event: Event<&'static str>) -> Vec<Action<&'static str>> {
            self.admission.on(event, self.start)
        }

        fn restored(&mut self, partition: i32, token: u64) {
            let actions = self.on(Event::Restored(Partition(partition), Token(token), Offset(0)));
            assert_eq!(names(&actions), ["Start"]);
        }

        fn order(&mut self, partition: i32, offset: i64, id: &str) -> Taken {
            self.order_at(Timestamp(1), partition, offset, id)
        }

        fn order_at(&mut self, wall: Timestamp, partition: i32, offset: i64, id: &str) -> Taken {
            let value = format!(r#"{{"order_id":"{id}","amount":1,"currency":"EUR","customer_id":"c"}}"#);
            let input = Input {
                partition: Partition(partition),
                offset: Offset(offset),
                key: Some(id.as_bytes()),
                value: Some(value.as_bytes()),
                headers: &[],
                unreadable_header: None,
            };
            let stores = &self.stores;
            let looked_up: Result<_, Infallible> = self.admission.admit(&input, wall, self.start, |key| {
                Ok(stores.get(key.as_str()).copied())
            });
            let Ok(taken) = looked_up;
            taken
        }
    }

    /// The names of the actions, in their order.
    fn names<M: std::fmt::Debug>(actions: &[Action<M>]) -> Vec<String> {
        let name = |text: String| text.split('(').next().unwrap_or_default().to_owned();
        actions.iter().map(|action| name(format!("{action:?}"))).collect()
    }

    fn generation(member_id: &str, metadata: &'static str) -> Membership<&'static str> {
        Membership {
            member_id: member_id.into(),
            metadata,
        }
    }

    fn is_duplicate(taken: &Taken) -> bool {
        matches!(
            taken,
            Taken::Decided {
                verdict: Verdict::Duplicate { .. },
                ..
            }
        )
    }

    /// The wall clock is told in the entry and decides nothing: neither what an order is nor when its transaction
    /// ends, however the clock jumps meanwhile.
    #[test]
    fn the_wall_clock_may_jump() {
        let told = |walls: [i64; 4]| {
            let mut bench = Bench::running();
            let mut walls = walls.map(Timestamp).into_iter();
            let mut order = |bench: &mut Bench, offset, id| {
                let wall = walls.next().expect("a time for each");
                let taken = bench.order_at(wall, 0, offset, id);
                if let Taken::Decided {
                    verdict: Verdict::Admit { entry, .. },
                    ..
                } = &taken
                {
                    assert_eq!(entry.admitted_at, wall, "it is told as it was");
                }
                is_duplicate(&taken)
            };
            let duplicates = [
                order(&mut bench, 0, "a"),
                order(&mut bench, 1, "a"),
                order(&mut bench, 2, "b"),
                order(&mut bench, 3, "b"),
            ];
            let due = bench.admission.due().map(|due| due - bench.start);
            (duplicates, due)
        };
        let steady = told([1_000, 1_001, 1_002, 1_003]);
        assert_eq!(steady.0, [false, true, false, true]);
        assert_eq!(told([1_000, -5_000, i64::MAX, 0]), steady);
        assert_eq!(told([i64::MAX, 0, i64::MIN, 7]), steady);
    }

    #[test]
    fn after_an_end_that_may_come_again_the_store_has_its_keys_and_the_producer_is_replaced() {
        let mut bench = Bench::running();
        bench.order(0, 0, "a");
        let reached = HashMap::from([(Partition(0), Offset(1))]);
        let actions = bench.on(Event::CommittedRetireProducer(reached));
        assert_eq!(names(&actions), ["Apply", "Pause", "Abandon"]);
        assert!(matches!(bench.order(0, 1, "b"), Taken::NotRunning));
        assert_eq!(names(&bench.on(Event::Tick)), ["OpenProducer"]);
        assert_eq!(
            names(&bench.on(Event::ProducerOpened)),
            ["Restore", "Restore"],
            "and each partition begins where it was committed"
        );
    }

    #[test]
    fn a_transaction_ends_when_it_is_due_and_reaches_the_store_when_committed() {
        let mut bench = Bench::running();
        assert!(matches!(
            bench.order(0, 0, "a"),
            Taken::Decided { begins: true, .. }
        ));
        assert!(
            is_duplicate(&bench.order(0, 1, "a")),
            "a duplicate within the transaction"
        );
        assert!(bench.on(Event::Tick).is_empty(), "neither full nor due");
        let later = bench.start + Duration::from_millis(20);
        let end = bench.admission.on(Event::Tick, later);
        assert!(
            matches!(&end[..], [Action::End(offsets, "generation 1")] if offsets[..] == [(Partition(0), Offset(2))]),
            "{end:?}"
        );
        let applied = bench.on(Event::Committed([(Partition(0), Offset(9))].into()));
        assert!(
            matches!(&applied[..], [Action::Apply(Partition(0), entries, Offset(9))] if entries.len() == 1),
            "{applied:?}"
        );
        assert!(matches!(
            bench.order(1, 0, "b"),
            Taken::Decided { begins: true, .. }
        ));
    }

    #[test]
    fn a_full_transaction_is_due_at_once() {
        let mut bench = Bench::running();
        for (offset, id) in ["a", "b", "c"].into_iter().enumerate() {
            bench.order(0, i64::try_from(offset).expect("small"), id);
        }
        assert_eq!(names(&bench.on(Event::Tick)), ["End"]);
    }

    #[test]
    fn a_revoke_ends_the_transaction_before_the_partition_goes() {
        let mut bench = Bench::running();
        bench.order(0, 0, "a");
        let actions = bench.on(Event::Revoked(
            vec![Partition(0)],
            generation("member 1", "generation 2"),
        ));
        assert_eq!(names(&actions), ["End", "Close", "GiveUp"]);
        assert!(
            matches!(&actions[0], Action::End(_, "generation 2")),
            "{actions:?}"
        );
        assert_eq!(
            names(&bench.on(Event::Committed([(Partition(0), Offset(2))].into()))),
            ["Apply"]
        );
        assert!(matches!(bench.order(0, 1, "b"), Taken::NotRunning));
    }

    #[test]
    fn a_member_that_joined_anew_without_hearing_of_it_starts_over() {
        let mut bench = Bench::running();
        bench.order(0, 0, "a");
        let same = bench.on(Event::Assigned(
            Vec::new(),
            generation("member 1", "generation 2"),
        ));
        assert_eq!(names(&same), ["Accept"], "the next generation");
        let other = bench.on(Event::Assigned(
            Vec::new(),
            generation("member 2", "generation 4"),
        ));
        assert_eq!(names(&other), ["Pause", "Abandon", "Accept"]);
        assert_eq!(bench.on(Event::ProducerOpened).len(), 2, "both are restored");
    }

    /// Its transaction was begun as a member that others have replaced since; under the new membership Kafka
    /// would take it, and beside it that of the new owner.
    #[test]
    fn a_member_that_joined_anew_commits_nothing_of_what_is_revoked() {
        let mut bench = Bench::running();
        bench.order(0, 0, "a");
        let actions = bench.on(Event::Revoked(
            vec![Partition(0)],
            generation("member 2", "generation 4"),
        ));
        assert_eq!(names(&actions), ["Pause", "Abandon", "Close", "GiveUp"]);
        assert_eq!(bench.on(Event::ProducerOpened).len(), 1, "the other is restored");
    }

    /// The old restore knows the committed offset and the changelog's end of a time when another member was
    /// about to work on the partition.
    #[test]
    fn a_restore_of_a_former_member_counts_for_nothing() {
        let mut bench = Bench::running();
        let first = bench.on(Event::Assigned(
            vec![Partition(2)],
            generation("member 1", "generation 2"),
        ));
        assert_eq!(names(&first), ["Accept", "Restore"]);
        let again = bench.on(Event::Assigned(
            Vec::new(),
            generation("member 2", "generation 4"),
        ));
        assert_eq!(names(&again), ["Pause", "CancelRestore", "Abandon", "Accept"]);
        let late = bench.on(Event::Restored(Partition(2), Token(3), Offset(0)));
        assert!(late.is_empty(), "{late:?}");
    }

    #[test]
    fn a_lost_partition_commits_nothing() {
        let mut bench = Bench::running();
        bench.order(0, 0, "a");
        let actions = bench.on(Event::Lost(vec![Partition(0), Partition(1)]));
        assert_eq!(names(&actions), ["Pause", "Abandon", "Close", "Close", "GiveUp"]);
        assert!(bench.on(Event::ProducerOpened).is_empty());
    }

    #[test]
    fn who_is_expelled_holds_nothing_and_begins_again_as_at_the_start() {
        let mut bench = Bench::running();
        let third = bench.on(Event::Assigned(
            vec![Partition(2)],
            generation("member 1", "generation 2"),
        ));
        assert_eq!(names(&third), ["Accept", "Restore"]);
        bench.order(0, 0, "a");
        let actions = bench.on(Event::Expelled);
        assert_eq!(
            names(&actions),
            ["Abandon", "Close", "Close", "CancelRestore", "Close"],
            "and nothing of the consumer"
        );
        assert!(bench.admission.partitions().is_empty());
        assert!(matches!(bench.order(0, 1, "b"), Taken::NotRunning));
        let late = bench.on(Event::Restored(Partition(2), Token(3), Offset(0)));
        assert!(late.is_empty(), "{late:?}");

        assert_eq!(names(&bench.on(Event::Tick)), ["OpenProducer"]);
        assert!(bench.on(Event::ProducerOpened).is_empty());
        let assigned = bench.on(Event::Assigned(
            vec![Partition(2)],
            generation("member 2", "generation 4"),
        ));
        assert_eq!(names(&assigned), ["Accept", "Restore"]);
        let former = bench.on(Event::Restored(Partition(2), Token(3), Offset(0)));
        assert!(former.is_empty(), "the restore of the former life: {former:?}");
        bench.restored(2, 4);
    }

    #[test]
    fn every_doubt_is_resolved_by_a_new_producer_and_a_restore() {
        let mut bench = Bench::running();
        bench.order(0, 0, "a");
        assert_eq!(names(&bench.on(Event::Failed)), ["Pause", "Abandon"]);
        assert!(matches!(bench.order(0, 0, "a"), Taken::NotRunning));
        assert_eq!(names(&bench.on(Event::Tick)), ["OpenProducer"]);
        let again = bench.start + PRODUCER_AGAIN;
        assert!(bench.on(Event::ProducerFailed).is_empty());
        assert_eq!(bench.admission.due(), Some(again));
        assert!(bench.on(Event::Tick).is_empty(), "not yet");
        assert_eq!(names(&bench.admission.on(Event::Tick, again)), ["OpenProducer"]);
        assert_eq!(names(&bench.on(Event::ProducerOpened)), ["Restore", "Restore"]);
        assert!(
            bench
                .on(Event::Restored(Partition(0), Token(1), Offset(0)))
                .is_empty(),
            "an old answer"
        );
        bench.restored(0, 3);
        assert!(
            matches!(
                bench.order(0, 0, "a"),
                Taken::Decided {
                    verdict: Verdict::Admit { .. },
                    begins: true
                }
            ),
            "the overlay of the failed transaction is gone"
        );
    }

    #[test]
    fn what_goes_on_failing_is_tried_again_at_intervals_until_something_is_committed() {
        let mut bench = Bench::running();
        for _ in 0..PROMPT_MAX {
            bench.on(Event::Failed);
            assert_eq!(bench.admission.due(), Some(bench.start), "at once");
            bench.on(Event::ProducerOpened);
        }
        bench.on(Event::Failed);
        assert_eq!(bench.admission.due(), Some(bench.start + PRODUCER_AGAIN));
        let restores = bench.on(Event::ProducerOpened);
        let [Action::Restore(_, Token(token)), _] = restores[..] else {
            panic!("{restores:?}");
        };
        bench.restored(0, token);
        bench.order(0, 0, "a");
        bench.on(Event::Committed([(Partition(0), Offset(2))].into()));
        bench.on(Event::Failed);
        assert_eq!(bench.admission.due(), Some(bench.start), "at once again");
    }

    #[test]
    fn a_failed_store_is_discarded_and_restored() {
        let mut bench = Bench::running();
        let actions = bench.on(Event::StoreFailed(Partition(1)));
        assert_eq!(names(&actions), ["Pause", "Abandon", "Discard"]);
    }

    #[test]
    fn a_refused_partition_stands_still_while_others_go_on() {
        let mut bench = Bench::running();
        assert_eq!(
            names(&bench.on(Event::Assigned(
                vec![Partition(2)],
                generation("member 1", "generation 2")
            ))),
            ["Accept", "Restore"]
        );
        assert!(
            bench
                .on(Event::RestoreRefused(Partition(2), Token(3), "a gap".into()))
                .is_empty()
        );
        assert!(matches!(bench.order(2, 0, "x"), Taken::NotRunning));
        assert!(matches!(bench.order(0, 0, "a"), Taken::Decided { .. }));
        assert_eq!(names(&bench.on(Event::Failed)), ["Pause", "Abandon"]);
        assert_eq!(
            bench.on(Event::ProducerOpened).len(),
            2,
            "the refused one is not restored"
        );
        bench.restored(0, 4);
        bench.restored(1, 5);
        bench.on(Event::Assigned(
            Vec::new(),
            generation("member 2", "generation 4"),
        ));
        assert_eq!(
            bench.on(Event::ProducerOpened).len(),
            3,
            "by a new member it is looked at again"
        );
    }

    #[test]
    fn a_stop_ends_the_transaction_and_leaves() {
        let mut bench = Bench::running();
        bench.order(0, 0, "a");
        assert_eq!(names(&bench.on(Event::Stop)), ["End", "Close", "Close", "Leave"]);
        assert!(matches!(bench.order(0, 1, "b"), Taken::NotRunning));
    }
}
