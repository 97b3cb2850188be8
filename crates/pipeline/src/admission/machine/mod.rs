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

use crate::admission::input::Input;
use crate::admission::membership::Membership;
use crate::admission::rules::Rules;
use crate::admission::transaction::{Admitted, Limits, Offsets, Transaction};
use crate::admission::verdict::{Verdict, decide};

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
mod tests;
