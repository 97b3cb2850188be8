//! Comparison of a store with the last changelog records below its checkpoint.
//!
//! A changelog that has lost its end and has grown again beyond a checkpoint looks as if it had never lost
//! anything, and a store would miss what was written in between. The records below the checkpoint show it: the
//! store has the entry of each, or it was equal to another log.

use std::collections::BTreeMap;

use records::entry::InvalidEntry;
use records::{Entry, Offset};

/// Number of offsets below the checkpoint that are compared.
// Enough to hold a record among transaction markers. They come with the same fetch as the tail.
const COMPARED: i64 = 100;

/// Newest record of each key below the checkpoint.
#[derive(Debug)]
pub struct Overlap {
    checkpoint: Offset,
    records: BTreeMap<Vec<u8>, (Offset, Option<Entry>)>,
}

impl Overlap {
    /// Returns the offset to read from, for a store with this checkpoint and a log whose first key that is not
    /// forgotten is at `start` or behind it.
    #[must_use]
    pub fn start(checkpoint: Offset, start: Offset) -> Offset {
        // Behind the checkpoint, too: what lies between them is forgotten, and perhaps no longer in the log.
        Offset(checkpoint.0.saturating_sub(COMPARED)).max(start)
    }

    /// Creates the comparison of a store with this checkpoint.
    #[must_use]
    pub fn new(checkpoint: Offset) -> Self {
        Self {
            checkpoint,
            records: BTreeMap::new(),
        }
    }

    /// Takes a committed record. Returns `false` for one at the checkpoint or beyond it, which the store lacks.
    ///
    /// # Errors
    /// The value is not an entry of a known version.
    pub fn take(&mut self, key: &[u8], value: Option<&[u8]>, offset: Offset) -> Result<bool, InvalidEntry> {
        if offset >= self.checkpoint {
            return Ok(false);
        }
        let entry = value.map(Entry::decode).transpose()?;
        self.records.insert(key.to_vec(), (offset, entry));
        Ok(true)
    }

    /// Returns the first offset whose record the store does not have; `None` if it has all. `stored` returns the
    /// store's entry of a key.
    ///
    /// # Errors
    /// That of `stored`.
    pub fn compare<E>(
        &self,
        stored: impl Fn(&[u8]) -> Result<Option<Entry>, E>,
    ) -> Result<Option<Offset>, E> {
        let mut differs = None;
        for (key, (offset, entry)) in &self.records {
            if stored(key)? != *entry {
                differs = Some(differs.map_or(*offset, |other: Offset| other.min(*offset)));
            }
        }
        Ok(differs)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use records::entry::Status;
    use records::fingerprint::SelectionId;
    use records::{Fingerprint, Timestamp};

    use super::*;

    fn entry(source: i64) -> Entry {
        Entry {
            status: Status::Pending,
            selection: SelectionId::Order,
            fingerprint: Fingerprint::of(b"payload"),
            admitted_at: Timestamp(1),
            source: Offset(source),
        }
    }

    /// Compares records, each with its offset, with a store of the keys `a` and `b`.
    fn compared(records: &[(&str, Option<Entry>, i64)]) -> Option<i64> {
        let mut overlap = Overlap::new(Offset(20));
        for (key, entry, offset) in records {
            let value = entry.map(|entry| entry.encode());
            let value = value.as_ref().map(|bytes| &bytes[..]);
            overlap
                .take(key.as_bytes(), value, Offset(*offset))
                .expect("an entry");
        }
        let stored = |key: &[u8]| {
            Ok::<_, Infallible>(match key {
                b"a" => Some(entry(0)),
                b"b" => Some(entry(1)),
                _ => None,
            })
        };
        overlap
            .compare(stored)
            .expect("a comparison")
            .map(|offset| offset.0)
    }

    #[test]
    fn store_of_the_same_log_is_equal() {
        let removed = ("c", None, 8);
        assert_eq!(
            compared(&[("a", Some(entry(0)), 3), ("b", Some(entry(1)), 5), removed]),
            None
        );
        // The last record of a key counts.
        assert_eq!(compared(&[("b", None, 3), ("b", Some(entry(1)), 5)]), None);
        assert_eq!(compared(&[]), None);
    }

    #[test]
    fn store_of_another_log_differs() {
        let unknown = ("x", Some(entry(9)), 7);
        assert_eq!(
            compared(&[("a", Some(entry(0)), 3), ("y", Some(entry(8)), 9), unknown]),
            Some(7)
        );
        assert_eq!(
            compared(&[("a", Some(entry(4)), 3)]),
            Some(3),
            "another entry of the key"
        );
    }

    #[test]
    fn records_from_the_checkpoint_on_are_the_tail() {
        let mut overlap = Overlap::new(Offset(20));
        assert_eq!(overlap.take(b"x", None, Offset(20)), Ok(false));
        assert_eq!(
            overlap.take(b"x", Some(&[9]), Offset(19)),
            Err(InvalidEntry::UnknownVersion(9))
        );
        assert_eq!(Overlap::start(Offset(500), Offset(0)), Offset(400));
        assert_eq!(Overlap::start(Offset(500), Offset(450)), Offset(450));
        assert_eq!(Overlap::start(Offset(500), Offset(600)), Offset(600));
        assert_eq!(Overlap::start(Offset(30), Offset(0)), Offset(0));
        assert_eq!(Overlap::start(Offset(0), Offset(0)), Offset(0));
    }
}
