//! Entry of an idempotency key: the value on `idempotency-key-store-changelog` and in the store.
//!
//! Written and read by the validator; the record key is the idempotency key. There is one entry for each order
//! of the retention window, so it is small: a version byte, a status byte, the fingerprint, and two big-endian
//! 64-bit integers, 34 bytes in all.
//!
//! Version rule: an entry of another version, length or status is an error. Ignoring it would make its key
//! unknown, and the order would be paid twice.

use crate::{Fingerprint, Offset, Timestamp};

/// Entry of an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Status of the order in stage one.
    pub status: Status,
    /// Fingerprint of the admitted payload.
    pub fingerprint: Fingerprint,
    /// Time of the admission.
    pub admitted_at: Timestamp,
    /// Offset of the admitted order in the orders topic; its partition is that of the changelog record.
    pub source: Offset,
}

/// Status of an order in stage one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Written to the outbox, in the same transaction as this entry.
    Pending,
}

/// Bytes that are not an entry of the supported version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    /// A later version of the program may have written the bytes.
    #[error("the entry has version {0}; this program supports version {VERSION} only")]
    UnknownVersion(u8),
    /// The bytes are truncated or corrupt.
    #[error("the entry has {0} bytes or an unknown status; version {VERSION} has {BYTES} bytes", BYTES = Entry::BYTES)]
    Malformed(usize),
}

const VERSION: u8 = 1;
const STATUS_PENDING: u8 = 1;

impl Entry {
    /// Length of an encoded entry, in bytes.
    pub const BYTES: usize = 2 + Fingerprint::BYTES + 8 + 8;

    /// Returns the encoded entry.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = VERSION;
        bytes[1] = match self.status {
            Status::Pending => STATUS_PENDING,
        };
        bytes[2..18].copy_from_slice(&self.fingerprint.0);
        bytes[18..26].copy_from_slice(&self.admitted_at.0.to_be_bytes());
        bytes[26..34].copy_from_slice(&self.source.0.to_be_bytes());
        bytes
    }

    /// Decodes an entry.
    ///
    /// # Errors
    /// The bytes have another version, another length or an unknown status.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidEntry> {
        let malformed = || InvalidEntry::Malformed(bytes.len());
        // The version before the length: a later version may have another length, and the error should name it.
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&version) => return Err(InvalidEntry::UnknownVersion(version)),
            None => return Err(malformed()),
        }
        let bytes: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| malformed())?;
        let status = match bytes[1] {
            STATUS_PENDING => Status::Pending,
            // Corruption, or a status of another program. Neither may pass as pending.
            _ => return Err(malformed()),
        };
        let mut fingerprint = [0; Fingerprint::BYTES];
        fingerprint.copy_from_slice(&bytes[2..18]);
        Ok(Self {
            status,
            fingerprint: Fingerprint(fingerprint),
            admitted_at: Timestamp(integer(&bytes[18..26])),
            source: Offset(integer(&bytes[26..34])),
        })
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

    #[test]
    fn entry_round_trips_and_corruption_is_refused() {
        let entry = Entry {
            status: Status::Pending,
            fingerprint: Fingerprint::of(b"payload"),
            admitted_at: Timestamp(1_790_000_000_123),
            source: Offset(i64::MAX - 1),
        };
        let bytes = entry.encode();
        assert_eq!(Entry::decode(&bytes), Ok(entry));
        assert_eq!(Entry::decode(&bytes[..33]), Err(InvalidEntry::Malformed(33)));
        assert_eq!(Entry::decode(&[]), Err(InvalidEntry::Malformed(0)));
        assert_eq!(Entry::decode(&[2, 1]), Err(InvalidEntry::UnknownVersion(2)));
        let mut unknown_status = bytes;
        unknown_status[1] = 9;
        assert_eq!(Entry::decode(&unknown_status), Err(InvalidEntry::Malformed(34)));
    }
}
