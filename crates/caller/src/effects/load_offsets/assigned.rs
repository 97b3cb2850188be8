//! Assigned partitions as readiness shows them: those that are not loaded yet, and those that are halted.

use std::collections::BTreeMap;

use records::Partition;

/// Partitions of this caller that are not being read, with the reasons.
#[derive(Default)]
pub(crate) struct AssignedPartitions {
    /// Set once the first assigned partitions are loaded, or none was assigned.
    is_assigned: bool,
    /// Partitions whose notes are being loaded, each with the error of its last attempt.
    loading: BTreeMap<Partition, Option<String>>,
    halted: BTreeMap<Partition, String>,
}

impl AssignedPartitions {
    /// Takes in an assignment, which may be empty.
    pub(crate) fn assign(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.halted.remove(partition);
            self.loading.insert(*partition, None);
        }
        self.is_assigned |= self.loading.is_empty();
    }

    /// Takes in that a partition could not be loaded, and is loaded again.
    pub(crate) fn not_loaded(&mut self, partition: Partition, error: String) {
        self.loading.insert(partition, Some(error));
    }

    /// Takes in that a partition is read.
    pub(crate) fn start(&mut self, partition: Partition) {
        self.loading.remove(&partition);
        // All of them: a partition of a new group starts only if it is empty when it is loaded, so orders are to be sent
        // once each was.
        self.is_assigned |= self.loading.is_empty();
    }

    /// Takes in that a partition is halted.
    pub(crate) fn halt(&mut self, partition: Partition, reason: String) {
        self.start(partition);
        self.halted.insert(partition, reason);
    }

    /// Forgets partitions that are no longer ours.
    pub(crate) fn release(&mut self, partitions: &[Partition]) {
        self.loading
            .retain(|partition, _| !partitions.contains(partition));
        self.halted.retain(|partition, _| !partitions.contains(partition));
    }

    /// Forgets all partitions: the membership is over.
    pub(crate) fn clear(&mut self) {
        self.loading.clear();
        self.halted.clear();
    }

    /// Returns the reason why a partition is not being read, if one is known.
    pub(crate) fn reason_of(&self, partition: Partition) -> Option<&str> {
        let error = self.loading.get(&partition).and_then(Option::as_deref);
        error.or_else(|| self.halted.get(&partition).map(String::as_str))
    }

    /// Returns the reasons why this caller is not ready; `None` if it is.
    pub(crate) fn unready(&self) -> Option<String> {
        let not_loaded = self.loading.values().flatten();
        let reasons: Vec<&str> = not_loaded
            .chain(self.halted.values())
            .map(String::as_str)
            .collect();
        match (reasons.is_empty(), self.is_assigned) {
            (false, _) => Some(reasons.join("; ")),
            (true, true) => None,
            (true, false) if self.loading.is_empty() => {
                Some("the group has not assigned partitions to this caller yet".into())
            }
            (true, false) => {
                Some("the committed offsets and the bounds of the assigned partitions are being read".into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Partition; 3] = [Partition(0), Partition(1), Partition(2)];

    /// Orders that are sent to a new group before its caller has seen that the outbox is empty would halt it.
    #[test]
    fn first_assignment_is_awaited_as_a_whole() {
        let mut assigned = AssignedPartitions::default();
        assert!(
            assigned
                .unready()
                .is_some_and(|reason| reason.contains("not assigned"))
        );
        assigned.assign(&ALL);
        assert!(
            assigned
                .unready()
                .is_some_and(|reason| reason.contains("being read"))
        );
        assigned.start(ALL[0]);
        assigned.start(ALL[1]);
        assert!(assigned.unready().is_some());
        // An assignment of nothing more changes nothing about those that are missing.
        assigned.assign(&[]);
        assert!(assigned.unready().is_some());
        assigned.start(ALL[2]);
        assert_eq!(assigned.unready(), None);
        // A rebalance moves partitions all the time.
        assigned.assign(&ALL);
        assert_eq!(assigned.unready(), None);

        let mut assigned = AssignedPartitions::default();
        assigned.assign(&[]);
        assert_eq!(assigned.unready(), None, "there are more callers than partitions");
    }

    #[test]
    fn reasons_name_failed_and_halted_partitions() {
        let mut assigned = AssignedPartitions::default();
        assigned.assign(&ALL);
        assigned.halt(ALL[0], "outbox/0 is halted".into());
        assigned.not_loaded(ALL[1], "outbox/1 has no leader".into());
        assert_eq!(
            assigned.unready().as_deref(),
            Some("outbox/1 has no leader; outbox/0 is halted")
        );
        let reasons = ALL.map(|partition| assigned.reason_of(partition));
        assert_eq!(
            reasons,
            [Some("outbox/0 is halted"), Some("outbox/1 has no leader"), None]
        );
        assigned.start(ALL[1]);
        assigned.start(ALL[2]);
        assert_eq!(assigned.unready().as_deref(), Some("outbox/0 is halted"));
        assigned.release(&ALL[..1]);
        assert_eq!(assigned.unready(), None);
        assigned.assign(&ALL);
        assigned.not_loaded(ALL[0], "outbox/0 has no leader".into());
        assigned.halt(ALL[1], "outbox/1 is halted".into());
        assigned.assign(&ALL[..2]);
        assert_eq!(assigned.unready(), None, "assigned again");
    }
}
