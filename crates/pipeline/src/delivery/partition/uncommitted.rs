//! Changes of a partition that are not committed yet.

use std::collections::VecDeque;

use records::{IdempotencyKey, Offset};

/// Maximum number of final calls that are remembered until they are committed.
// While commits are acknowledged there are a few; the bound is for a group that accepts none for a long time.
const FINALS_MAX: usize = 10_000;

/// Changes since the last acknowledged commit. A commit takes the count with it when it is sent, so that
/// changes made while it is in flight stay uncommitted.
#[derive(Debug, Default)]
pub(super) struct Uncommitted {
    changes: u64,
    changes_committed: u64,
    /// Calls that became final, each with the change that made it so.
    finals: VecDeque<(u64, Offset, Option<IdempotencyKey>)>,
}

impl Uncommitted {
    /// Counts a change of the commit position or of the note.
    pub(super) fn changed(&mut self) {
        self.changes += 1;
    }

    /// Counts a call that became final.
    pub(super) fn finished(&mut self, offset: Offset, key: Option<IdempotencyKey>) {
        self.changed();
        if self.finals.len() < FINALS_MAX {
            self.finals.push_back((self.changes, offset, key));
        }
    }

    /// Number of changes that a commit sent now contains.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Returns `true` if a commit would change anything.
    pub(super) fn is_dirty(&self) -> bool {
        self.changes != self.changes_committed
    }

    /// Takes in the acknowledgement of a commit that contained this many changes.
    pub(super) fn committed(&mut self, changes: u64) {
        // Never backwards, in whatever order acknowledgements come.
        self.changes_committed = self.changes_committed.max(changes);
        while self.finals.front().is_some_and(|(change, ..)| *change <= changes) {
            self.finals.pop_front();
        }
    }

    /// Number of final calls that are not known to be committed, up to a maximum.
    pub(super) fn finals(&self) -> usize {
        self.finals.len()
    }

    /// Takes the final calls that are not known to be committed.
    pub(super) fn take_finals(&mut self) -> impl Iterator<Item = (Offset, Option<IdempotencyKey>)> {
        std::mem::take(&mut self.finals)
            .into_iter()
            .map(|(_, offset, key)| (offset, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_during_a_commit_stay_uncommitted() {
        let mut uncommitted = Uncommitted::default();
        assert!(!uncommitted.is_dirty());
        uncommitted.finished(Offset(1), None);
        let sent = uncommitted.changes();
        uncommitted.finished(Offset(2), None);
        assert_eq!(uncommitted.finals(), 2);
        uncommitted.committed(sent);
        assert!(uncommitted.is_dirty());
        assert_eq!(uncommitted.finals(), 1);
        let finals: Vec<Offset> = uncommitted.take_finals().map(|(offset, _)| offset).collect();
        assert_eq!(finals, [Offset(2)]);
        uncommitted.committed(uncommitted.changes());
        assert!(!uncommitted.is_dirty());
    }
}
