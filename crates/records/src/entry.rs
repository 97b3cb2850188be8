//! Entry of an idempotency key: the value on `idempotency-key-store-changelog` and in the store.
//!
//! Written and read by the validator; the record key is the idempotency key. There is one entry for each order
//! of the retention window, so it is small: a version byte, a status byte, the fingerprint, and two big-endian
//! 64-bit integers, 34 bytes in all. That is version 1, whose fingerprint is that of the payload. Version 2 has
//! the selection that the fingerprint was computed over behind the status: a byte for its kind and 8 for its
//! list of pointers, 43 bytes in all.
//!
//! Version rule: an entry of another version, length, status or selection is an error. Ignoring it would make its
//! key unknown, and the order would be paid twice.

use std::ops::Deref;

use crate::fingerprint::SelectionId;
use crate::{Fingerprint, Offset, Timestamp};

/// Name of the header of a changelog record by which a key is recorded again: another record with the key came later,
/// or the key has another partition since the topics grew.
// Its entry is that of the order that was admitted, and so out of the order of the sources.
pub const SEEN_AGAIN: &str = "outbox-seen-again";

/// Entry of an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Status of the order in stage one.
    pub status: Status,
    /// Selection that the fingerprint was computed over.
    pub selection: SelectionId,
    /// Fingerprint of the admitted order.
    pub fingerprint: Fingerprint,
    /// Time of the admission.
    pub admitted_at: Timestamp,
    /// Offset of the admitted order in the orders topic; its partition is that of the changelog record.
    /// [`Entry::MOVED`] if the order was on another partition, before the topics grew.
    pub source: Offset,
}

/// Status of an order in stage one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Written to the outbox, in the same transaction as this entry.
    Pending,
}

/// Bytes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedEntry {
    bytes: [u8; Entry::BYTES_MAX],
    length: usize,
}

impl Deref for EncodedEntry {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Bytes that are not an entry of a supported version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    /// A later version of the program may have written the bytes.
    #[error(
        "the entry has version {0}; this program supports the versions {OF_PAYLOAD} and {OF_SELECTION} only"
    )]
    UnknownVersion(u8),
    /// The bytes are truncated or corrupt.
    #[error(
        "the entry has {0} bytes, or an unknown status or selection; version {OF_PAYLOAD} has {BYTES} bytes, \
         version {OF_SELECTION} has {BYTES_MAX}",
        BYTES = Entry::BYTES,
        BYTES_MAX = Entry::BYTES_MAX
    )]
    Malformed(usize),
}

/// Version of an entry whose fingerprint is that of the payload.
const OF_PAYLOAD: u8 = 1;
/// Version of an entry of any other selection.
const OF_SELECTION: u8 = 2;
const STATUS_PENDING: u8 = 1;
const SELECTION_ORDER: u8 = 1;
const SELECTION_POINTERS: u8 = 2;
const SELECTION_NONE: u8 = 3;
/// Length of the selection in version 2.
const SELECTION_BYTES: usize = 1 + SelectionId::LIST_BYTES;

impl Entry {
    /// Offset of an order that was on another partition. It is none of this one's, and before all of them.
    pub const MOVED: Offset = Offset(-1);
    /// Length of an encoded entry of version 1, in bytes.
    pub const BYTES: usize = 2 + Fingerprint::BYTES + 8 + 8;
    /// Length of an encoded entry of version 2, in bytes.
    pub const BYTES_MAX: usize = Self::BYTES + SELECTION_BYTES;

    /// Returns the encoded entry.
    #[must_use]
    pub fn encode(&self) -> EncodedEntry {
        let mut bytes = [0; Self::BYTES_MAX];
        let selection = encode_selection(self.selection);
        // Version 1 where it suffices: earlier versions of the program read it.
        bytes[0] = selection.map_or(OF_PAYLOAD, |_| OF_SELECTION);
        bytes[1] = match self.status {
            Status::Pending => STATUS_PENDING,
        };
        let at = match selection {
            None => 2,
            Some(selection) => {
                bytes[2..2 + SELECTION_BYTES].copy_from_slice(&selection);
                2 + SELECTION_BYTES
            }
        };
        bytes[at..at + 16].copy_from_slice(&self.fingerprint.0);
        bytes[at + 16..at + 24].copy_from_slice(&self.admitted_at.0.to_be_bytes());
        bytes[at + 24..at + 32].copy_from_slice(&self.source.0.to_be_bytes());
        EncodedEntry {
            bytes,
            length: at + 32,
        }
    }

    /// Decodes an entry.
    ///
    /// # Errors
    /// The bytes have another version, another length, or an unknown status or selection.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidEntry> {
        let malformed = || InvalidEntry::Malformed(bytes.len());
        // The version before the length: a later version may have another length, and the error should name it.
        let length = match bytes.first() {
            Some(&OF_PAYLOAD) => Self::BYTES,
            Some(&OF_SELECTION) => Self::BYTES_MAX,
            Some(&version) => return Err(InvalidEntry::UnknownVersion(version)),
            None => return Err(malformed()),
        };
        if bytes.len() != length {
            return Err(malformed());
        }
        let status = match bytes[1] {
            STATUS_PENDING => Status::Pending,
            // Corruption, or a status of another program. Neither may pass as pending.
            _ => return Err(malformed()),
        };
        // The rest is of one length in both versions.
        let (selection, rest) = bytes[2..].split_at(length - Self::BYTES);
        let selection = decode_selection(selection).ok_or_else(malformed)?;
        let mut fingerprint = [0; Fingerprint::BYTES];
        fingerprint.copy_from_slice(&rest[..16]);
        Ok(Self {
            status,
            selection,
            fingerprint: Fingerprint(fingerprint),
            admitted_at: Timestamp(integer(&rest[16..24])),
            source: Offset(integer(&rest[24..32])),
        })
    }
}

/// Returns the bytes of a selection in version 2; none for that of version 1.
fn encode_selection(selection: SelectionId) -> Option<[u8; SELECTION_BYTES]> {
    let (kind, list) = match selection {
        SelectionId::Payload => return None,
        SelectionId::Order => (SELECTION_ORDER, [0; SelectionId::LIST_BYTES]),
        SelectionId::Pointers(list) => (SELECTION_POINTERS, list),
        SelectionId::None => (SELECTION_NONE, [0; SelectionId::LIST_BYTES]),
    };
    let mut bytes = [0; SELECTION_BYTES];
    bytes[0] = kind;
    bytes[1..].copy_from_slice(&list);
    Some(bytes)
}

/// Returns the selection of these bytes; of none, that of version 1.
fn decode_selection(bytes: &[u8]) -> Option<SelectionId> {
    let Some((kind, list)) = bytes.split_first() else {
        return Some(SelectionId::Payload);
    };
    let list: [u8; SelectionId::LIST_BYTES] = list.try_into().ok()?;
    match (*kind, list) {
        (SELECTION_ORDER, [0, 0, 0, 0, 0, 0, 0, 0]) => Some(SelectionId::Order),
        (SELECTION_POINTERS, list) => Some(SelectionId::Pointers(list)),
        (SELECTION_NONE, [0, 0, 0, 0, 0, 0, 0, 0]) => Some(SelectionId::None),
        _ => None,
    }
}

// A fold instead of `from_be_bytes`: the slices have 8 bytes, and no conversion can fail.
fn integer(bytes: &[u8]) -> i64 {
    bytes
        .iter()
        .fold(0, |value, byte| (value << 8) | i64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(selection: SelectionId) -> Entry {
        Entry {
            status: Status::Pending,
            selection,
            fingerprint: Fingerprint([0xab; 16]),
            admitted_at: Timestamp(1_790_000_000_123),
            source: Offset(i64::MAX - 1),
        }
    }

    /// Changelogs and stores hold these bytes.
    #[test]
    fn encoding_never_changes() {
        let hex = |selection| {
            let bytes = entry(selection).encode();
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let rest = format!("{}000001a0c4506c7b7ffffffffffffffe", "ab".repeat(16));
        assert_eq!(hex(SelectionId::Payload), format!("0101{rest}"), "version 1");
        assert_eq!(hex(SelectionId::Order), format!("0201010000000000000000{rest}"));
        let list = SelectionId::Pointers([1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(hex(list), format!("0201020102030405060708{rest}"));
        assert_eq!(hex(SelectionId::None), format!("0201030000000000000000{rest}"));
    }

    #[test]
    fn entry_round_trips_and_corruption_is_refused() {
        for selection in [
            SelectionId::Payload,
            SelectionId::Order,
            SelectionId::Pointers([9; 8]),
            SelectionId::None,
        ] {
            let entry = entry(selection);
            let bytes = entry.encode();
            let length = bytes.len();
            assert_eq!(Entry::decode(&bytes), Ok(entry));
            assert_eq!(
                Entry::decode(&bytes[..length - 1]),
                Err(InvalidEntry::Malformed(length - 1))
            );
            let mut unknown_status = bytes.to_vec();
            unknown_status[1] = 9;
            assert_eq!(
                Entry::decode(&unknown_status),
                Err(InvalidEntry::Malformed(length))
            );
            let mut other_version = bytes.to_vec();
            other_version[0] ^= 3;
            assert_eq!(
                Entry::decode(&other_version),
                Err(InvalidEntry::Malformed(length))
            );
        }
        assert_eq!(Entry::decode(&[]), Err(InvalidEntry::Malformed(0)));
        assert_eq!(Entry::decode(&[3, 1]), Err(InvalidEntry::UnknownVersion(3)));
        for (kind, list) in [(0, 0), (4, 0), (1, 1), (3, 1)] {
            let mut bytes = entry(SelectionId::Order).encode().to_vec();
            (bytes[2], bytes[10]) = (kind, list);
            assert_eq!(Entry::decode(&bytes), Err(InvalidEntry::Malformed(43)), "{kind}");
        }
    }
}
