//! Progress of one partition: the commit position, and which calls from there on are final.

use records::call_note::{self, CallNote, NoteTooLong};
use records::{Offset, OffsetSet, TopicId};

/// Progress of one partition.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// Offset below which every call is final.
    commit_position: Offset,
    /// Offset that the consumer reads next, or a later one.
    next: Offset,
    /// Final offsets from the commit position on.
    finals: OffsetSet,
    /// Id of the outbox as it was when the notes were read. It goes into each note as long as the partition is
    /// owned: in a topic that is created again meanwhile these offsets mean nothing.
    outbox: Option<TopicId>,
    /// Recorded intents in the note of the last owner.
    inherited_intents: OffsetSet,
    /// End of the offsets that the note of the last owner covers.
    noted_until: Offset,
}

/// Meaning of a record that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// A call to be made.
    New {
        /// The last owner recorded the intent to send it, and may have done so.
        maybe_called: bool,
    },
    /// A call that the last owner noted as final.
    Final,
    /// A record that has arrived before.
    Repeated,
}

impl Progress {
    /// Restores the progress from the committed offset and its note.
    pub(crate) fn new(commit_position: Offset, note: CallNote) -> Self {
        let noted_until = note.finals.end().max(note.intents.end());
        let mut progress = Self {
            commit_position,
            next: commit_position,
            finals: note.finals,
            outbox: note.outbox,
            inherited_intents: note.intents,
            noted_until: noted_until.unwrap_or(commit_position),
        };
        progress.advance();
        progress
    }

    /// Takes in a record. They arrive in the order of their offsets.
    pub(crate) fn arrived(&mut self, offset: Offset) -> Arrival {
        // A record that is read again has its call already, or is final.
        if offset < self.next {
            return Arrival::Repeated;
        }
        self.pass_gap(offset);
        self.next = offset.next();
        let arrival = if offset < self.commit_position || self.finals.contains(offset) {
            Arrival::Final
        } else {
            Arrival::New {
                maybe_called: self.inherited_intents.contains(offset),
            }
        };
        self.advance();
        arrival
    }

    /// Takes in that no record below `next` is still to come.
    pub(crate) fn reached_end(&mut self, next: Offset) {
        if next > self.next {
            self.pass_gap(next);
            self.next = next;
            self.advance();
        }
    }

    /// Counts the offsets between the last record and the next one as final.
    fn pass_gap(&mut self, end: Offset) {
        // A gap holds no call: a transaction marker or an aborted record lies there. As final offsets gaps
        // join the runs beside them, which keeps the note short. Below the commit position nothing is kept.
        self.finals.insert_run(self.next.max(self.commit_position), end);
    }

    /// Records that a call is final.
    pub(crate) fn finish(&mut self, offset: Offset) {
        debug_assert!(offset < self.next, "a call that never arrived is final: {offset}");
        debug_assert!(offset >= self.commit_position, "a call ended twice: {offset}");
        self.finals.insert(offset);
        self.advance();
    }

    /// Offset that may be committed: every call below is final.
    pub(crate) const fn commit_position(&self) -> Offset {
        self.commit_position
    }

    /// Number of offsets that the consumer is ahead of the commit position.
    pub(crate) fn span(&self) -> u64 {
        // Negative while the consumer has yet to read what is already final.
        u64::try_from(self.next.0 - self.commit_position.0).unwrap_or_default()
    }

    /// Returns `true` if the note fits, however the calls end, after one more is taken in.
    pub(crate) fn has_room(&self) -> bool {
        // Open calls of the last owner are in the note already, so taking them in costs nothing.
        if self.next < self.noted_until {
            return true;
        }
        let span = self.next.0.abs_diff(self.commit_position.0);
        let open = span.saturating_sub(self.finals.count());
        call_note::fits_always(open + 1, span + 1)
    }

    /// Returns the note to commit with the commit position. `intents` are the calls whose outcome is unknown.
    ///
    /// # Errors
    /// The note is too long. [`has_room`](Self::has_room) prevents that.
    pub(crate) fn note(&self, mut intents: OffsetSet) -> Result<String, NoteTooLong> {
        // Intents of the last owner stay in the note until their records arrive here: a crash before that
        // must not forget them.
        for (from, until) in self.inherited_intents.runs() {
            intents.insert_run(from.max(self.next).max(self.commit_position), until);
        }
        let mut note = CallNote {
            outbox: self.outbox.clone(),
            finals: self.finals.clone(),
            intents,
        };
        note.encode(self.commit_position).or_else(|_| {
            // Only while a note is as long as a caller of an earlier version, which wrote no id, could make it.
            note.outbox = None;
            note.encode(self.commit_position)
        })
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
            ..CallNote::default()
        };
        Progress::new(Offset(commit_position), note)
    }

    const NEW: Arrival = Arrival::New { maybe_called: false };

    #[test]
    fn commit_position_never_passes_an_open_call() {
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
    fn gap_is_final_once_the_next_record_arrives() {
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
            "the gap behind is not known yet"
        );
        assert_eq!(progress.note(OffsetSet::new()).as_deref(), Ok(""));
    }

    #[test]
    fn gap_at_the_end_is_final() {
        let mut progress = started_at(10, &[]);
        assert_eq!(progress.arrived(Offset(10)), NEW);
        progress.reached_end(Offset(12));
        assert_eq!(progress.commit_position(), Offset(10), "the call is open");
        progress.finish(Offset(10));
        assert_eq!(progress.commit_position(), Offset(12));
        progress.reached_end(Offset(11));
        assert_eq!(progress.commit_position(), Offset(12), "an earlier end");
        assert_eq!(progress.arrived(Offset(12)), NEW);
        assert_eq!(progress.commit_position(), Offset(12));
        // Finals of the last owner that the consumer has yet to read.
        let mut progress = started_at(10, &[12, 13]);
        progress.reached_end(Offset(11));
        assert_eq!(progress.commit_position(), Offset(11));
        assert_eq!(progress.arrived(Offset(11)), NEW);
        progress.finish(Offset(11));
        assert_eq!(progress.commit_position(), Offset(14));
    }

    #[test]
    fn noted_finals_are_not_called_again() {
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
        assert_eq!(progress.arrived(Offset(15)), Arrival::Repeated);
        progress.finish(Offset(10));
        assert_eq!(progress.commit_position(), Offset(13));
        progress.finish(Offset(13));
        assert_eq!(progress.commit_position(), Offset(15));
    }

    #[test]
    fn commit_position_may_pass_unread_finals() {
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
    fn next_owner_restores_the_note() {
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
            "an intent whose record has not arrived stays in the note"
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
    fn note_without_room_for_the_id_is_kept() {
        // As long as a caller that wrote no id could make it.
        let inherited = CallNote {
            outbox: TopicId::new("qzWZZ0AiS2-KyFasPsl03Q"),
            finals: (0..12_264).filter(|offset| offset % 2 == 1).map(Offset).collect(),
            intents: (0..12_264).filter(|offset| offset % 2 == 0).map(Offset).collect(),
        };
        assert!(inherited.encode(Offset(0)).is_err());
        let mut progress = Progress::new(Offset(0), inherited);
        let text = progress.note(OffsetSet::new()).expect("a note");
        assert!(text.starts_with("1:"), "{text}");
        for offset in 0..500 {
            if progress.arrived(Offset(offset)) == (Arrival::New { maybe_called: true }) {
                progress.finish(Offset(offset));
            }
        }
        let text = progress.note(OffsetSet::new()).expect("a note");
        assert!(text.starts_with("2:qzWZZ0AiS2-KyFasPsl03Q:"), "{text}");
    }

    #[test]
    fn intake_stops_before_the_note_is_too_long() {
        let outbox = TopicId::new("qzWZZ0AiS2-KyFasPsl03Q");
        let with_id = CallNote {
            outbox,
            ..CallNote::default()
        };
        let mut progress = Progress::new(Offset(0), with_id);
        let mut intents = OffsetSet::new();
        let mut offset = 0;
        while progress.has_room() {
            progress.arrived(Offset(offset));
            // The worst case: every second call ends, the first one never does, and all open ones have their
            // intents recorded.
            if offset % 2 == 1 {
                progress.finish(Offset(offset));
            } else {
                intents.insert(Offset(offset));
            }
            offset += 1;
        }
        assert!(offset > 12_000, "{offset}");
        assert!(progress.note(intents).is_ok_and(|note| note.starts_with("2:")));
        progress.finish(Offset(0));
        progress.finish(Offset(2));
        assert!(progress.has_room());
    }
}
