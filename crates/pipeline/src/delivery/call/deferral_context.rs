//! A call that goes on at another place of the outbox, and what it brings along.

use std::time::Duration;

use records::Offset;

use crate::delivery::call::{Ambiguity, History};

/// What a deferred call brings along from its earlier places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeferralContext {
    /// Its first place in this partition.
    pub origin: Offset,
    /// How many requests were made.
    pub attempts: u32,
    /// How many of them may have been processed although no answer said so.
    pub attempts_ambiguous: u32,
    /// Look-ups in a row that told nothing.
    pub lookups: u32,
    /// Why nobody can know whether it was processed already.
    pub ambiguity: Option<Ambiguity>,
    /// How long ago it was first seen. By the wall clock, since it outlives processes; nothing but giving up
    /// depends on it.
    pub seen_before: Duration,
}

impl DeferralContext {
    /// What was tried. The times are those of other processes, so they are not told here.
    pub(crate) fn history(&self) -> History {
        History {
            attempts: self.attempts,
            attempts_ambiguous: self.attempts_ambiguous,
            ..History::default()
        }
    }
}
