//! The requests of this process, by the position of their calls: they outlive assignments.
//!
//! A partition that is lost may come back a moment later, and with it the calls whose requests are still
//! under way. This process knows of them, so it waits for their reports instead of asking twice.

use std::collections::{BTreeMap, HashSet};

use records::{Offset, Partition};

use super::answer::Report;
use super::call::History;
use super::event::CallId;

/// How many reports are kept for calls that are not ours at the moment. Beyond this the newest are dropped,
/// and their calls may be made again, as they would be by any other caller.
const KNOWN_MAX: usize = 1_000;

/// The requests of this process.
#[derive(Debug, Default)]
pub(super) struct Requests {
    under_way: HashSet<(Partition, Offset)>,
    /// Reports that came when their call was not ours.
    known: BTreeMap<(Partition, Offset), Known>,
}

/// A report of an earlier assignment, and what was tried up to it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) report: Report,
    pub(super) before: History,
}

impl Requests {
    pub(super) fn begin(&mut self, id: CallId) {
        self.under_way.insert(position(id));
    }

    /// A report has come. Returns whether one was awaited.
    pub(super) fn end(&mut self, id: CallId) -> bool {
        self.under_way.remove(&position(id))
    }

    pub(super) fn is_under_way(&self, id: CallId) -> bool {
        self.under_way.contains(&position(id))
    }

    pub(super) fn count(&self) -> usize {
        self.under_way.len()
    }

    pub(super) fn of(&self, partitions: &[Partition]) -> Vec<(Partition, Offset)> {
        let is_theirs = |(partition, _): &&(Partition, Offset)| partitions.contains(partition);
        let mut requests: Vec<_> = self.under_way.iter().filter(is_theirs).copied().collect();
        requests.sort_unstable();
        requests
    }

    /// Keeps a report of a call that is not ours at the moment.
    pub(super) fn keep(&mut self, id: CallId, known: Known) {
        if self.known.len() < KNOWN_MAX {
            self.known.insert(position(id), known);
        }
    }

    pub(super) fn take_known(&mut self, id: CallId) -> Option<Known> {
        self.known.remove(&position(id))
    }

    /// Forgets what is kept of a partition and is final now.
    pub(super) fn forget_finals(&mut self, of: Partition, is_final: impl Fn(Offset) -> bool) {
        self.known
            .retain(|(partition, offset), _| *partition != of || !is_final(*offset));
    }
}

fn position(id: CallId) -> (Partition, Offset) {
    (id.partition, id.offset)
}
