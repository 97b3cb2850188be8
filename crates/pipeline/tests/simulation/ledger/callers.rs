//! Callers: one owns the partition, and another takes over where its notes end when it crashes.

use std::collections::{BTreeMap, BTreeSet};

use pipeline::ledger::{Rejection, Terminal};
use rand::RngExt as _;
use records::{CallNote, Offset, OffsetSet};

use super::world::{Request, World};

/// Owner of the partition.
#[derive(Debug)]
pub(crate) struct Caller {
    number: u64,
    calls: BTreeMap<i64, Call>,
    /// Calls of which a response was lost.
    lost: BTreeSet<i64>,
}

/// Step of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Read,
    /// Its intent is committed, or need not be.
    Ready,
    Sent,
    /// The response of the last request, or the policy, decides it.
    Decided(Terminal),
    /// Its terminal record is acknowledged.
    Written,
}

impl Caller {
    pub(crate) const fn new(number: u64) -> Self {
        Self {
            number,
            calls: BTreeMap::new(),
            lost: BTreeSet::new(),
        }
    }
}

impl World {
    pub(crate) fn caller_step(&mut self) {
        if !self.is_quiet && self.rng.random_bool(0.03) {
            self.crash();
            return;
        }
        self.take_over();
        if self.caller.calls.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.caller.calls.len());
        let Some((offset, call)) = self
            .caller
            .calls
            .iter()
            .nth(at)
            .map(|(offset, call)| (*offset, *call))
        else {
            return;
        };
        match call {
            Call::Read => {
                if self.parks {
                    self.note.intents.insert(Offset(offset));
                }
                self.set(offset, Call::Ready);
            }
            Call::Ready => self.send(offset),
            Call::Sent if self.rng.random_bool(0.1) => self.give_up(offset),
            Call::Sent => {}
            Call::Decided(terminal) => {
                // Of what it knew and has not written, nobody learns after a crash.
                if terminal == Terminal::DeadLetter(Rejection::Ambiguous) {
                    let first = self.record(offset).first;
                    self.ambiguous.insert(first);
                }
                self.terminals.push((terminal, offset));
                self.set(offset, Call::Written);
            }
            Call::Written => self.commit(offset),
        }
    }

    fn crash(&mut self) {
        self.count("callers crashed");
        let number = self.caller.number + 1;
        // What it has sent may still be processed.
        for request in &mut self.requests {
            request.caller = None;
        }
        self.caller = Caller::new(number);
    }

    /// Reads the calls that are not final.
    fn take_over(&mut self) {
        for offset in self.committed..self.log.len() as i64 {
            if self.note.finals.contains(Offset(offset)) || self.caller.calls.contains_key(&offset) {
                continue;
            }
            // Under `park` an intent without a completion is ambiguous.
            let call = match self.note.intents.contains(Offset(offset)) {
                true => Call::Decided(Terminal::Parked),
                false => Call::Read,
            };
            if call != Call::Read {
                self.count("calls parked");
            }
            self.caller.calls.insert(offset, call);
        }
    }

    fn send(&mut self, offset: i64) {
        let order = self.log[usize::try_from(offset).expect("an offset")].order;
        self.requests.push(Request {
            order,
            offset,
            caller: Some(self.caller.number),
        });
        self.set(offset, Call::Sent);
    }

    /// The caller no longer waits: the response is lost.
    fn give_up(&mut self, offset: i64) {
        self.count("responses lost");
        self.caller.lost.insert(offset);
        for request in &mut self.requests {
            if request.offset == offset {
                request.caller = None;
            }
        }
        let call = match self.parks {
            true => Call::Decided(Terminal::Parked),
            false => Call::Ready,
        };
        self.set(offset, call);
    }

    /// Takes a response of the API, unless it is lost on its way.
    pub(crate) fn respond(&mut self, caller: u64, offset: i64, accepted: bool) {
        if caller != self.caller.number || self.caller.calls.get(&offset) != Some(&Call::Sent) {
            return;
        }
        if !self.is_quiet && self.rng.random_bool(0.1) {
            self.give_up(offset);
            return;
        }
        let record = self.record(offset);
        let terminal = match accepted {
            true => Terminal::Accepted,
            false if record.is_ambiguous || self.caller.lost.contains(&offset) => {
                self.count("rejected after a lost response");
                Terminal::DeadLetter(Rejection::Ambiguous)
            }
            false => Terminal::DeadLetter(Rejection::Definite),
        };
        self.set(offset, Call::Decided(terminal));
    }

    fn set(&mut self, offset: i64, call: Call) {
        self.caller.calls.insert(offset, call);
    }

    /// Commits that a call is final.
    fn commit(&mut self, offset: i64) {
        self.caller.calls.remove(&offset);
        let CallNote { intents, finals, .. } = &mut self.note;
        finals.insert(Offset(offset));
        if let Some(until) = finals.take_run_at(Offset(self.committed)) {
            self.committed = until.0;
        }
        let committed = self.committed;
        *intents = intents
            .runs()
            .flat_map(|(from, until)| from.0..until.0)
            .filter(|at| *at >= committed && !finals.contains(Offset(*at)))
            .map(Offset)
            .collect::<OffsetSet>();
    }
}
