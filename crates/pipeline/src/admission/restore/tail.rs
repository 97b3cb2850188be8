//! The part of the changelog that a store lacks, on its way into the store.

use records::entry::InvalidEntry;
use records::{Entry, Offset};

/// Gathers the changes that are read into chunks, and tells with each which checkpoint the store may take
/// together with it.
#[derive(Debug)]
pub struct Tail {
    from: Offset,
    to: Offset,
    chunk_max: usize,
    changes: Vec<Change>,
}

/// A key's bytes, and its encoded entry; without one the key is removed.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// Changes to be written to the store in one transaction with the checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    /// In the order of the changelog.
    pub changes: Vec<Change>,
    /// With them, the store equals the changelog up to here.
    pub checkpoint: Offset,
}

impl Tail {
    /// What lies from an offset up to another one, in chunks of at most `chunk_max` changes.
    #[must_use]
    pub fn new(from: Offset, to: Offset, chunk_max: usize) -> Self {
        Self {
            from,
            to,
            chunk_max,
            changes: Vec::new(),
        }
    }

    /// Takes a committed change; hands out the chunk that it fills.
    ///
    /// # Errors
    /// The value is no entry that this program knows. A later version may have written it; without it the
    /// key would be unknown and its order paid twice.
    pub fn take(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        offset: Offset,
    ) -> Result<Option<Chunk>, InvalidEntry> {
        if let Some(value) = value {
            Entry::decode(value)?;
        }
        self.changes.push((key.to_vec(), value.map(<[u8]>::to_vec)));
        let is_full = self.changes.len() >= self.chunk_max;
        Ok(is_full.then(|| self.chunk(offset.next())))
    }

    /// Hands out the rest, once the reader's position has reached the end; nothing if there was nothing to
    /// read at all.
    #[must_use]
    pub fn end(mut self) -> Option<Chunk> {
        // Behind the last change lie transaction markers and what was aborted, which no restore need read again.
        (self.from < self.to).then(|| self.chunk(self.to))
    }

    fn chunk(&mut self, checkpoint: Offset) -> Chunk {
        Chunk {
            changes: std::mem::take(&mut self.changes),
            checkpoint,
        }
    }
}

#[cfg(test)]
mod tests {
    use records::entry::Status;
    use records::{Fingerprint, Timestamp};

    use super::*;

    fn value() -> [u8; Entry::BYTES] {
        let fingerprint = Fingerprint::of(b"payload");
        Entry {
            status: Status::Pending,
            fingerprint,
            admitted_at: Timestamp(1),
            source: Offset(0),
        }
        .encode()
    }

    fn keys(chunk: Option<Chunk>) -> Option<(Vec<Vec<u8>>, i64)> {
        chunk.map(|chunk| {
            let keys = chunk.changes.into_iter().map(|(key, _)| key).collect();
            (keys, chunk.checkpoint.0)
        })
    }

    #[test]
    fn a_checkpoint_is_behind_the_last_change_and_in_the_end_behind_the_markers() {
        let mut tail = Tail::new(Offset(3), Offset(20), 2);
        assert_eq!(tail.take(b"a", Some(&value()), Offset(5)), Ok(None));
        let full = tail.take(b"b", None, Offset(9)).expect("entries");
        assert_eq!(keys(full), Some((vec![b"a".to_vec(), b"b".to_vec()], 10)));
        assert_eq!(tail.take(b"c", Some(&value()), Offset(12)), Ok(None));
        assert_eq!(keys(tail.end()), Some((vec![b"c".to_vec()], 20)));
        assert_eq!(
            keys(Tail::new(Offset(3), Offset(9), 2).end()),
            Some((vec![], 9)),
            "aborted records alone"
        );
        assert_eq!(Tail::new(Offset(9), Offset(9), 2).end(), None);
    }

    #[test]
    fn an_entry_of_a_later_version_is_not_taken() {
        let mut tail = Tail::new(Offset(0), Offset(1), 2);
        assert_eq!(
            tail.take(b"a", Some(&[2, 1]), Offset(0)),
            Err(InvalidEntry::UnknownVersion(2))
        );
    }
}
