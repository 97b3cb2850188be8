//! Assignment: reads the committed notes of a partition, and decides where it starts, or halts it.

use std::time::Instant;

use records::{CallNote, EpochEnd, Offset, Partition};

use super::Delivery;
use crate::delivery::event::{Action, Assignment, HaltReason, LoadedNotes};
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
        match start_position(loaded) {
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

/// Returns the offset to start at, and the note that goes with it.
fn start_position(loaded: &LoadedNotes) -> Result<(Offset, CallNote), HaltReason> {
    let (log_start, log_end) = (loaded.log_start, loaded.log_end);
    let decoded = loaded
        .committed
        .map(|committed| CallNote::decode(committed, &loaded.metadata));
    // Before anything else: in another topic offsets mean nothing. A note without an id, of an earlier version
    // or of an operator who has set the offset, is accepted; the next commit has the id.
    if let (Some(committed), Some(Ok(note))) = (loaded.committed, &decoded)
        && let (Some(was), Some(is)) = (&note.outbox, &loaded.outbox)
        && was != is
    {
        let (was, is) = (was.clone(), is.clone());
        return Err(HaltReason::Recreated { committed, was, is });
    }
    let (offset, mut note) = match loaded.committed.zip(decoded) {
        // No pending call was ever written, so none was made. The end is the last stable offset: a
        // transaction that is still open may have written calls, but nobody has read them.
        None if log_end == Offset(0) => (log_end, CallNote::default()),
        // The calls may have been made by a group whose offsets the brokers have deleted. Also if none of
        // them can be read any more: an end above 0 says that there were some.
        None => return Err(HaltReason::NoOffset { log_start, log_end }),
        Some((committed, _)) if committed < log_start => {
            return Err(HaltReason::Deleted { committed, log_start });
        }
        Some((committed, _)) if committed > log_end => {
            return Err(HaltReason::Ahead { committed, log_end });
        }
        Some((committed, decoded)) => {
            // Before the note, which is about the calls that were there before.
            if let Some(EpochEnd { epoch, end }) = loaded.epoch_end.filter(|same| same.end < committed) {
                return Err(HaltReason::Truncated {
                    committed,
                    epoch,
                    end,
                });
            }
            let note = decoded.map_err(|source| HaltReason::Note { committed, source })?;
            (committed, note)
        }
    };
    // An id that is known is not forgotten while the brokers do not report it.
    note.outbox = loaded.outbox.clone().or(note.outbox);
    Ok((offset, note))
}
