//! Simulated outbox: its records, the terminal records, the callers' notes and the API, as they are in truth.

use std::collections::{BTreeMap, BTreeSet};

use pipeline::ledger::{Ledger, Rejection, Replayable, Terminal};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use records::operation::{Event, Replay};
use records::{CallNote, Offset, Partition, Position};

use super::Mutation;
use super::callers::Caller;
use super::operators::Operator;

pub(crate) const P: Partition = Partition(0);
/// Steps in which processes crash and operators begin; afterwards what is open ends.
const STEPS: u32 = 400;
/// Steps after which everything must have ended.
const QUIET_STEPS: u32 = 4_000;

/// Record of the outbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) order: usize,
    /// First record of its call.
    pub(crate) first: i64,
    /// First record of the accepted call that it repeats.
    pub(crate) repeats: Option<i64>,
    /// Record of which it is a copy.
    pub(crate) copied: Option<i64>,
    /// It says that an earlier request of its call may have been processed.
    pub(crate) is_ambiguous: bool,
}

/// Request that the API has not processed yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) order: usize,
    pub(crate) offset: i64,
    /// Caller that waits for the response, by its number; none if it gave up.
    pub(crate) caller: Option<u64>,
}

pub(crate) struct World {
    pub(crate) rng: ChaCha8Rng,
    pub(crate) mutation: Option<Mutation>,
    /// Whether callers park ambiguous calls, or retry them.
    pub(crate) parks: bool,
    pub(crate) log: Vec<Record>,
    pub(crate) terminals: Vec<(Terminal, i64)>,
    /// Records whose terminal records were deleted, as their retention has passed.
    expired: BTreeSet<i64>,
    pub(crate) committed: i64,
    pub(crate) note: CallNote,
    pub(crate) operations: Vec<Replay>,
    /// Epoch of the operators' transactional id.
    pub(crate) epoch: u64,
    pub(crate) requests: Vec<Request>,
    pub(crate) charged: Vec<u32>,
    /// How often a person asked for each order by name.
    pub(crate) asked: Vec<u32>,
    /// First records of the calls that a dead letter has called ambiguous, that an operator has sent again once they
    /// were parked, or that repeat one that was accepted.
    pub(crate) ambiguous: BTreeSet<i64>,
    /// Records of parked calls that an operator has sent again.
    pub(crate) sent_again: BTreeSet<i64>,
    /// Orders that the API rejects for now.
    pub(crate) rejected: BTreeSet<usize>,
    pub(crate) caller: Caller,
    operators: [Operator; 2],
    pub(crate) is_quiet: bool,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) violation: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let orders = rng.random_range(2..7);
        let rejected = (0..orders).filter(|_| rng.random_bool(0.6)).collect();
        Self {
            parks: rng.random_bool(0.5),
            log: (0..orders)
                .map(|order| Record {
                    order,
                    first: order as i64,
                    repeats: None,
                    copied: None,
                    is_ambiguous: false,
                })
                .collect(),
            terminals: Vec::new(),
            expired: BTreeSet::new(),
            committed: 0,
            note: CallNote::default(),
            operations: Vec::new(),
            epoch: 0,
            requests: Vec::new(),
            charged: vec![0; orders],
            asked: vec![0; orders],
            ambiguous: BTreeSet::new(),
            sent_again: BTreeSet::new(),
            rejected,
            caller: Caller::new(0),
            operators: [Operator::new(0), Operator::new(1)],
            is_quiet: false,
            counts: BTreeMap::new(),
            violation: None,
            mutation,
            rng,
        }
    }

    /// Runs to the end. Returns what has happened, or the violation.
    pub(crate) fn run(mut self) -> Result<BTreeMap<&'static str, u64>, String> {
        for _ in 0..STEPS {
            self.step()?;
        }
        self.is_quiet = true;
        self.rejected.clear();
        for _ in 0..QUIET_STEPS {
            if self.has_ended() {
                break;
            }
            self.step()?;
        }
        self.check_end()?;
        Ok(self.counts)
    }

    fn step(&mut self) -> Result<(), String> {
        match self.rng.random_range(0..10) {
            0..4 => self.caller_step(),
            4..6 => self.api_step(),
            6 if !self.is_quiet && self.rng.random_bool(0.5) => {
                // The API is repaired for an order, or breaks.
                let order = self.rng.random_range(0..self.charged.len());
                if !self.rejected.remove(&order) {
                    self.rejected.insert(order);
                }
            }
            7 if !self.is_quiet && self.rng.random_bool(0.1) => self.expire(),
            _ => {
                let number = self.rng.random_range(0..self.operators.len());
                let mut operator = std::mem::replace(&mut self.operators[number], Operator::new(0));
                operator.step(self);
                self.operators[number] = operator;
            }
        }
        self.violation.take().map_or(Ok(()), Err)
    }

    fn api_step(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.requests.len());
        // One whose caller no longer waits may hang for long.
        if !self.is_quiet && self.requests[at].caller.is_none() && self.rng.random_bool(0.95) {
            return;
        }
        let request = self.requests.swap_remove(at);
        let accepts = !self.rejected.contains(&request.order);
        if accepts {
            self.charged[request.order] += 1;
        }
        if let Some(caller) = request.caller {
            self.respond(caller, request.offset, accepts);
        }
        let allowed = 1 + self.asked[request.order];
        if self.parks && self.charged[request.order] > allowed {
            self.violation = Some(format!(
                "order {} was charged {} times, and {allowed} were allowed",
                request.order, self.charged[request.order]
            ));
        }
    }

    fn has_ended(&self) -> bool {
        self.committed == self.log.len() as i64
            && self.requests.is_empty()
            && self.operators.iter().all(Operator::is_idle)
    }

    fn check_end(&self) -> Result<(), String> {
        if !self.has_ended() {
            return Err(format!(
                "calls from {} on of {} never became final",
                self.committed,
                self.log.len()
            ));
        }
        for (offset, _) in (0..).zip(&self.log) {
            let is_copied = self.log.iter().any(|record| record.copied == Some(offset));
            let is_ended =
                self.expired.contains(&offset) || self.terminals.iter().any(|(_, at)| *at == offset);
            if !is_copied && !is_ended {
                return Err(format!("the call at {offset} is lost: it has no terminal record"));
            }
        }
        Ok(())
    }

    /// Deletes the terminal records of an order whose calls are final.
    fn expire(&mut self) {
        let order = self.rng.random_range(0..self.charged.len());
        let of: BTreeSet<i64> = (0..)
            .zip(&self.log)
            .filter(|(_, record)| record.order == order)
            .map(|(offset, _)| offset)
            .collect();
        if of.iter().all(|offset| self.is_final(*offset)) {
            self.terminals.retain(|(_, offset)| !of.contains(offset));
            self.expired.extend(of);
            self.count("outcomes expired");
        }
    }

    fn is_final(&self, offset: i64) -> bool {
        offset < self.committed || self.note.finals.contains(Offset(offset))
    }

    /// Returns whether the orders of a plan of unknown calls were not charged, and no request of them is left.
    pub(crate) fn is_quiescent(&self, plan: &str) -> bool {
        let events = || self.operations.iter().filter(|of| of.plan == plan);
        let is_unknown = events().any(|of| match &of.event {
            Event::Planned(planned) => planned.states == [Replayable::Unknown.as_str()],
            _ => false,
        });
        if !is_unknown || self.mutation == Some(Mutation::QuiescenceIgnored) {
            return true;
        }
        let mut offsets = events().flat_map(|of| match &of.event {
            Event::Calls { runs, .. } => runs.clone(),
            _ => Vec::new(),
        });
        offsets.all(|(from, until)| {
            (from.0..until.0).all(|offset| {
                let order = self.record(offset).order;
                self.charged[order] == 0 && self.requests.iter().all(|request| request.order != order)
            })
        })
    }

    pub(crate) fn record(&self, offset: i64) -> Record {
        self.log[usize::try_from(offset).expect("an offset")]
    }

    /// Returns the notes that an operator goes by.
    pub(crate) fn noted(&self, notes: Option<(i64, CallNote)>) -> Option<(i64, CallNote)> {
        match self.mutation {
            // Each call counts as final.
            Some(Mutation::NotesIgnored) => Some((i64::MAX, CallNote::default())),
            _ => notes,
        }
    }

    /// Appends a copy of a record in this state for an operator.
    pub(crate) fn append(&mut self, copied: i64, state: Replayable) {
        let repeats = state == Replayable::Accepted;
        // Nobody has asked for a second charge of an order that the provider has not charged.
        let is_named = state.may_charge_again() && state != Replayable::Unknown;
        let of = self.log[usize::try_from(copied).expect("an offset")];
        if self.log.iter().any(|record| record.copied == Some(copied)) {
            self.violation = Some(format!("the call at {copied} was appended twice"));
        }
        if !self.is_final(copied) {
            self.violation = Some(format!("a caller may still make the call at {copied}"));
        }
        let is_accepted = self.terminals.iter().any(|(kind, at)| {
            *kind == Terminal::Accepted
                && self.log[usize::try_from(*at).expect("an offset")].first == of.first
        });
        if is_accepted && !is_named {
            self.violation = Some(format!(
                "the call at {copied} was accepted, and nobody asked for it"
            ));
        }
        if self.ambiguous.contains(&of.first) && state == Replayable::Rejected {
            self.violation = Some(format!(
                "the call at {copied} may have been processed, and nobody asked for it"
            ));
        }
        if is_named {
            self.asked[of.order] += 1;
            self.count("calls appended by name");
        }
        self.count("calls appended");
        let own = self.log.len() as i64;
        // Copies of earlier versions do not say that the order was charged.
        let is_earlier = repeats && self.rng.random_bool(0.5);
        if repeats {
            self.ambiguous.insert(own);
        }
        self.log.push(Record {
            order: of.order,
            first: if repeats { own } else { of.first },
            repeats: repeats.then_some(of.first),
            copied: Some(copied),
            is_ambiguous: state.may_charge_again()
                && !is_earlier
                && self.mutation != Some(Mutation::AmbiguityForgotten),
        });
    }

    /// Folds the terminal records into a ledger, with notes that were read before.
    pub(crate) fn ledger(&self, noted: Option<(i64, CallNote)>, terminals: &[(Terminal, i64)]) -> Ledger {
        let mut ledger = Ledger::new("outbox");
        if let Some((committed, note)) = noted {
            ledger.noted(P, Offset(committed), note);
        }
        for (kind, offset) in terminals {
            if *kind == Terminal::Parked && self.mutation == Some(Mutation::ParkedIgnored) {
                continue;
            }
            let record = self.log[usize::try_from(*offset).expect("an offset")];
            ledger
                .terminal(*kind, &position(*offset), &[0])
                .expect("one key for all");
            // An outcome names the first record of its call, too.
            if *kind == Terminal::Accepted {
                ledger
                    .terminal(*kind, &position(record.first), &[0])
                    .expect("one key for all");
            }
        }
        ledger
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Settles a parked call, as `parked settle` does: as rejected, or has it sent again if the provider has not charged its
    /// order and no request of it is left.
    pub(crate) fn settle(&mut self) {
        let parked = self.terminals.iter().find(|(kind, offset)| {
            *kind == Terminal::Parked
                && self.is_final(*offset)
                && !self
                    .terminals
                    .iter()
                    .any(|(kind, at)| at == offset && *kind != Terminal::Parked)
                && !self.log.iter().any(|record| record.copied == Some(*offset))
        });
        let Some((_, offset)) = parked.copied() else {
            return;
        };
        let of = self.record(offset);
        let is_unprocessed =
            self.charged[of.order] == 0 && self.requests.iter().all(|request| request.order != of.order);
        if is_unprocessed && self.rng.random_bool(0.7) {
            // Copies of earlier versions do not say that the call was parked.
            let is_ambiguous = self.rng.random_bool(0.5);
            self.ambiguous.insert(of.first);
            self.sent_again.insert(offset);
            self.log.push(Record {
                copied: Some(offset),
                repeats: None,
                is_ambiguous,
                ..of
            });
            self.count("parked calls sent again");
            return;
        }
        self.terminals
            .push((Terminal::DeadLetter(Rejection::Settled), offset));
        self.count("settled");
    }
}

pub(crate) fn position(offset: i64) -> Position {
    Position {
        topic: "outbox".into(),
        partition: P,
        offset: Offset(offset),
    }
}
