//! Backlog of a partition of the outbox: how many calls have no final state, and since when the oldest waits.
//!
//! The offsets between the commit position and the end are not that number: markers of transactions have offsets, too,
//! and calls beyond the commit position may be final. So the records are read and counted, up to a limit. Behind it, their
//! number is estimated from those that were read, so that the cost does not grow with the backlog.

use records::{Bounds, CallNote, Offset, Timestamp};

/// Backlog of a partition.
#[derive(Clone, Debug)]
pub struct Backlog {
    /// Commit position, and the end of the partition.
    bounds: Bounds,
    note: CallNote,
    /// Offset up to which the records are read.
    read_to: Offset,
    /// Records that were read.
    records: u64,
    /// Those of them that are pending.
    pending: u64,
    oldest: Option<Timestamp>,
}

impl Backlog {
    /// The backlog of a partition with this commit position and note, of which at most `offsets_max` offsets are read.
    #[must_use]
    pub fn new(bounds: Bounds, note: CallNote, offsets_max: u32) -> Self {
        let limit = Offset(bounds.start.0.saturating_add(i64::from(offsets_max)));
        Self {
            read_to: bounds.end.min(limit).max(bounds.start),
            bounds,
            note,
            records: 0,
            pending: 0,
            oldest: None,
        }
    }

    /// Returns the bounds of the records to read.
    #[must_use]
    pub fn to_read(&self) -> Bounds {
        Bounds {
            start: self.bounds.start,
            end: self.read_to,
        }
    }

    /// Takes in a record within [`Self::to_read`], and since when its call is pending.
    pub fn take(&mut self, offset: Offset, since: Option<Timestamp>) {
        self.records += 1;
        if self.note.finals.contains(offset) {
            return;
        }
        self.pending += 1;
        // Timestamps of one partition need not rise.
        self.oldest = self.oldest.into_iter().chain(since).min();
    }

    /// Returns the number of pending calls: exact unless there are more offsets than were read.
    #[must_use]
    pub fn pending(&self) -> u64 {
        let offsets = |from: Offset, until: Offset| u64::try_from(until.0 - from.0).unwrap_or_default();
        let (read, unread) = (
            offsets(self.bounds.start, self.read_to),
            offsets(self.read_to, self.bounds.end),
        );
        if unread == 0 {
            return self.pending;
        }
        // Without any record among those that were read each offset may be one: too many rather than too few.
        let records = match self.records {
            0 => u128::from(unread),
            records => u128::from(unread) * u128::from(records) / u128::from(read.max(1)),
        };
        let finals: u64 = self
            .note
            .finals
            .runs()
            .map(|(from, until)| offsets(from.max(self.read_to), until.min(self.bounds.end)))
            .sum();
        let unread = u64::try_from(records).unwrap_or(u64::MAX).saturating_sub(finals);
        self.pending.saturating_add(unread)
    }

    /// Returns since when the oldest pending call waits; `None` if none is pending.
    #[must_use]
    pub const fn oldest(&self) -> Option<Timestamp> {
        self.oldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(start: i64, end: i64, finals: &[i64], offsets_max: u32) -> Backlog {
        let bounds = Bounds {
            start: Offset(start),
            end: Offset(end),
        };
        let note = CallNote {
            finals: finals.iter().copied().map(Offset).collect(),
            ..CallNote::default()
        };
        Backlog::new(bounds, note, offsets_max)
    }

    fn read(backlog: &mut Backlog, is_record: impl Fn(i64) -> bool) {
        let Bounds { start, end } = backlog.to_read();
        (start.0..end.0)
            .filter(|offset| is_record(*offset))
            .for_each(|offset| backlog.take(Offset(offset), Some(Timestamp(1_000 - offset))));
    }

    #[test]
    fn markers_and_final_calls_are_not_pending() {
        let mut backlog = backlog(5, 12, &[6, 8], 100);
        // 7, 9 and 11 are markers of transactions.
        read(&mut backlog, |offset| [5, 6, 8, 10].contains(&offset));
        assert_eq!(backlog.pending(), 2);
        assert_eq!(backlog.oldest(), Some(Timestamp(990)));
    }

    #[test]
    fn nothing_is_pending_behind_the_last_call() {
        let backlog = backlog(7, 7, &[], 100);
        assert_eq!((backlog.pending(), backlog.oldest()), (0, None));
        // The commit position is beyond the end of a topic that was created again.
        let backlog = self::backlog(9, 7, &[], 100);
        assert_eq!((backlog.pending(), backlog.to_read().end), (0, Offset(9)));
    }

    #[test]
    fn rest_of_a_long_backlog_is_estimated() {
        // Each second offset is a marker, and 30 calls behind the part that is read are final.
        let finals: Vec<i64> = (0..3).chain((200..260).step_by(2)).collect();
        let mut backlog = backlog(0, 1_000, &finals, 100);
        assert_eq!(backlog.to_read().end, Offset(100));
        read(&mut backlog, |offset| offset % 2 == 0);
        assert_eq!(backlog.pending(), 48 + 450 - 30);
        assert_eq!(backlog.oldest(), Some(Timestamp(902)));
    }

    #[test]
    fn part_without_records_hides_none_behind_it() {
        let backlog = backlog(0, 300, &[], 100);
        assert_eq!(backlog.pending(), 200);
    }
}
