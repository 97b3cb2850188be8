//! How far a standby store may follow its changelog.
//!
//! A standby store is kept warm for a partition of another validator. It is a cache like any other: its promotion is a
//! restore with a short tail, which checks all that a restore checks.

use records::{Bounds, Forgotten, Offset};

use super::overlap::Overlap;

/// Part of the changelog that a standby store lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyRange {
    /// Offset to read from. The records below the checkpoint are compared; see [`Overlap`].
    pub start: Offset,
    /// Checkpoint of the store.
    pub checkpoint: Offset,
    /// Last stable offset of the changelog, to read to.
    pub end: Offset,
}

impl StandbyRange {
    /// Returns the range for a store with this checkpoint, and a changelog with these bounds up to its last stable
    /// offset, of a partition that has forgotten these keys; `None` if the store is not behind it.
    // The last stable offset, which a restore must not stop at: nothing is admitted by a standby store, and a
    // transaction that is open must not hold up the thread.
    //
    // A changelog that begins behind the checkpoint and what is forgotten, or ends before it, has lost records. The store is left as it is,
    // as it may hold the last copy of their keys, and the partition's restore halts and says what to do.
    #[must_use]
    pub fn of(checkpoint: Option<Offset>, stable: Bounds, forgotten: Option<Forgotten>) -> Option<Self> {
        let checkpoint = checkpoint.unwrap_or(Offset(0));
        let below = forgotten.map_or(Offset(0), |forgotten| forgotten.below);
        (stable.start <= checkpoint.max(below) && checkpoint < stable.end).then(|| Self {
            start: Overlap::start(checkpoint, stable.start.max(below)),
            checkpoint,
            end: stable.end,
        })
    }

    /// Returns the number of offsets that a store with this checkpoint is behind.
    #[must_use]
    pub fn lag(checkpoint: Option<Offset>, stable: Bounds) -> u64 {
        let checkpoint = checkpoint.unwrap_or(Offset(0));
        // A negative number has no value here: the store is not behind.
        u64::try_from(stable.end.0 - checkpoint.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use records::Timestamp;

    use super::*;

    #[test]
    fn standby_reads_what_it_lacks_and_nothing_of_a_log_with_losses() {
        let stable = |start, end| Bounds {
            start: Offset(start),
            end: Offset(end),
        };
        let range = StandbyRange::of(Some(Offset(1_000)), stable(0, 1_500), None).expect("behind");
        let expected = StandbyRange {
            start: Offset(900),
            checkpoint: Offset(1_000),
            end: Offset(1_500),
        };
        assert_eq!(range, expected);
        assert_eq!(StandbyRange::lag(Some(Offset(1_000)), stable(0, 1_500)), 500);
        assert_eq!(StandbyRange::lag(Some(Offset(9)), stable(0, 7)), 0);
        let new = StandbyRange::of(None, stable(0, 7), None).expect("new");
        assert_eq!((new.start, new.checkpoint), (Offset(0), Offset(0)));
        assert_eq!(
            StandbyRange::of(Some(Offset(7)), stable(0, 7), None),
            None,
            "not behind"
        );
        assert_eq!(
            StandbyRange::of(Some(Offset(9)), stable(0, 7), None),
            None,
            "the log has lost its end"
        );
        assert_eq!(
            StandbyRange::of(Some(Offset(2)), stable(3, 7), None),
            None,
            "the log has lost its start"
        );
        assert_eq!(StandbyRange::of(None, stable(3, 7), None), None);
        let forgotten = |below| {
            Some(Forgotten {
                below: Offset(below),
                before: Timestamp(1),
            })
        };
        let range =
            StandbyRange::of(Some(Offset(2)), stable(3, 7), forgotten(3)).expect("forgotten on purpose");
        assert_eq!((range.start, range.checkpoint), (Offset(3), Offset(2)));
        assert_eq!(
            StandbyRange::of(Some(Offset(2)), stable(4, 7), forgotten(3)),
            None
        );
        // Not cut yet, and no longer in the store: not compared.
        let range = StandbyRange::of(Some(Offset(6)), stable(0, 7), forgotten(3)).expect("behind");
        assert_eq!(range.start, Offset(3));
    }
}
