//! Simulated consumer group: members, ownership, and committed offsets with their call notes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pipeline::delivery::CommitResult;
use pipeline::ledger::{Ledger, Terminal};
use rand::RngExt as _;
use records::{Bounds, CallNote, Offset, OffsetSet, Partition, Position};

use crate::delivery::checks::{CallPosition, ViolationKind};
use crate::delivery::simulation::{Mutation, Simulation};

/// Session timeout.
pub(crate) const SESSION: Duration = Duration::from_millis(1_000);

#[derive(Default)]
pub(crate) struct Group {
    pub(crate) members: BTreeMap<u64, Member>,
    members_joined: u64,
    pub(crate) committed: BTreeMap<Partition, (Offset, String)>,
    /// The brokers have lost the offsets, which only an operator can rebuild.
    pub(crate) is_lost: bool,
    /// A caller has halted a partition because of them.
    pub(crate) is_operator_called: bool,
    /// Sequence number of the commit that is in effect. A commit with a lower number is ignored.
    sequence: BTreeMap<Partition, u64>,
    pub(crate) last_sequence: u64,
    /// Commits that no process waits for. They may be accepted at any later time, or never.
    pub(crate) late: Vec<PendingCommit>,
}

/// Member of the group.
pub(crate) struct Member {
    pub(crate) process: u64,
    pub(crate) last_heartbeat: Instant,
    /// Owned partitions, and `true` for those being revoked.
    pub(crate) owned: BTreeMap<Partition, bool>,
}

#[derive(Clone, Debug)]
pub(crate) struct PendingCommit {
    pub(crate) member: u64,
    pub(crate) content: Vec<(Partition, Offset, String)>,
    pub(crate) result: CommitResult,
}

/// Event that the group sends to a process.
#[derive(Clone, Debug)]
pub(crate) enum GroupEvent {
    Assigned(Vec<Partition>),
    Revoked(Vec<Partition>),
    Lost,
}

impl Group {
    pub(crate) fn join(&mut self, process: u64, now: Instant) -> u64 {
        self.members_joined += 1;
        let member = Member {
            process,
            last_heartbeat: now,
            owned: BTreeMap::new(),
        };
        self.members.insert(self.members_joined, member);
        self.members_joined
    }
}

fn without_intents(mut note: CallNote, offset: Offset) -> String {
    note.intents = OffsetSet::new();
    note.encode(offset).expect("a shorter note")
}

impl Simulation {
    /// Begins the group at the beginning of the outbox, as `outbox group create` does.
    pub(crate) fn begin_group(&mut self) {
        for partition in self.partitions() {
            self.group.committed.insert(partition, (Offset(0), String::new()));
        }
    }

    /// All callers die, and the brokers delete the offsets of the group, as they do after days without a
    /// member.
    pub(crate) fn lose_group(&mut self) {
        if self.has_pending_transactions() || self.group.committed.is_empty() {
            return;
        }
        self.count("groups lost");
        self.trace(|| "the group is deleted".into());
        self.replace_callers();
        self.group.committed.clear();
        self.group.is_lost = true;
    }

    /// Lets the operator stop the callers and recover the group from the topics, as `outbox group recover` does,
    /// once a halted partition asks for it.
    pub(crate) fn operator_turn(&mut self) {
        // The command waits for the end of open transactions.
        if !self.group.is_operator_called || self.has_pending_transactions() {
            return;
        }
        self.group.is_operator_called = false;
        self.count("groups rebuilt");
        self.trace(|| "the operator recovers the group".into());
        self.replace_callers();
        self.group.is_lost = false;
        let mutation = self.setup.mutation;
        let mut ledger = Ledger::new("outbox");
        let as_position = |(partition, offset): CallPosition| Position {
            topic: "outbox".into(),
            partition,
            offset,
        };
        for (position, terminal) in &self.terminals {
            let ignored = match terminal {
                Terminal::Parked => Mutation::RecoveryWithoutParked,
                Terminal::Accepted | Terminal::DeadLetter(_) => Mutation::RecoveryWithoutOutcomes,
            };
            if mutation != Some(ignored) {
                let key = self.log[position].key.as_bytes();
                ledger
                    .terminal(*terminal, &as_position(*position), key)
                    .expect("one outbox");
            }
        }
        for (&(partition, offset), record) in &self.log {
            let is_skipped = record.is_of_other_group && mutation != Some(Mutation::RecoveryWithOtherCopies);
            if self.is_visible(record) && !is_skipped {
                let is_copy = record.origin != (partition, offset);
                let continues = (is_copy && mutation != Some(Mutation::RecoveryWithoutCopies))
                    .then(|| as_position(record.origin));
                ledger
                    .pending(partition, offset, record.key.as_bytes(), continues.as_ref())
                    .expect("one outbox");
            }
        }
        for partition in self.partitions() {
            let bounds = Bounds {
                start: Offset(0),
                end: self.log_end[&partition],
            };
            let recovery = ledger
                .recover(partition, bounds, None, &OffsetSet::new())
                .expect("a short note");
            let (offset, mut note) = (recovery.commit_position, recovery.note);
            self.check_finals(partition, offset, &note);
            if mutation == Some(Mutation::RecoveryWithoutIntents) {
                note.intents = OffsetSet::new();
            }
            let note = note.encode(offset).expect("a short note");
            self.trace(|| format!("{partition} is recovered at {offset} with {note}"));
            self.group.committed.insert(partition, (offset, note));
        }
    }

    /// Kills all callers and starts others. The members are gone from the group at once.
    fn replace_callers(&mut self) {
        for _ in 0..self.callers.len() {
            self.kill(0);
        }
        let started = &self.callers;
        let is_started = |member: &Member| started.iter().any(|caller| caller.process == member.process);
        self.group.members.retain(|_, member| is_started(member));
    }

    /// Moves a partition from one member to another.
    pub(crate) fn rebalance(&mut self) {
        let owned: Vec<(u64, Partition)> = self
            .group
            .members
            .iter()
            .filter(|(_, member)| member.owned.values().all(|leaves| !leaves))
            .flat_map(|(id, member)| member.owned.keys().map(|partition| (*id, *partition)))
            .collect();
        if owned.is_empty() {
            return;
        }
        let (id, partition) = owned[self.random.random_range(0..owned.len())];
        let Some(member) = self.group.members.get_mut(&id) else {
            return;
        };
        member.owned.insert(partition, true);
        let process = member.process;
        self.count("revocations");
        if let Some(caller) = self.caller(process) {
            caller
                .group_events
                .push_back(GroupEvent::Revoked(vec![partition]));
        }
    }

    /// Evicts members after their session timeout, and assigns partitions without an owner.
    pub(crate) fn group_turn(&mut self) {
        let now = self.now;
        for member in self.group.members.values_mut() {
            let caller = self
                .callers
                .iter()
                .find(|caller| caller.process == member.process);
            if caller.is_some_and(|caller| caller.asleep_until.is_none()) {
                member.last_heartbeat = now;
            }
        }
        let is_silent = |member: &Member| now.duration_since(member.last_heartbeat) > SESSION;
        let silent: Vec<u64> = self
            .group
            .members
            .iter()
            .filter(|(_, member)| is_silent(member))
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            self.count("evictions");
            let Some(member) = self.group.members.remove(&id) else {
                continue;
            };
            if let Some(caller) = self.caller(member.process) {
                caller.group_events.clear();
                caller.group_events.push_back(GroupEvent::Lost);
            }
        }
        for partition in self.partitions() {
            let is_owned = self
                .group
                .members
                .values()
                .any(|m| m.owned.contains_key(&partition));
            if is_owned || !self.random.random_ratio(1, 3) {
                continue;
            }
            let alive: Vec<u64> = self
                .group
                .members
                .iter()
                .filter(|(_, member)| self.callers.iter().any(|caller| caller.process == member.process))
                .map(|(id, _)| *id)
                .collect();
            if alive.is_empty() {
                continue;
            }
            let id = alive[self.random.random_range(0..alive.len())];
            if let Some(member) = self.group.members.get_mut(&id) {
                member.owned.insert(partition, false);
                let process = member.process;
                if let Some(caller) = self.caller(process) {
                    caller
                        .group_events
                        .push_back(GroupEvent::Assigned(vec![partition]));
                }
            }
        }
    }

    /// Lets a late commit be accepted, or be lost.
    pub(crate) fn late_commits_turn(&mut self) {
        if self.group.late.is_empty() || !self.random.random_ratio(1, 6) {
            return;
        }
        let at = self.random.random_range(0..self.group.late.len());
        let commit = self.group.late.swap_remove(at);
        if self.random.random_ratio(4, 5) && self.accept_commit(&commit) {
            self.count("late commits");
        }
    }

    /// Handles a commit as the coordinator does, which checks the membership and nothing else.
    pub(crate) fn accept_commit(&mut self, commit: &PendingCommit) -> bool {
        let Some(member) = self.group.members.get_mut(&commit.member) else {
            return false;
        };
        member.last_heartbeat = self.now;
        self.group.last_sequence += 1;
        let sequence = self.group.last_sequence;
        self.apply(&commit.content, sequence);
        true
    }

    /// Applies committed offsets, unless newer ones are in effect.
    pub(crate) fn apply(&mut self, content: &[(Partition, Offset, String)], sequence: u64) {
        for (partition, offset, note) in content {
            if self
                .group
                .sequence
                .get(partition)
                .is_some_and(|newest| *newest > sequence)
            {
                continue;
            }
            self.group.sequence.insert(*partition, sequence);
            let note_read = CallNote::decode(*offset, note).expect("a note");
            self.check_finals(*partition, *offset, &note_read);
            let before = self.group.committed.get(partition);
            let before = before.map_or(Offset(0), |(offset, _)| *offset);
            if *offset < before {
                self.checks.violation(ViolationKind::CommitPositionDecreased, || {
                    format!("{partition} from {before} to {offset}")
                });
            }
            let note = match self.setup.mutation {
                Some(Mutation::NoIntents) => without_intents(note_read, *offset),
                _ => note.clone(),
            };
            self.group.committed.insert(*partition, (*offset, note));
        }
    }

    /// Checks that each call committed as final has an outcome, or a later copy of this group.
    fn check_finals(&mut self, partition: Partition, offset: Offset, note: &CallNote) {
        let range = (partition, Offset(0))..(Partition(partition.0 + 1), Offset(0));
        let finals: Vec<(CallPosition, bool)> = self
            .log
            .range(range)
            .filter(|(position, record)| {
                let is_final = position.1 < offset || note.finals.contains(position.1);
                is_final && self.is_visible(record) && !record.is_of_other_group
            })
            .map(|(position, record)| (*position, self.is_continued(*position, record.origin)))
            .collect();
        for (position, is_continued) in finals {
            let origin = self.origin(position);
            if !is_continued && !self.checks.outcomes.contains_key(&origin) {
                self.checks.violation(ViolationKind::FinalWithoutOutcome, || {
                    format!("{position:?}, which is {origin:?}")
                });
            }
            self.checks.finals.insert(position);
        }
    }

    fn is_continued(&self, position: CallPosition, origin: CallPosition) -> bool {
        let range = (position.0, position.1.next())..(Partition(position.0.0 + 1), Offset(0));
        let mut later = self.log.range(range);
        later.any(|(_, record)| {
            record.origin == origin && self.is_visible(record) && !record.is_of_other_group
        })
    }
}
