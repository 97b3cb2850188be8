//! The idempotency key: two records with one key are the same order.
//!
//! Record key of the outbox, the changelog and the topics of stage two. Its source in an order is a setting.

use std::borrow::Borrow;
use std::fmt;

/// Maximum length of an idempotency key, in bytes.
// A key is held in memory, in the store and on three topics. Order ids have some tens of bytes, so a longer
// key is a mistake of its producer.
pub const KEY_BYTES_MAX: usize = 256;

/// Idempotency key: non-empty UTF-8 of at most [`KEY_BYTES_MAX`] bytes, without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Box<str>);

/// Text that is not an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// The text is empty.
    #[error("the idempotency key is empty")]
    Empty,
    /// The text is longer than [`KEY_BYTES_MAX`].
    #[error("the idempotency key has {bytes} bytes; at most {KEY_BYTES_MAX} are allowed")]
    TooLong {
        /// Length of the text, in bytes.
        bytes: usize,
    },
    /// The text is not UTF-8, or has a control character.
    #[error("the idempotency key has a control character or is not UTF-8")]
    Unprintable,
}

/// Hash of an idempotency key, by which the store knows it: the first 16 bytes of its BLAKE3 hash.
// Of a fixed size, so that rows are, and spread evenly whatever the keys look like. Two keys with one hash would take
// some 2^64 keys to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(u128);

impl KeyHash {
    /// Length of a hash, in bytes.
    pub const BYTES: usize = 16;

    /// Returns the hash of a key's bytes.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        let hash = blake3::hash(key);
        Self(integer(&hash.as_bytes()[..Self::BYTES]))
    }

    /// Returns the hash that these bytes are; `None` if they have another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == Self::BYTES).then(|| Self(integer(bytes)))
    }

    /// Returns the bytes of the hash, which are ordered as the hashes are.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::BYTES] {
        self.0.to_be_bytes()
    }

    /// Returns the first half, which decides the order but for one hash in 2^64.
    #[must_use]
    pub const fn first_half(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// Returns the second half, which does not depend on the order.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the other half is not wanted")]
    pub const fn second_half(self) -> u64 {
        self.0 as u64
    }
}

impl From<&IdempotencyKey> for KeyHash {
    fn from(key: &IdempotencyKey) -> Self {
        Self::of(key.as_bytes())
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Returns the integer of at most 16 big-endian bytes.
fn integer(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .fold(0, |value, byte| (value << 8) | u128::from(*byte))
}

impl IdempotencyKey {
    /// Creates a key from text.
    ///
    /// # Errors
    /// The text is empty, too long, or has a control character.
    pub fn new(text: &str) -> Result<Self, InvalidKey> {
        match text.len() {
            0 => Err(InvalidKey::Empty),
            // The key is sent in an HTTP header and printed in logs: CR and LF would allow injections.
            1..=KEY_BYTES_MAX if text.chars().any(char::is_control) => Err(InvalidKey::Unprintable),
            1..=KEY_BYTES_MAX => Ok(Self(text.into())),
            bytes => Err(InvalidKey::TooLong { bytes }),
        }
    }

    /// Creates a key from the bytes of a record key or a header.
    ///
    /// # Errors
    /// The bytes are not UTF-8, or not a key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidKey> {
        // The length first, so that megabytes are not validated as UTF-8.
        if bytes.len() > KEY_BYTES_MAX {
            return Err(InvalidKey::TooLong { bytes: bytes.len() });
        }
        std::str::from_utf8(bytes)
            .map_err(|_| InvalidKey::Unprintable)
            .and_then(Self::new)
    }

    /// Returns the key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the bytes of the key, as in records and in the store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Turns the key into its bytes, without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Box<[u8]> {
        self.0.into_boxed_bytes()
    }
}

impl Borrow<str> for IdempotencyKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_short_printable_text() {
        assert_eq!(IdempotencyKey::new("order-1").expect("a key").as_str(), "order-1");
        assert!(IdempotencyKey::new(&"k".repeat(KEY_BYTES_MAX)).is_ok());
        assert_eq!(IdempotencyKey::new(""), Err(InvalidKey::Empty));
        assert_eq!(
            IdempotencyKey::new(&"k".repeat(257)),
            Err(InvalidKey::TooLong { bytes: 257 })
        );
        assert_eq!(IdempotencyKey::new("a\r\nX: y"), Err(InvalidKey::Unprintable));
        assert_eq!(IdempotencyKey::from_bytes(b"\xff"), Err(InvalidKey::Unprintable));
    }
}
