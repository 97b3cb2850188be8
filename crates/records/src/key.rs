//! The idempotency key: what makes two orders the same order.

use std::borrow::Borrow;
use std::fmt;

/// The longest idempotency key, in bytes. A key is held in memory, in the store and in three topics;
/// order ids are some tens of bytes, and what is longer than this is a mistake of its producer.
pub const KEY_BYTES_MAX: usize = 256;

/// A non-empty UTF-8 text of at most [`KEY_BYTES_MAX`] bytes without control characters.
///
/// Control characters are refused because the key is sent on in an HTTP header and printed in logs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Box<str>);

/// Why a text is no idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// The text is empty.
    #[error("the idempotency key is empty")]
    Empty,
    /// The text is longer than [`KEY_BYTES_MAX`].
    #[error("the idempotency key has {bytes} bytes; at most {KEY_BYTES_MAX} are allowed")]
    TooLong {
        /// The text's length, in bytes.
        bytes: usize,
    },
    /// The text is not UTF-8, or holds a control character.
    #[error("the idempotency key holds a control character or is not UTF-8")]
    Unprintable,
}

impl IdempotencyKey {
    /// Takes a text as a key.
    ///
    /// # Errors
    /// Says why the text is no key.
    pub fn new(text: &str) -> Result<Self, InvalidKey> {
        match text.len() {
            0 => Err(InvalidKey::Empty),
            1..=KEY_BYTES_MAX if text.chars().any(char::is_control) => Err(InvalidKey::Unprintable),
            1..=KEY_BYTES_MAX => Ok(Self(text.into())),
            bytes => Err(InvalidKey::TooLong { bytes }),
        }
    }

    /// Takes bytes as a key, as they come from a record's key or header.
    ///
    /// # Errors
    /// Says why the bytes are no key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidKey> {
        // The length comes first: what is megabytes long is not searched for its UTF-8.
        if bytes.len() > KEY_BYTES_MAX {
            return Err(InvalidKey::TooLong { bytes: bytes.len() });
        }
        std::str::from_utf8(bytes)
            .map_err(|_| InvalidKey::Unprintable)
            .and_then(Self::new)
    }

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key's bytes, as they stand in records and in the store.
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
    fn a_key_is_short_printable_text() {
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
