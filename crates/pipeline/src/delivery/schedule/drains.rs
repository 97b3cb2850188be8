//! Partitions that drain: after a revocation, and at shutdown.

use std::time::{Duration, Instant};

use records::Partition;

/// Revoked partitions that the group waits for, and the shutdown.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    revocations: Vec<Revocation>,
    shutdown: Option<Shutdown>,
}

#[derive(Debug)]
struct Revocation {
    partitions: Vec<Partition>,
    deadline: Deadline,
}

#[derive(Debug)]
struct Shutdown {
    deadline: Deadline,
    is_finished: bool,
}

/// End of a drain. Calls may finish until `at`; what they leave is committed within `commit_max` after it.
#[derive(Debug)]
struct Deadline {
    at: Instant,
    /// Calls that had not finished by `at` are released.
    has_passed: bool,
}

impl Deadline {
    fn new(at: Instant) -> Self {
        Self {
            at,
            has_passed: false,
        }
    }

    fn wake_at(&self, commit_max: Duration) -> Instant {
        match self.has_passed {
            false => self.at,
            true => self.at + commit_max,
        }
    }

    /// Returns `true` once, when calls must be released.
    fn passes(&mut self, now: Instant) -> bool {
        now >= self.at && !std::mem::replace(&mut self.has_passed, true)
    }

    /// Returns `true` when even the commit has not come through in time.
    fn is_over(&self, commit_max: Duration, now: Instant) -> bool {
        // The last commit has as long as any other. After that the group has waited enough.
        now >= self.at + commit_max
    }
}

impl Drains {
    pub(crate) fn revoke(&mut self, partitions: Vec<Partition>, deadline: Instant) {
        self.revocations.push(Revocation {
            partitions,
            deadline: Deadline::new(deadline),
        });
    }

    /// Adds lost partitions, which do not drain; they replace earlier revocations of them.
    pub(crate) fn lose(&mut self, partitions: Vec<Partition>, now: Instant) {
        // Each partition is released exactly once.
        for revocation in &mut self.revocations {
            revocation
                .partitions
                .retain(|partition| !partitions.contains(partition));
        }
        self.revocations
            .retain(|revocation| !revocation.partitions.is_empty());
        // Due at once: nothing of a lost partition may finish.
        self.revoke(partitions, now);
    }

    pub(crate) fn shut_down(&mut self, deadline: Instant) {
        self.shutdown = Some(Shutdown {
            deadline: Deadline::new(deadline),
            is_finished: false,
        });
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutdown.is_some()
    }

    pub(crate) fn has_revocations(&self) -> bool {
        !self.revocations.is_empty()
    }

    /// Forgets the revocations, because the membership is over. A shutdown goes on.
    pub(crate) fn clear_revocations(&mut self) {
        self.revocations.clear();
    }

    /// Time of the next deadline.
    pub(crate) fn wake_at(&self, commit_max: Duration) -> Option<Instant> {
        let revocations = self.revocations.iter().map(|revocation| &revocation.deadline);
        // A finished shutdown must not wake the loop any more.
        let shutdown = self.shutdown.iter().filter(|shutdown| !shutdown.is_finished);
        let deadlines = revocations.chain(shutdown.map(|shutdown| &shutdown.deadline));
        deadlines.map(|deadline| deadline.wake_at(commit_max)).min()
    }

    /// Takes the partitions whose deadline passes now, each once; `owned` are those that a shutdown drains.
    pub(crate) fn take_overdue(
        &mut self,
        now: Instant,
        owned: impl Iterator<Item = Partition>,
    ) -> Vec<Partition> {
        let mut overdue = Vec::new();
        for revocation in &mut self.revocations {
            if revocation.deadline.passes(now) {
                overdue.extend(revocation.partitions.iter().copied());
            }
        }
        if let Some(shutdown) = &mut self.shutdown
            && shutdown.deadline.passes(now)
        {
            overdue.extend(owned);
        }
        overdue
    }

    /// Takes the first revocation whose partitions are all drained. `is_drained` gets a flag that their time
    /// is over.
    pub(crate) fn take_drained(
        &mut self,
        commit_max: Duration,
        now: Instant,
        is_drained: impl Fn(Partition, bool) -> bool,
    ) -> Option<Vec<Partition>> {
        let at = self.revocations.iter().position(|revocation| {
            let is_over = revocation.deadline.is_over(commit_max, now);
            let mut partitions = revocation.partitions.iter();
            partitions.all(|partition| is_drained(*partition, is_over))
        })?;
        Some(self.revocations.remove(at).partitions)
    }

    /// Ends the shutdown if everything is drained, or its time is over. Returns `true` when it ends.
    pub(crate) fn finish(&mut self, commit_max: Duration, now: Instant, is_drained: bool) -> bool {
        let Some(shutdown) = &mut self.shutdown else {
            return false;
        };
        // Past its time the process exits, whatever is still open: the notes say what the next owner must
        // know.
        let may_finish = is_drained || shutdown.deadline.is_over(commit_max, now);
        // Once: the program is leaving already.
        may_finish && !std::mem::replace(&mut shutdown.is_finished, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const COMMIT_MAX: Duration = Duration::from_millis(5);

    #[test]
    fn overdue_partitions_are_taken_once() {
        let start = Instant::now();
        let mut drains = Drains::default();
        drains.revoke(vec![Partition(1)], start + MS);
        assert_eq!(drains.wake_at(COMMIT_MAX), Some(start + MS));
        let none = std::iter::empty;
        assert_eq!(drains.take_overdue(start, none()), []);
        assert_eq!(drains.take_overdue(start + MS, none()), [Partition(1)]);
        assert_eq!(drains.take_overdue(start + MS, none()), []);
        assert_eq!(drains.wake_at(COMMIT_MAX), Some(start + MS + COMMIT_MAX));
    }

    #[test]
    fn drained_partitions_are_released_early() {
        let start = Instant::now();
        let mut drains = Drains::default();
        drains.revoke(vec![Partition(1), Partition(2)], start + MS);
        let released = drains.take_drained(COMMIT_MAX, start, |partition, _| partition == Partition(1));
        assert_eq!(released, None, "one still drains");
        let released = drains.take_drained(COMMIT_MAX, start, |_, is_over| !is_over);
        assert_eq!(released, Some(vec![Partition(1), Partition(2)]));
    }

    #[test]
    fn lost_partitions_replace_their_revocation() {
        let start = Instant::now();
        let mut drains = Drains::default();
        drains.revoke(vec![Partition(1)], start + MS);
        drains.lose(vec![Partition(1)], start);
        let released = drains.take_drained(COMMIT_MAX, start, |_, _| true);
        assert_eq!(released, Some(vec![Partition(1)]));
        assert!(!drains.has_revocations());
    }

    #[test]
    fn shutdown_finishes_once_drained_or_late() {
        let start = Instant::now();
        for (is_drained, at) in [(true, start), (false, start + MS + COMMIT_MAX)] {
            let mut drains = Drains::default();
            drains.shut_down(start + MS);
            assert!(!drains.finish(COMMIT_MAX, start, false));
            assert!(drains.finish(COMMIT_MAX, at, is_drained));
            assert!(!drains.finish(COMMIT_MAX, at, is_drained));
        }
    }
}
