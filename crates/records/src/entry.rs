//! What the changelog and the store hold for an idempotency key.
//!
//! Small and of one length, since there is one for each order of the retention window: a version byte, a
//! status byte, the fingerprint, and two big-endian 64-bit integers.

use crate::{Fingerprint, Offset, Timestamp};

/// What is known of an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How far the order has come, as the validator knows it.
    pub status: Status,
    /// The fingerprint of the payload that was admitted.
    pub fingerprint: Fingerprint,
    /// When the order was admitted.
    pub admitted_at: Timestamp,
    /// The offset of the admitted order in the orders topic; its partition is the changelog record's own.
    pub source: Offset,
}

/// How far an order has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Written to the outbox, in the same transaction as this entry.
    Pending,
}

/// Bytes that are no entry of a version that this program knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    /// A later version of the program may have written it.
    #[error("the entry has version {0}; this program knows version {VERSION} only")]
    UnknownVersion(u8),
    /// Neither cut off nor garbled entries are trusted.
    #[error("the entry has {0} bytes or an unknown status; version {VERSION} has {BYTES} bytes", BYTES = Entry::BYTES)]
    Malformed(usize),
}

const VERSION: u8 = 1;
const STATUS_PENDING: u8 = 1;

impl Entry {
    /// The length of an encoded entry, in bytes.
    pub const BYTES: usize = 2 + Fingerprint::BYTES + 8 + 8;

    /// The entry as bytes.
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

    /// Reads an entry back.
    ///
    /// # Errors
    /// The bytes have another version, another length or an unknown status.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidEntry> {
        let malformed = || InvalidEntry::Malformed(bytes.len());
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&version) => return Err(InvalidEntry::UnknownVersion(version)),
            None => return Err(malformed()),
        }
        let bytes: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| malformed())?;
        let status = match bytes[1] {
            STATUS_PENDING => Status::Pending,
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

fn integer(bytes: &[u8]) -> i64 {
    bytes
        .iter()
        .fold(0, |value, byte| (value << 8) | i64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_back_as_it_was_written() {
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
