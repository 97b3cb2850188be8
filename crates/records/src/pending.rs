//! Headers of the outbox, `pending-api-calls`.
//!
//! Written by the validator, in the transaction that commits the input offset; read by the caller. The key is
//! the idempotency key, the value the order's bytes, unchanged. The order's headers come first, then these.
//! The headers are text without a version. A deferred copy has one more; see
//! [`continuation`](crate::continuation).

use crate::position::InvalidPosition;
use crate::{Entry, Fingerprint, IdempotencyKey, Position, Timestamp, header};

/// Position of the order, as `topic/partition@offset`.
pub const SOURCE: &str = "outbox-source";
/// Time of the admission, in milliseconds since 1970 UTC.
pub const ADMITTED_AT: &str = "outbox-admitted-at";
/// W3C trace context. An order that has one keeps it.
pub const TRACEPARENT: &str = "traceparent";

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

/// Creates a trace context for an order without one.
// Derived from key and admission, since this crate has no source of randomness: their hash is as good as random.
// Not from the entry's fingerprint, which orders of equal fields have in common.
#[must_use]
pub fn traceparent(key: &IdempotencyKey, entry: &Entry) -> Traceparent {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    let mut admission = Vec::with_capacity(16 + key.as_bytes().len());
    admission.extend(entry.admitted_at.0.to_be_bytes());
    admission.extend(entry.source.0.to_be_bytes());
    admission.extend(key.as_bytes());
    hex(&mut text[3..35], &Fingerprint::of(&admission).0);
    // Offsets and times are small numbers. Rotated apart, their XOR differs between admissions.
    let parent = entry.admitted_at.0.rotate_left(20) ^ entry.source.0;
    // A parent id of zeros is invalid (W3C Trace Context, section 3.2).
    hex(
        &mut text[36..52],
        &if parent == 0 { 1 } else { parent }.to_be_bytes(),
    );
    Traceparent(text)
}

/// Header value of a trace context, version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent([u8; 55]);

impl Traceparent {
    /// Returns the header value.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn hex(to: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in to.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Status;
    use crate::fingerprint::SelectionId;
    use crate::{Fingerprint, Offset, Timestamp};

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
        // Without a fingerprint, a trace id made of it would be all zeros, which is invalid.
        let trace = |key: &str, source: i64| {
            let entry = Entry {
                status: Status::Pending,
                selection: SelectionId::None,
                fingerprint: Fingerprint([0; 16]),
                admitted_at: Timestamp(1),
                source: Offset(source),
            };
            let key = IdempotencyKey::new(key).expect("a key");
            String::from_utf8(traceparent(&key, &entry).as_bytes().to_vec()).expect("text")
        };
        let text = trace("o-1", 2);
        assert_eq!((&text[..3], &text[35..]), ("00-", "-0000000000100002-01"));
        assert_ne!(text[3..35], *"0".repeat(32));
        assert_eq!(trace("o-1", 2), text);
        assert_ne!(trace("o-2", 2)[3..35], text[3..35]);
        assert_ne!(trace("o-1", 3)[3..35], text[3..35]);
    }
}
