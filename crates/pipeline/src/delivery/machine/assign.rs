//! Assignment: reads the committed notes of a partition, and decides where it starts, or halts it.

use std::time::Instant;

use records::{Offset, Partition};

use super::Delivery;
use crate::delivery::event::{Action, Assignment};
use crate::delivery::loaded_notes::LoadedNotes;
use crate::delivery::partition::{Phase, Progress};

impl<P> Delivery<P> {
    pub(super) fn assigned(&mut self, partitions: Vec<Partition>) {
        let assignment = self.partitions.assign(&partitions);
        // Each generation of the group brings an assignment, often an empty one. The consumer must accept
        // that, too.
        self.actions.push(Action::Load {
            assignment,
            partitions,
        });
    }

    pub(super) fn notes_loaded(
        &mut self,
        assignment: Assignment,
        partition: Partition,
        loaded: &LoadedNotes,
        now: Instant,
    ) {
        // A shutdown drains what was active when it began, and starts nothing.
        if !self.wants_notes(assignment, partition) || self.drains.is_shutting_down() {
            return;
        }
        let Some(owned) = self.partitions.get_mut(partition) else {
            return;
        };
        match loaded.start_position() {
            Ok((offset, note)) => {
                let is_first = loaded.committed.is_none();
                let is_final = |at: Offset| at < offset || note.finals.contains(at);
                self.requests.forget_finals(partition, is_final);
                let progress = Progress::new(offset, note);
                // Commits that an earlier owner sends after these notes were read are fenced, so its lease
                // ends by then. Until then its requests may still be sent.
                let inherited_until = now + self.limits.ownership_lease;
                owned.activate(progress, is_first, inherited_until);
                self.actions.push(Action::Start {
                    partition,
                    offset,
                    leader_epoch: loaded.epoch_end.map(|checked| checked.epoch),
                    is_first,
                });
            }
            Err(why) => {
                owned.halt();
                self.actions.push(Action::Halt { partition, why });
            }
        }
    }

    /// Returns `true` while the notes of a partition are still to be loaded.
    #[must_use]
    pub fn wants_notes(&self, assignment: Assignment, partition: Partition) -> bool {
        let owned = self.partitions.get(partition);
        owned.is_some_and(|owned| owned.assignment() == assignment && owned.phase() == Phase::Loading)
    }
}
