//! Headers of the outbox, `pending-api-calls`.
//!
//! Written by the validator, in the transaction that commits the input offset; read by the caller. The key is
//! the idempotency key, the value the order's bytes, unchanged. The order's headers come first, then these.
//! The headers are text without a version. A deferred copy has one more; see
//! [`continuation`](crate::continuation).

use std::borrow::Cow;

use crate::position::InvalidPosition;
use crate::trace_context::TraceContext;
use crate::{Fingerprint, Offset, Position, Timestamp, header};

/// Position of the order, as `topic/partition@offset`.
pub const SOURCE: &str = "outbox-source";
/// Time of the admission, in milliseconds since 1970 UTC.
pub const ADMITTED_AT: &str = "outbox-admitted-at";
/// W3C trace context. An order that has one keeps its trace: a validator that records its spans writes its own span here,
/// which continues the order's. Also an order without one has the header if a validator records its trace. For the
/// others each reader derives it ([`trace_context`]); earlier versions of the validator wrote it.
pub use crate::trace_context::TRACEPARENT;

/// Admission of an order, as the headers of its outbox record state it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Position of the order.
    pub source: Position,
    /// Time of the admission.
    pub at: Timestamp,
}

/// Headers that do not state an admission: no validator wrote them.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAdmission {
    /// A header is missing, has no value, or is not text.
    #[error("the header {0} is missing or not text")]
    Missing(&'static str),
    /// The source is not a position.
    #[error("the header {SOURCE}: {0}")]
    Source(#[from] InvalidPosition),
    /// The time of the admission is not a number.
    #[error("the header {ADMITTED_AT} has {0:?}, which is no number of milliseconds")]
    Time(String),
}

impl Admission {
    /// Reads the headers of an outbox record.
    ///
    /// # Errors
    /// A header is missing or malformed.
    pub fn read(headers: &[(&str, Option<&[u8]>)]) -> Result<Self, InvalidAdmission> {
        let text = |name| {
            let value = header::last(headers, name).flatten();
            let text = value.and_then(|bytes| std::str::from_utf8(bytes).ok());
            text.ok_or(InvalidAdmission::Missing(name))
        };
        let at = text(ADMITTED_AT)?;
        Ok(Self {
            source: text(SOURCE)?.parse()?,
            at: Timestamp(at.parse().map_err(|_| InvalidAdmission::Time(at.to_owned()))?),
        })
    }
}

/// Returns the trace context of an outbox record: its own, or the one that follows from its admission. `None` if it
/// has neither.
// Not written by the validator: it is a seventh of the record, and the same for every reader and every copy.
#[must_use]
pub fn trace_context<'a>(key: &[u8], headers: &[(&str, Option<&'a [u8]>)]) -> Option<Cow<'a, [u8]>> {
    if let Some(own) = header::last(headers, TRACEPARENT) {
        return own.map(Cow::Borrowed);
    }
    let admission = Admission::read(headers).ok()?;
    let derived = derived_context(key, admission.at, admission.source.offset);
    Some(Cow::Owned(derived.traceparent().to_vec()))
}

/// Returns the trace context of an order without one that was admitted at this time, from this offset.
// Derived from key and admission, since this crate has no source of randomness: their hash is as good as random.
// Not from the entry's fingerprint, which orders of equal fields have in common.
#[must_use]
pub fn derived_context(key: &[u8], Timestamp(at): Timestamp, Offset(source): Offset) -> TraceContext {
    let mut hashed = Vec::with_capacity(16 + key.len());
    hashed.extend(at.to_be_bytes());
    hashed.extend(source.to_be_bytes());
    hashed.extend(key);
    // Offsets and times are small numbers. Rotated apart, their XOR differs between admissions.
    let parent = at.rotate_left(20) ^ source;
    // A parent id of zeros is invalid (W3C Trace Context, section 3.2).
    let parent = if parent == 0 { 1 } else { parent };
    TraceContext::sampled(Fingerprint::of(&hashed).0, parent.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admission_is_read_from_the_headers() {
        let read = |source: Option<&str>, at: &str| {
            let headers = [
                // The order's own headers come first, and may have any name.
                (SOURCE, Some(&b"forged"[..])),
                (SOURCE, source.map(str::as_bytes)),
                (ADMITTED_AT, Some(at.as_bytes())),
            ];
            Admission::read(&headers)
        };
        let admission = read(Some("payment-orders/3@1042"), "1790000000123").expect("an admission");
        assert_eq!(admission.source.to_string(), "payment-orders/3@1042");
        assert_eq!(admission.at, Timestamp(1_790_000_000_123));
        assert!(matches!(read(None, "1"), Err(InvalidAdmission::Missing(SOURCE))));
        assert!(matches!(
            read(Some("orders"), "1"),
            Err(InvalidAdmission::Source(_))
        ));
        assert!(matches!(
            read(Some("o/0@1"), "now"),
            Err(InvalidAdmission::Time(_))
        ));
    }

    #[test]
    fn trace_context_is_derived_from_the_admission() {
        let trace = |key: &str, offset: i64| {
            let source = format!("o/0@{offset}");
            let headers = [(SOURCE, Some(source.as_bytes())), (ADMITTED_AT, Some(&b"1"[..]))];
            let derived = trace_context(key.as_bytes(), &headers).expect("an admission");
            String::from_utf8(derived.into_owned()).expect("text")
        };
        let text = trace("o-1", 2);
        assert_eq!((&text[..3], &text[35..]), ("00-", "-0000000000100002-01"));
        assert_ne!(text[3..35], *"0".repeat(32));
        assert_eq!(trace("o-1", 2), text);
        assert_ne!(trace("o-2", 2)[3..35], text[3..35]);
        assert_ne!(trace("o-1", 3)[3..35], text[3..35]);
    }

    /// Calls that were made before and are made again must have one trace: no later version derives another.
    #[test]
    fn derived_trace_context_never_changes() {
        let headers = [
            (SOURCE, Some(&b"payment-orders/3@1042"[..])),
            (ADMITTED_AT, Some(b"1790000000123")),
        ];
        assert_eq!(
            trace_context(b"order-1", &headers).as_deref(),
            Some(&b"00-78319aa8023aeb586f520bc6bcb64e36-1a0c4506c7b00412-01"[..])
        );
    }

    #[test]
    fn trace_context_of_the_record_comes_first() {
        let mut headers = vec![
            (SOURCE, Some(&b"o/0@2"[..])),
            (ADMITTED_AT, Some(b"1")),
            (TRACEPARENT, Some(b"own")),
        ];
        assert_eq!(trace_context(b"o-1", &headers).as_deref(), Some(&b"own"[..]));
        // Its producer's choice, though no trace.
        headers[2].1 = None;
        assert_eq!(trace_context(b"o-1", &headers), None);
        assert_eq!(trace_context(b"o-1", &headers[..1]), None, "no admission");
    }
}
