//! Another group of callers on the same outbox, with an API of its own: all that this group sees of it are the copies
//! that it appends.

use pipeline::delivery::Ambiguity;
use rand::RngExt as _;
use records::Offset;

use crate::delivery::checks::{CallPosition, ViolationKind};
use crate::delivery::simulation::{DeferredState, OutboxRecord, Simulation};

/// Maximum number of its copies.
const COPIES_MAX: usize = 4;

impl Simulation {
    /// Lets the other group append a copy of any call, however far this group has come with it.
    pub(crate) fn other_group_turn(&mut self) {
        let copies = self.log.values().filter(|record| record.is_of_other_group);
        if !self.faults || !self.random.random_ratio(1, 40) || copies.count() >= COPIES_MAX {
            return;
        }
        let calls: Vec<CallPosition> = self
            .log
            .iter()
            .filter(|(position, record)| **position == record.origin)
            .map(|(position, _)| *position)
            .collect();
        let call = calls[self.random.random_range(0..calls.len())];
        let deferral_context = DeferredState {
            attempts: 3,
            attempts_ambiguous: 0,
            lookups: 0,
            ambiguity: self
                .random
                .random_ratio(1, 2)
                .then_some(Ambiguity::AmbiguousResponse),
            first_seen_at: self.now,
        };
        let copy = OutboxRecord {
            is_of_other_group: true,
            deferral_context: Some(deferral_context),
            ..self.log[&call].clone()
        };
        let end = self.log_end.entry(call.0).or_insert(Offset(0));
        let position = (call.0, *end);
        // Behind it lies the marker of its transaction.
        *end = end.next().next();
        self.trace(|| format!("another group appends {position:?}, a copy of {call:?}"));
        self.log.insert(position, copy);
    }

    /// Checks a record that a caller of this group skips.
    pub(crate) fn skip(&mut self, position: CallPosition) {
        self.count("copies skipped");
        if !self.log[&position].is_of_other_group {
            self.checks.violation(ViolationKind::InvalidAction, || {
                format!("{position:?} is skipped, and is no copy of another group")
            });
        }
    }
}
