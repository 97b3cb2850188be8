//! The headers of a dead letter, and the reasons for which an order becomes one.
//!
//! Its key and value are the input's bytes, unchanged; the input's headers stand before these.

use std::fmt;

/// The [`Reason`], in its short form.
pub const REASON: &str = "outbox-error-reason";
/// A sentence for a person.
pub const DETAIL: &str = "outbox-error-detail";
/// Where the input lies, as `topic/partition@offset`.
pub const SOURCE: &str = "outbox-error-source";
/// When it was refused, in milliseconds since 1970 UTC.
pub const AT: &str = "outbox-error-at";

/// Why an input record did not become a pending call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The value is missing (a tombstone), empty, or no JSON.
    NotJson,
    /// The value is JSON, but a field is missing or has the wrong form.
    NotAnOrder,
    /// The currency is not in ISO 4217.
    UnknownCurrency,
    /// There is no idempotency key where the settings say it is.
    KeyMissing,
    /// The idempotency key is empty, unprintable or too long.
    KeyInvalid,
    /// The record key differs from the idempotency key, so the order may lie where dedup does not see it.
    KeyMismatch,
    /// The producers' partitioner would have put the key on another partition.
    WrongPartition,
    /// The same idempotency key was admitted with another payload.
    Conflict,
    /// The record is too large to be written to the outbox.
    TooLarge,
    /// The name of a header is not UTF-8; it is left out of the dead letter.
    HeaderUnreadable,
}

impl Reason {
    /// All reasons, so that each has its metric from the start.
    pub const ALL: [Self; 10] = [
        Self::NotJson,
        Self::NotAnOrder,
        Self::UnknownCurrency,
        Self::KeyMissing,
        Self::KeyInvalid,
        Self::KeyMismatch,
        Self::WrongPartition,
        Self::Conflict,
        Self::TooLarge,
        Self::HeaderUnreadable,
    ];

    /// The reason as it stands in headers, metrics and logs.
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
            Self::TooLarge => "too-large",
            Self::HeaderUnreadable => "header-unreadable",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
