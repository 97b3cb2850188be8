//! Headers of `payment-orders.dead-letters`, and the reasons for which an input record becomes a dead letter.
//!
//! Written by the validator, in the transaction that commits the input offset; read by operators. Key and value
//! are the input's bytes, unchanged; the input's headers come first, then these. The headers are text without a
//! version. What the topic has no room for is missing, and [`OMITTED`] says so.

use std::fmt;

pub mod resubmission;

/// Name of the [`Reason`].
pub const REASON: &str = "outbox-error-reason";
/// Explanation for an operator.
pub const DETAIL: &str = "outbox-error-detail";
/// Position of the input record, as `topic/partition@offset`.
pub const SOURCE: &str = "outbox-error-source";
/// Time of the refusal, in milliseconds since 1970 UTC.
pub const AT: &str = "outbox-error-at";
/// Time of the input record, in milliseconds since 1970 UTC; missing if it has none. An order that is written back has it
/// again, so that it counts as as old as it is.
pub const RECORD_AT: &str = "outbox-error-record-at";

/// Parts of the input that the dead letter lacks, because its topic does not take a record of that size; missing if it
/// lacks none. The input is at [`SOURCE`], for as long as the orders topic keeps it.
// A producer that compresses sends a record that is larger than any topic accepts once it is read.
pub const OMITTED: &str = "outbox-error-omitted";

/// Parts of the input that a dead letter has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All.
    All,
    /// Key and headers.
    WithoutValue,
    /// None.
    Nothing,
}

impl Kept {
    /// Upper bound of the bytes that a dead letter has in addition to the input's and the explanation's: batch and record
    /// fields, and five headers.
    const ADDED_BYTES: usize = 1024;

    /// Returns what fits into a record of `bytes_max` bytes, of an input of `bytes` bytes of which `value_bytes` are its
    /// value, with an explanation of `detail_bytes`.
    #[must_use]
    pub const fn within(bytes_max: usize, bytes: usize, value_bytes: usize, detail_bytes: usize) -> Self {
        let room = bytes_max.saturating_sub(Self::ADDED_BYTES + detail_bytes);
        if bytes <= room {
            Self::All
        } else if bytes.saturating_sub(value_bytes) <= room {
            Self::WithoutValue
        } else {
            Self::Nothing
        }
    }

    /// Returns the value of [`OMITTED`]; `None` if nothing is.
    #[must_use]
    pub fn omitted(self, bytes: usize, value_bytes: usize) -> Option<String> {
        match self {
            Self::All => None,
            Self::WithoutValue => Some(format!("value ({value_bytes} bytes)")),
            Self::Nothing => Some(format!("key, value and headers ({bytes} bytes)")),
        }
    }
}

/// Reason for which an input record is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The value is missing (a tombstone), empty, or not JSON.
    NotJson,
    /// The value is JSON, but a field is missing or has the wrong form.
    NotAnOrder,
    /// The value names a schema that the registry does not have.
    UnknownSchema,
    /// The value names a schema by which nothing can be read.
    UnusableSchema,
    /// The currency is not in ISO 4217.
    UnknownCurrency,
    /// The configured source has no idempotency key.
    KeyMissing,
    /// The idempotency key is empty, unprintable or too long.
    KeyInvalid,
    /// The record key differs from the idempotency key, so the order may be on a partition whose dedup does not
    /// see it.
    KeyMismatch,
    /// The configured partitioner chooses another partition for the key.
    WrongPartition,
    /// The same idempotency key was admitted with another fingerprint.
    Conflict,
    /// The same idempotency key was admitted under another setting of the fingerprint, and the two orders are not
    /// known to be the same.
    FingerprintChanged,
    /// The record is too large to be written to the outbox.
    TooLarge,
    /// The name of a header is not UTF-8; the dead letter lacks this header.
    HeaderUnreadable,
    /// The record is older than the retention window, and its key is unknown: it may have been admitted and forgotten.
    TooOld,
    /// The record's time is in the future: it would move the retention window, and keys would be forgotten too early.
    FromTheFuture,
}

impl Reason {
    /// All reasons, each with a metric from the start.
    // A counter that appears with its first event hides that event from `increase()`, and so from alerts.
    pub const ALL: [Self; 15] = [
        Self::NotJson,
        Self::NotAnOrder,
        Self::UnknownSchema,
        Self::UnusableSchema,
        Self::UnknownCurrency,
        Self::KeyMissing,
        Self::KeyInvalid,
        Self::KeyMismatch,
        Self::WrongPartition,
        Self::Conflict,
        Self::FingerprintChanged,
        Self::TooLarge,
        Self::HeaderUnreadable,
        Self::TooOld,
        Self::FromTheFuture,
    ];

    /// Returns the name of the reason in headers, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotJson => "not-json",
            Self::NotAnOrder => "not-an-order",
            Self::UnknownSchema => "unknown-schema",
            Self::UnusableSchema => "unusable-schema",
            Self::UnknownCurrency => "unknown-currency",
            Self::KeyMissing => "key-missing",
            Self::KeyInvalid => "key-invalid",
            Self::KeyMismatch => "key-mismatch",
            Self::WrongPartition => "wrong-partition",
            Self::Conflict => "conflict",
            Self::FingerprintChanged => "fingerprint-changed",
            Self::TooLarge => "too-large",
            Self::HeaderUnreadable => "header-unreadable",
            Self::TooOld => "too-old",
            Self::FromTheFuture => "from-the-future",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letter_fits_its_topic() {
        let of = |bytes, value| Kept::within(2_000, bytes, value, 76);
        assert_eq!(of(900, 500), Kept::All);
        assert_eq!(of(901, 500), Kept::WithoutValue);
        assert_eq!(of(3_000_000, 2_999_100), Kept::WithoutValue);
        assert_eq!(of(3_000_000, 2_999_099), Kept::Nothing);
        assert_eq!(
            Kept::within(100, 0, 0, 0),
            Kept::All,
            "an empty record always has room"
        );
    }

    #[test]
    fn what_is_omitted_is_named() {
        assert_eq!(Kept::All.omitted(7, 5), None);
        let named = [Kept::WithoutValue, Kept::Nothing].map(|kept| kept.omitted(7, 5).expect("a text"));
        assert_eq!(named, ["value (5 bytes)", "key, value and headers (7 bytes)"]);
    }
}
