//! Partitions come: their notes are loaded, and say where they begin, or that a person must look.

use std::time::Instant;

use records::{CallNote, Offset, Partition};

use crate::delivery::event::{Action, Assignment, HaltReason, LoadedNotes};
use crate::delivery::machine::Delivery;
use crate::delivery::partition::Progress;
use crate::delivery::partition::{OwnedPartition, Phase};

impl<P> Delivery<P> {
    pub(super) fn assigned(&mut self, partitions: Vec<Partition>) {
        // Each generation of the group brings an assignment, often with nothing new.
        self.assignments += 1;
        let assignment = Assignment(self.assignments);
        for partition in &partitions {
            let before = self.held.insert(*partition, OwnedPartition::new(assignment));
            debug_assert!(before.is_none(), "partition {partition} is assigned twice");
            self.bytes_open -= before.map_or(0, |mut before| before.let_all_go());
        }
        self.actions.push(Action::Load {
            assignment,
            partitions,
        });
    }

    pub(super) fn notes_loaded(
        &mut self,
        assignment: Assignment,
        partition: Partition,
        loaded: LoadedNotes,
        now: Instant,
    ) {
        let Some(held) = self.held.get_mut(&partition) else {
            return;
        };
        if held.assignment != assignment || held.phase != Phase::Loading || self.stop.is_some() {
            return;
        }
        match begin_at(&loaded) {
            Ok((offset, note)) => {
                let is_first = loaded.committed.is_none();
                let is_final = |at: Offset| at < offset || note.finals.contains(at);
                self.requests.forget_finals(partition, is_final);
                let progress = Progress::new(offset, note);
                // The consumer begins at what is committed. Finals behind it are skipped one by one.
                // An earlier owner's commits that came after these notes were read are refused, so no proof
                // of its ownership lasts longer.
                let inherited_until = now + self.limits.ownership_lease;
                held.activate(progress, is_first, inherited_until);
                self.actions.push(Action::Start {
                    partition,
                    offset,
                    is_first,
                });
            }
            Err(why) => {
                held.phase = Phase::Refused;
                self.actions.push(Action::Halt { partition, why });
            }
        }
    }

    /// Whether the notes of a partition are still wanted.
    #[must_use]
    pub fn wants_notes(&self, assignment: Assignment, partition: Partition) -> bool {
        self.held
            .get(&partition)
            .is_some_and(|held| held.assignment == assignment && held.phase == Phase::Loading)
    }
}

/// Where a partition begins, and what is final behind.
fn begin_at(loaded: &LoadedNotes) -> Result<(Offset, CallNote), HaltReason> {
    let (log_start, log_end) = (loaded.log_start, loaded.log_end);
    match loaded.committed {
        // Nothing was ever deleted, so beginning at the beginning leaves nothing out.
        None if log_start == Offset(0) => Ok((log_start, CallNote::default())),
        None => Err(HaltReason::NoOffset { log_start }),
        Some(committed) if committed < log_start => Err(HaltReason::Deleted { committed, log_start }),
        Some(committed) if committed > log_end => Err(HaltReason::Ahead { committed, log_end }),
        Some(committed) => CallNote::decode(committed, &loaded.metadata)
            .map(|note| (committed, note))
            .map_err(|source| HaltReason::Note { committed, source }),
    }
}
