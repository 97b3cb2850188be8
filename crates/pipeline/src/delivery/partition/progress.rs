//! How far a partition has come: the commit_position, and which calls from there on are final.

use records::call_note::{self, CallNote, NoteTooLong};
use records::{Offset, OffsetSet};

/// The progress of one partition.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// Every call below is final.
    commit_position: Offset,
    /// The offset that the consumer hands out next, or a later one.
    next: Offset,
    /// The final ones from the commit_position on. Offsets that hold no call, because a transaction's marker or
    /// an aborted record lies there, count as final: so the runs stay long and the note short.
    finals: OffsetSet,
    /// The calls that the note of the last owner names as begun.
    begun_before: OffsetSet,
    /// The end of what the last owner's note tells.
    seen_before: Offset,
}

/// What a record is to its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// A call to be made.
    New {
        /// The last owner noted that it had begun, and may have made it.
        maybe_called: bool,
    },
    /// A call that is final already: the last owner noted it.
    Final,
    /// A record that has arrived before.
    Again,
}

impl Progress {
    /// The progress that the committed offset and its note tell.
    #[must_use]
    pub(crate) fn new(commit_position: Offset, note: CallNote) -> Self {
        let seen_before = note.finals.end().max(note.begun.end()).unwrap_or(commit_position);
        let mut progress = Self {
            commit_position,
            next: commit_position,
            finals: note.finals,
            begun_before: note.begun,
            seen_before,
        };
        progress.advance();
        progress
    }

    /// Takes note of a record from the consumer, which hands them out in their order.
    pub(crate) fn arrived(&mut self, offset: Offset) -> Arrival {
        if offset < self.next {
            return Arrival::Again;
        }
        // Below the commit_position there is nothing to keep.
        self.finals
            .insert_run(self.next.max(self.commit_position), offset);
        self.next = offset.next();
        let arrival = if offset < self.commit_position || self.finals.contains(offset) {
            Arrival::Final
        } else {
            Arrival::New {
                maybe_called: self.begun_before.contains(offset),
            }
        };
        self.advance();
        arrival
    }

    /// Takes note that a call is final.
    pub(crate) fn finish(&mut self, offset: Offset) {
        debug_assert!(offset < self.next, "a call that never arrived is final: {offset}");
        debug_assert!(offset >= self.commit_position, "a call ended twice: {offset}");
        self.finals.insert(offset);
        self.advance();
    }

    /// The offset that may be committed: every call below is final.
    #[must_use]
    pub(crate) const fn commit_position(&self) -> Offset {
        self.commit_position
    }

    /// How far the consumer is ahead of the commit_position, in offsets; 0 while it has yet to read what is final.
    #[must_use]
    pub(crate) fn span(&self) -> u64 {
        u64::try_from(self.next.0 - self.commit_position.0).unwrap_or_default()
    }

    /// Whether the note fits, however the calls end, if one more is taken.
    #[must_use]
    pub(crate) fn has_room(&self) -> bool {
        // What the last owner had open is in the note anyway, so taking it costs nothing.
        if self.next < self.seen_before {
            return true;
        }
        let span = self.next.0.abs_diff(self.commit_position.0);
        let open = span.saturating_sub(self.finals.count());
        call_note::fits_always(open + 1, span + 1)
    }

    /// The note to commit with the commit_position. `begun` are the calls of which nobody can know yet whether
    /// they were processed.
    ///
    /// # Errors
    /// It does not fit. [`has_room`](Self::has_room) lets no note grow so long.
    pub(crate) fn note(&self, mut begun: OffsetSet) -> Result<String, NoteTooLong> {
        // What the last owner noted holds until its record has arrived here.
        for (from, until) in self.begun_before.runs() {
            begun.insert_run(from.max(self.next).max(self.commit_position), until);
        }
        let note = CallNote {
            finals: self.finals.clone(),
            begun,
        };
        note.encode(self.commit_position)
    }

    fn advance(&mut self) {
        while let Some(end) = self.finals.take_run_at(self.commit_position) {
            self.commit_position = self.commit_position.max(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(list: &[i64]) -> OffsetSet {
        list.iter().copied().map(Offset).collect()
    }

    fn started_at(commit_position: i64, finals: &[i64]) -> Progress {
        let note = CallNote {
            finals: offsets(finals),
            begun: OffsetSet::new(),
        };
        Progress::new(Offset(commit_position), note)
    }

    const NEW: Arrival = Arrival::New { maybe_called: false };

    #[test]
    fn the_commit_position_never_passes_an_open_call() {
        let mut progress = started_at(10, &[]);
        for offset in 10..14 {
            assert_eq!(progress.arrived(Offset(offset)), NEW);
        }
        for (finished, commit_position) in [(11, 10), (13, 10), (10, 12), (12, 14)] {
            progress.finish(Offset(finished));
            assert_eq!(progress.commit_position(), Offset(commit_position));
        }
    }

    #[test]
    fn a_gap_that_a_marker_left_is_final_once_the_next_record_shows_it() {
        let mut progress = started_at(10, &[]);
        assert_eq!(progress.arrived(Offset(12)), NEW);
        assert_eq!(progress.commit_position(), Offset(12), "10 and 11 hold no call");
        assert_eq!(progress.arrived(Offset(15)), NEW);
        progress.finish(Offset(12));
        assert_eq!(progress.commit_position(), Offset(15), "13 and 14 hold no call");
        progress.finish(Offset(15));
        assert_eq!(
            progress.commit_position(),
            Offset(16),
            "what lies behind is not known yet"
        );
        assert_eq!(progress.note(OffsetSet::new()).as_deref(), Ok(""));
    }

    #[test]
    fn what_the_last_owner_noted_is_final() {
        let mut progress = started_at(10, &[11, 12, 14]);
        for (offset, expected) in [
            (10, NEW),
            (11, Arrival::Final),
            (12, Arrival::Final),
            (13, NEW),
            (14, Arrival::Final),
            (15, NEW),
        ] {
            assert_eq!(progress.arrived(Offset(offset)), expected, "{offset}");
        }
        assert_eq!(progress.arrived(Offset(15)), Arrival::Again);
        progress.finish(Offset(10));
        assert_eq!(progress.commit_position(), Offset(13));
        progress.finish(Offset(13));
        assert_eq!(progress.commit_position(), Offset(15));
    }

    #[test]
    fn the_commit_position_may_pass_what_was_not_read_again_yet() {
        let mut progress = started_at(10, &[11, 12, 13]);
        progress.arrived(Offset(10));
        progress.finish(Offset(10));
        assert_eq!(progress.commit_position(), Offset(14));
        assert_eq!(progress.arrived(Offset(11)), Arrival::Final);
        // 12 and 13 were a marker's gap.
        assert_eq!(progress.arrived(Offset(14)), NEW);
        assert_eq!(progress.commit_position(), Offset(14));
    }

    #[test]
    fn the_next_owner_reads_what_was_noted() {
        let mut progress = started_at(100, &[]);
        (100..110).for_each(|offset| assert_eq!(progress.arrived(Offset(offset)), NEW));
        [101, 103, 104]
            .into_iter()
            .for_each(|offset| progress.finish(Offset(offset)));
        let text = progress.note(offsets(&[100, 106])).expect("it fits");
        let note = CallNote::decode(progress.commit_position(), &text).expect("a note");
        assert_eq!(note.finals, offsets(&[101, 103, 104]));
        let mut next_owner = Progress::new(progress.commit_position(), note);
        let maybe = Arrival::New { maybe_called: true };
        assert_eq!(next_owner.arrived(Offset(100)), maybe);
        let again = next_owner.note(offsets(&[100])).expect("it fits");
        assert_eq!(
            again, text,
            "what was begun and has not arrived yet stays in the note"
        );
        let arrivals: Vec<_> = (101..108)
            .map(|offset| next_owner.arrived(Offset(offset)))
            .collect();
        assert_eq!(
            arrivals,
            [
                Arrival::Final,
                NEW,
                Arrival::Final,
                Arrival::Final,
                NEW,
                maybe,
                NEW
            ]
        );
    }

    #[test]
    fn intake_stops_before_a_note_could_grow_too_long() {
        let mut progress = started_at(0, &[]);
        let mut begun = OffsetSet::new();
        let mut offset = 0;
        while progress.has_room() {
            progress.arrived(Offset(offset));
            // The worst case: every second call ends, the first one never does, and all that are open have
            // begun.
            if offset % 2 == 1 {
                progress.finish(Offset(offset));
            } else {
                begun.insert(Offset(offset));
            }
            offset += 1;
        }
        assert!(offset > 12_000, "{offset}");
        assert!(progress.note(begun).is_ok_and(|note| !note.is_empty()));
        progress.finish(Offset(0));
        progress.finish(Offset(2));
        assert!(progress.has_room());
    }
}
