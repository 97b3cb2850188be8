//! Deferrals: transactions of callers, with copies at the end of the log.

use pipeline::delivery::{CallId, CommitResult, DeferredCopy, Event};
use rand::RngExt as _;
use records::{Offset, Partition};

use crate::delivery::caller::{Step, position};
use crate::delivery::checks::{CallPosition, ViolationKind};
use crate::delivery::group::PendingCommit;
use crate::delivery::simulation::{DeferredState, Mutation, OutboxRecord, Simulation};

/// Transaction, from the time at which the coordinator has its offsets.
pub(crate) struct Transaction {
    number: u64,
    process: u64,
    pub(crate) state: State,
    content: Vec<(Partition, Offset, String)>,
    /// Sequence number of its offsets. Commits accepted later are newer.
    sequence: u64,
    /// No caller waits for it, and the request to commit it may still arrive.
    may_still_end: bool,
}

/// Decision of the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    /// Its records are visible. Its offsets are in effect once the group coordinator has its marker.
    Committed {
        offsets_count: bool,
    },
    Aborted,
}

/// Deferral, as handed to the transactional producer.
#[derive(Clone)]
pub(crate) struct Deferral {
    number: u64,
    member: u64,
    copies: Vec<(CallPosition, OutboxRecord)>,
    content: Vec<(Partition, Offset, String)>,
}

impl Simulation {
    pub(crate) fn state(&self, transaction: Option<u64>) -> State {
        let found = transaction.and_then(|number| self.transactions.iter().find(|t| t.number == number));
        found.map_or(State::Committed { offsets_count: true }, |found| found.state)
    }

    pub(crate) fn is_visible(&self, record: &OutboxRecord) -> bool {
        matches!(self.state(record.transaction), State::Committed { .. })
    }

    /// Returns `true` if a transaction is pending on offsets of this partition.
    pub(crate) fn is_unstable(&self, partition: Partition) -> bool {
        let is_pending = |state| matches!(state, State::Open | State::Committed { offsets_count: false });
        self.transactions
            .iter()
            .any(|t| is_pending(t.state) && t.content.iter().any(|(of, ..)| *of == partition))
    }

    pub(crate) fn has_pending_transactions(&self) -> bool {
        self.partitions().any(|partition| self.is_unstable(partition))
    }

    /// Starts a deferral.
    pub(crate) fn defer(
        &mut self,
        at: usize,
        copies: Vec<DeferredCopy<CallPosition>>,
        content: Vec<(Partition, Offset, String)>,
    ) {
        self.count("deferrals");
        let (process, member) = (self.callers[at].process, self.callers[at].member);
        if self.callers[at].is_committing() {
            self.checks.violation(ViolationKind::InvalidCommit, || {
                "a deferral with a commit in flight".into()
            });
        }
        let copies: Vec<(CallPosition, OutboxRecord)> = copies
            .into_iter()
            .map(|copied| (position(copied.call), self.copy(process, &copied)))
            .collect();
        let positions: Vec<CallPosition> = copies.iter().map(|(position, _)| *position).collect();
        self.trace(|| format!("{process} defers {positions:?} with {content:?}"));
        self.deferrals_started += 1;
        let number = self.deferrals_started;
        let last_commits = self.callers[at].last_commits.clone();
        if self.setup.mutation == Some(Mutation::CommitDuringDeferral) {
            let content = content
                .iter()
                .filter_map(|(partition, ..)| {
                    let (offset, note) = last_commits.get(partition)?;
                    Some((*partition, *offset, note.clone()))
                })
                .collect();
            self.group.late.push(PendingCommit {
                member,
                content,
                result: CommitResult::Committed,
            });
        }
        let begins_at = self.soon(25);
        let is_silent = self.has_hard_faults() && self.random.random_ratio(1, 60);
        let caller = &mut self.callers[at];
        caller.deferral = Some(number);
        if !is_silent {
            let deferral = Deferral {
                number,
                member,
                copies,
                content,
            };
            caller.steps.push((begins_at, Step::Defer(deferral)));
        }
    }

    fn copy(&mut self, process: u64, copied: &DeferredCopy<CallPosition>) -> OutboxRecord {
        let CallId { assignment, .. } = copied.call;
        let before = &self.log[&position(copied.call)];
        let origin = before.origin;
        let deferred_by = (process, assignment);
        let deferral_context = DeferredState {
            attempts: copied.history.attempts,
            attempts_ambiguous: copied.history.attempts_ambiguous,
            lookups: copied.lookups,
            ambiguity: copied.ambiguity,
            first_seen_at: before
                .deferral_context
                .map_or(self.now, |before| before.first_seen_at),
        };
        let (key, policy) = (before.key.clone(), before.policy);
        self.checks.deferred_by.insert(origin, deferred_by);
        OutboxRecord {
            key,
            policy,
            origin,
            is_of_other_group: false,
            deferral_context: Some(deferral_context),
            transaction: None,
        }
    }

    /// Takes records and offsets of a deferral, if the group knows the member.
    pub(crate) fn begin_deferral(&mut self, at: usize, deferral: Deferral) {
        let process = self.callers[at].process;
        if !self.group.members.contains_key(&deferral.member) {
            return self.finish_deferral(at, deferral.number, CommitResult::Fenced);
        }
        if self.faults && self.random.random_ratio(1, 12) {
            return self.finish_deferral(at, deferral.number, CommitResult::Rejected);
        }
        let ends_at = self.soon(25);
        match self.setup.mutation {
            Some(Mutation::CopyBeforeNote) => self.append(&deferral, None),
            Some(Mutation::NoteBeforeCopy) => {
                self.accept_commit(&deferral.as_commit());
            }
            _ => {
                self.append(&deferral, Some(deferral.number));
                self.group.last_sequence += 1;
                self.transactions.push(Transaction {
                    number: deferral.number,
                    process,
                    state: State::Open,
                    content: deferral.content.clone(),
                    sequence: self.group.last_sequence,
                    may_still_end: false,
                });
            }
        }
        self.callers[at]
            .steps
            .push((ends_at, Step::CommitDeferral(deferral)));
    }

    /// Handles the request to commit a deferral, which may be lost, as may its response.
    pub(crate) fn end_deferral(&mut self, at: usize, deferral: &Deferral) {
        match self.setup.mutation {
            Some(Mutation::CopyBeforeNote) => {
                self.accept_commit(&deferral.as_commit());
                return self.finish_deferral(at, deferral.number, CommitResult::Committed);
            }
            Some(Mutation::NoteBeforeCopy) => {
                self.append(deferral, None);
                return self.finish_deferral(at, deferral.number, CommitResult::Committed);
            }
            _ => {}
        }
        let has_hard_faults = self.has_hard_faults();
        let drawn = self.random.random_range(0..100);
        let has_arrived = self.random.random_ratio(1, 2);
        let Some(transaction) = self.transactions.iter_mut().find(|t| t.number == deferral.number) else {
            return;
        };
        if transaction.state != State::Open {
            // The coordinator has timed it out.
            return self.finish_deferral(at, deferral.number, CommitResult::Unknown);
        }
        let result = match drawn {
            0..20 if has_hard_faults => CommitResult::Unknown,
            20..25 if self.faults => CommitResult::Rejected,
            _ => CommitResult::Committed,
        };
        match result {
            CommitResult::Unknown if !has_arrived => transaction.may_still_end = true,
            CommitResult::Committed | CommitResult::Unknown => {
                transaction.state = State::Committed { offsets_count: false };
            }
            CommitResult::Rejected | CommitResult::Fenced => transaction.state = State::Aborted,
        }
        self.finish_deferral(at, deferral.number, result);
    }

    fn finish_deferral(&mut self, at: usize, number: u64, result: CommitResult) {
        let process = self.callers[at].process;
        self.trace(|| format!("deferral of {process}: {result:?}"));
        if self.callers[at].deferral != Some(number) {
            return;
        }
        self.callers[at].deferral = None;
        let result = match (result, self.setup.mutation) {
            (CommitResult::Unknown, Some(Mutation::UnknownDeferralIgnored)) => CommitResult::Rejected,
            (result, _) => result,
        };
        if matches!(result, CommitResult::Unknown | CommitResult::Fenced) {
            self.checks.interruptions.push((process, self.now));
        }
        if result == CommitResult::Unknown {
            self.count("unknown deferrals");
        }
        self.handle(at, Event::Committed(result));
    }

    fn append(&mut self, deferral: &Deferral, transaction: Option<u64>) {
        let mut partitions = Vec::new();
        for ((partition, _), record) in &deferral.copies {
            let end = self.log_end.entry(*partition).or_insert(Offset(0));
            let record = OutboxRecord {
                transaction,
                ..record.clone()
            };
            self.log.insert((*partition, *end), record);
            *end = end.next();
            partitions.push(*partition);
        }
        partitions.dedup();
        // Transaction markers.
        for partition in partitions {
            self.log_end.entry(partition).and_modify(|end| *end = end.next());
        }
    }

    /// Ends transactions that no caller waits for, and writes markers.
    pub(crate) fn transactions_turn(&mut self) {
        for at in 0..self.transactions.len() {
            let draw = self.random.random_range(0..12);
            let Transaction {
                number,
                process,
                state,
                may_still_end,
                ..
            } = self.transactions[at];
            let caller = self.callers.iter().find(|caller| caller.process == process);
            let is_waited_for = caller.is_some_and(|caller| caller.has_deferral(number));
            match (state, draw) {
                (State::Open, 0..3) if may_still_end => {
                    self.count("late deferrals");
                    self.transactions[at].state = State::Committed { offsets_count: false };
                }
                (State::Open, 3..4) if !is_waited_for => self.transactions[at].state = State::Aborted,
                (State::Committed { offsets_count: false }, 0..4) => {
                    self.transactions[at].state = State::Committed { offsets_count: true };
                    let transaction = &self.transactions[at];
                    let (content, sequence) = (transaction.content.clone(), transaction.sequence);
                    self.trace(|| format!("marker written, offsets in effect: {content:?}"));
                    self.apply(&content, sequence);
                }
                _ => {}
            }
        }
    }
}

impl Deferral {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    fn as_commit(&self) -> PendingCommit {
        PendingCommit {
            member: self.member,
            content: self.content.clone(),
            result: CommitResult::Committed,
        }
    }
}
