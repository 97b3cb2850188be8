//! The tail of the changelog that a store lacks, in chunks for the store.

use records::entry::InvalidEntry;
use records::{Entry, Offset, Timestamp};

/// Collects changes of the changelog into chunks, each with the checkpoint that the store has after it.
#[derive(Debug)]
pub struct Tail {
    from: Offset,
    to: Offset,
    chunk_max: usize,
    changes: Vec<RestoredEntry>,
    recorded: Option<Timestamp>,
}

/// Key and encoded entry; `None` removes the key.
pub type RestoredEntry = (Vec<u8>, Option<Vec<u8>>);

/// Changes to write to the store, in one transaction with the checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Changes in changelog order.
    pub changes: Vec<RestoredEntry>,
    /// Changelog offset up to which the store equals the changelog after these changes.
    pub checkpoint: Offset,
    /// Recorded time of the newest of these changes; `None` if there is none, or none has a time.
    pub recorded: Option<Timestamp>,
}

impl Tail {
    /// Creates a collector for the changes from `from` up to `to`, in chunks of at most `chunk_max` changes.
    #[must_use]
    pub fn new(from: Offset, to: Offset, chunk_max: usize) -> Self {
        Self {
            from,
            to,
            chunk_max,
            changes: Vec::new(),
            recorded: None,
        }
    }

    /// Adds a committed change, recorded at the time `at`, and returns the chunk if it is full.
    ///
    /// # Errors
    /// The value is not an entry of a known version; a later version may have written it.
    pub fn take(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        offset: Offset,
        at: Option<Timestamp>,
    ) -> Result<Option<Chunk>, InvalidEntry> {
        // Skipping what cannot be read would make the key unknown, and its order would be paid twice.
        if let Some(value) = value {
            Entry::decode(value)?;
        }
        self.recorded = self.recorded.max(at);
        self.changes.push((key.to_vec(), value.map(<[u8]>::to_vec)));
        let is_full = self.changes.len() >= self.chunk_max;
        Ok(is_full.then(|| self.chunk(offset.next())))
    }

    /// Returns the last chunk, once the reader's position has reached the end; `None` if there was nothing to
    /// read.
    #[must_use]
    pub fn end(mut self) -> Option<Chunk> {
        // Up to the end, not only past the last change: transaction markers and aborted records follow it, and
        // the next restore need not read them again.
        (self.from < self.to).then(|| self.chunk(self.to))
    }

    fn chunk(&mut self, checkpoint: Offset) -> Chunk {
        Chunk {
            changes: std::mem::take(&mut self.changes),
            checkpoint,
            recorded: self.recorded.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use records::entry::{EncodedEntry, Status};
    use records::fingerprint::SelectionId;
    use records::{Fingerprint, Timestamp};

    use super::*;

    fn value() -> EncodedEntry {
        let fingerprint = Fingerprint::of(b"payload");
        Entry {
            status: Status::Pending,
            selection: SelectionId::Order,
            fingerprint,
            admitted_at: Timestamp(1),
            source: Offset(0),
        }
        .encode()
    }

    fn keys(chunk: Option<Chunk>) -> Option<(Vec<Vec<u8>>, i64, Option<i64>)> {
        chunk.map(|chunk| {
            let keys = chunk.changes.into_iter().map(|(key, _)| key).collect();
            (keys, chunk.checkpoint.0, chunk.recorded.map(|at| at.0))
        })
    }

    fn at(ms: i64) -> Option<Timestamp> {
        Some(Timestamp(ms))
    }

    #[test]
    fn last_checkpoint_includes_transaction_markers() {
        let mut tail = Tail::new(Offset(3), Offset(20), 2);
        assert_eq!(tail.take(b"a", Some(&value()), Offset(5), at(70)), Ok(None));
        let full = tail.take(b"b", None, Offset(9), at(60)).expect("entries");
        assert_eq!(
            keys(full),
            Some((vec![b"a".to_vec(), b"b".to_vec()], 10, Some(70)))
        );
        assert_eq!(tail.take(b"c", Some(&value()), Offset(12), at(80)), Ok(None));
        assert_eq!(keys(tail.end()), Some((vec![b"c".to_vec()], 20, Some(80))));
        assert_eq!(
            keys(Tail::new(Offset(3), Offset(9), 2).end()),
            Some((vec![], 9, None)),
            "only aborted records"
        );
        assert_eq!(Tail::new(Offset(9), Offset(9), 2).end(), None);
    }

    #[test]
    fn entry_of_a_later_version_is_refused() {
        let mut tail = Tail::new(Offset(0), Offset(1), 2);
        assert_eq!(
            tail.take(b"a", Some(&[3, 1]), Offset(0), None),
            Err(InvalidEntry::UnknownVersion(3))
        );
    }
}
