//! Context of a deferred call, which its copy carries to the outbox's tail.

use std::time::Duration;

use records::Offset;

use super::{Ambiguity, History};

/// Context of a deferred call from its earlier offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeferralContext {
    /// Offset where it stood first in this partition.
    pub origin: Offset,
    /// Number of requests sent.
    pub attempts: u32,
    /// Number of requests with an ambiguous response.
    pub attempts_ambiguous: u32,
    /// Inconclusive look-ups in a row.
    pub lookups: u32,
    /// Reason why its outcome is unknown, if it is.
    pub ambiguity: Option<Ambiguity>,
    /// Time since it was first read, by the wall clock, since it outlives processes. Only abandoning depends
    /// on it.
    pub seen_before: Duration,
}

impl DeferralContext {
    /// Returns the attempts made so far.
    pub(crate) fn history(&self) -> History {
        History {
            attempts: self.attempts,
            attempts_ambiguous: self.attempts_ambiguous,
            // The times are those of other processes, whose monotonic clocks mean nothing here.
            ..History::default()
        }
    }
}
