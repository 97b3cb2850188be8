//! Deferrals: transactions of callers, their copies at the end of the log, and what is left open of them.

use pipeline::delivery::{CallId, CommitResult, DeferredCopy, Event};
use rand::RngExt as _;
use records::{Offset, Partition};

use crate::delivery::caller::{Due, place};
use crate::delivery::checks::{Broken, Place};
use crate::delivery::group::CommitOnItsWay;
use crate::delivery::world::{Before, Mutation, Pending, World};

/// A transaction, from the moment at which the coordinator has taken its offsets.
pub(crate) struct Transaction {
    number: u64,
    process: u64,
    pub(crate) state: State,
    content: Vec<(Partition, Offset, String)>,
    /// The age of its offsets: what was committed after they were taken is newer than they are.
    taken_as: u64,
    /// Nobody waits for it any more, and the request to commit it may be on its way.
    may_still_end: bool,
}

/// What the coordinator has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    /// Its records can be read. Its offsets count once the coordinator of the group has its marker.
    Committed {
        offsets_count: bool,
    },
    Aborted,
}

/// What a caller hands to its transactional producer.
#[derive(Clone)]
pub(crate) struct Deferral {
    number: u64,
    member: u64,
    copies: Vec<(Place, Pending)>,
    content: Vec<(Partition, Offset, String)>,
}

impl World {
    pub(crate) fn state(&self, transaction: Option<u64>) -> State {
        let found = transaction.and_then(|number| self.transactions.iter().find(|t| t.number == number));
        found.map_or(State::Committed { offsets_count: true }, |found| found.state)
    }

    pub(crate) fn is_visible(&self, record: &Pending) -> bool {
        matches!(self.state(record.transaction), State::Committed { .. })
    }

    /// Whether offsets of this partition may yet change by a transaction.
    pub(crate) fn is_unstable(&self, partition: Partition) -> bool {
        let is_pending = |state| matches!(state, State::Open | State::Committed { offsets_count: false });
        self.transactions
            .iter()
            .any(|t| is_pending(t.state) && t.content.iter().any(|(of, ..)| *of == partition))
    }

    pub(crate) fn has_pending_transactions(&self) -> bool {
        self.partitions().any(|partition| self.is_unstable(partition))
    }

    /// The delivery asks for a deferral.
    pub(crate) fn defer(
        &mut self,
        at: usize,
        copies: Vec<DeferredCopy<Place>>,
        content: Vec<(Partition, Offset, String)>,
    ) {
        self.count("deferrals");
        let (process, member) = (self.callers[at].process, self.callers[at].member);
        if self.callers[at].is_committing() {
            self.checks.broken(Broken::CommitOutOfTurn, || {
                "a deferral with a commit in flight".into()
            });
        }
        let copies: Vec<(Place, Pending)> = copies
            .into_iter()
            .map(|copied| (place(copied.call), self.copy(process, &copied)))
            .collect();
        let places: Vec<Place> = copies.iter().map(|(place, _)| *place).collect();
        self.note(|| format!("{process} defers {places:?} with {content:?}"));
        self.deferrals_ever += 1;
        let number = self.deferrals_ever;
        let last_commits = self.callers[at].last_commits.clone();
        if self.setup.mutation == Some(Mutation::CommitMeanwhile) {
            let content = content
                .iter()
                .filter_map(|(partition, ..)| {
                    let (offset, note) = last_commits.get(partition)?;
                    Some((*partition, *offset, note.clone()))
                })
                .collect();
            self.group.late.push(CommitOnItsWay {
                member,
                content,
                result: CommitResult::Committed,
            });
        }
        let begun_at = self.soon(25);
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
            caller.due.push((begun_at, Due::Defer(deferral)));
        }
    }

    fn copy(&mut self, process: u64, copied: &DeferredCopy<Place>) -> Pending {
        let CallId { assignment, .. } = copied.call;
        let before = &self.log[&place(copied.call)];
        let origin = before.origin;
        let deferred_by = (process, assignment);
        let continued = Before {
            attempts: copied.history.attempts,
            attempts_ambiguous: copied.history.attempts_ambiguous,
            lookups: copied.lookups,
            ambiguity: copied.ambiguity,
            first_seen_at: before.continued.map_or(self.now, |before| before.first_seen_at),
        };
        let (key, policy) = (before.key.clone(), before.policy);
        self.checks.deferred_by.insert(origin, deferred_by);
        Pending {
            key,
            policy,
            origin,
            continued: Some(continued),
            transaction: None,
        }
    }

    /// Records and offsets arrive, if the group still knows the member.
    pub(crate) fn take_deferral(&mut self, at: usize, deferral: Deferral) {
        let process = self.callers[at].process;
        if !self.group.members.contains_key(&deferral.member) {
            return self.tell_deferral(at, deferral.number, CommitResult::Fenced);
        }
        if self.faults && self.random.random_ratio(1, 12) {
            return self.tell_deferral(at, deferral.number, CommitResult::Rejected);
        }
        let ends_at = self.soon(25);
        match self.setup.mutation {
            Some(Mutation::CopyAlone) => self.append(&deferral, None),
            Some(Mutation::NoteAlone) => {
                self.land(&deferral.as_commit());
            }
            _ => {
                self.append(&deferral, Some(deferral.number));
                self.group.taken_ever += 1;
                self.transactions.push(Transaction {
                    number: deferral.number,
                    process,
                    state: State::Open,
                    content: deferral.content.clone(),
                    taken_as: self.group.taken_ever,
                    may_still_end: false,
                });
            }
        }
        self.callers[at].due.push((ends_at, Due::EndDeferral(deferral)));
    }

    /// The request to commit it arrives, or not, and that is told, or not.
    pub(crate) fn end_deferral(&mut self, at: usize, deferral: &Deferral) {
        match self.setup.mutation {
            Some(Mutation::CopyAlone) => {
                self.land(&deferral.as_commit());
                return self.tell_deferral(at, deferral.number, CommitResult::Committed);
            }
            Some(Mutation::NoteAlone) => {
                self.append(deferral, None);
                return self.tell_deferral(at, deferral.number, CommitResult::Committed);
            }
            _ => {}
        }
        let has_hard_faults = self.has_hard_faults();
        let drawn = self.random.random_range(0..100);
        let has_landed = self.random.random_ratio(1, 2);
        let Some(transaction) = self.transactions.iter_mut().find(|t| t.number == deferral.number) else {
            return;
        };
        if transaction.state != State::Open {
            // The coordinator has timed it out.
            return self.tell_deferral(at, deferral.number, CommitResult::Unknown);
        }
        let result = match drawn {
            0..20 if has_hard_faults => CommitResult::Unknown,
            20..25 if self.faults => CommitResult::Rejected,
            _ => CommitResult::Committed,
        };
        match result {
            CommitResult::Unknown if !has_landed => transaction.may_still_end = true,
            CommitResult::Committed | CommitResult::Unknown => {
                transaction.state = State::Committed { offsets_count: false };
            }
            CommitResult::Rejected | CommitResult::Fenced => transaction.state = State::Aborted,
        }
        self.tell_deferral(at, deferral.number, result);
    }

    fn tell_deferral(&mut self, at: usize, number: u64, result: CommitResult) {
        let process = self.callers[at].process;
        self.note(|| format!("{process} hears of its deferral: {result:?}"));
        if self.callers[at].deferral != Some(number) {
            return;
        }
        self.callers[at].deferral = None;
        let result = match (result, self.setup.mutation) {
            (CommitResult::Unknown, Some(Mutation::UnknownDeferralCarriesOn)) => CommitResult::Rejected,
            (result, _) => result,
        };
        if matches!(result, CommitResult::Unknown | CommitResult::Fenced) {
            self.checks.interruptions.push((process, self.now));
        }
        if result == CommitResult::Unknown {
            self.count("unknown deferrals");
        }
        self.tell(at, Event::Committed(result));
    }

    fn append(&mut self, deferral: &Deferral, transaction: Option<u64>) {
        let mut behind = Vec::new();
        for ((partition, _), record) in &deferral.copies {
            let end = self.log_end.entry(*partition).or_insert(Offset(0));
            let record = Pending {
                transaction,
                ..record.clone()
            };
            self.log.insert((*partition, *end), record);
            *end = end.next();
            behind.push(*partition);
        }
        behind.dedup();
        // The markers.
        for partition in behind {
            self.log_end.entry(partition).and_modify(|end| *end = end.next());
        }
    }

    /// Transactions that nobody waits for end, and markers are written.
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
                    let (content, taken_as) = (transaction.content.clone(), transaction.taken_as);
                    self.note(|| format!("a marker: {content:?} count"));
                    self.apply(&content, taken_as);
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

    fn as_commit(&self) -> CommitOnItsWay {
        CommitOnItsWay {
            member: self.member,
            content: self.content.clone(),
            result: CommitResult::Committed,
        }
    }
}
