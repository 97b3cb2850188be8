//! Row of a run: the hash of a key with its entry, or with none if the key was removed. All rows have one length.

use records::entry::InvalidEntry;
use records::{Entry, KeyHash};

/// Length of a row, in bytes: the hash, the length of the entry, and the entry, filled up with zeroes.
pub(crate) const ROW_BYTES: usize = ENTRY + Entry::BYTES_MAX;

/// Offset of the entry's length in a row.
const LENGTH: usize = KeyHash::BYTES;
/// Offset of the entry in a row.
const ENTRY: usize = LENGTH + 1;

/// Encoded row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row([u8; ROW_BYTES]);

impl Row {
    /// Returns the row of a key; without an entry, the row that removes the key.
    pub(crate) fn new(key: KeyHash, entry: Option<&Entry>) -> Self {
        let mut bytes = [0; ROW_BYTES];
        bytes[..LENGTH].copy_from_slice(&key.to_bytes());
        if let Some(entry) = entry {
            let entry = entry.encode();
            // At most 43, the length of the longest version.
            bytes[LENGTH] = u8::try_from(entry.len()).unwrap_or(u8::MAX);
            bytes[ENTRY..ENTRY + entry.len()].copy_from_slice(&entry);
        }
        Self(bytes)
    }

    /// Returns the row of these bytes; `None` if they have another length.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn key(&self) -> KeyHash {
        key(&self.0)
    }

    /// Returns the encoded entry; `None` if the row removes its key.
    pub(crate) fn entry_bytes(&self) -> Option<&[u8]> {
        match usize::from(self.0[LENGTH]) {
            0 => None,
            // A length that does not fit is that of no version, so that decoding fails.
            length => Some(self.0[ENTRY..].get(..length).unwrap_or(&[])),
        }
    }

    /// Returns the entry; `None` if the row removes its key.
    ///
    /// # Errors
    /// The entry is of another version.
    pub(crate) fn entry(&self) -> Result<Option<Entry>, InvalidEntry> {
        self.entry_bytes().map(Entry::decode).transpose()
    }
}

/// Returns the key's hash of a row's bytes.
pub(crate) fn key(row: &[u8]) -> KeyHash {
    // Rows are cut to their length before, so there are 16 bytes.
    KeyHash::from_bytes(&row[..KeyHash::BYTES])
        .unwrap_or_else(|| unreachable!("the length is that of a hash"))
}
