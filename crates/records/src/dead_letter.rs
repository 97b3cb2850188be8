//! Headers of `payment-orders.dead-letters`, and the reasons for which an input record becomes a dead letter.
//!
//! Written by the validator, in the transaction that commits the input offset; read by operators. Key and value
//! are the input's bytes, unchanged; the input's headers come first, then these. The headers are text without a
//! version.

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

/// Reason for which an input record is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The value is missing (a tombstone), empty, or not JSON.
    NotJson,
    /// The value is JSON, but a field is missing or has the wrong form.
    NotAnOrder,
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
    pub const ALL: [Self; 13] = [
        Self::NotJson,
        Self::NotAnOrder,
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
