//! The headers of a record in the outbox, `pending-api-calls`.
//!
//! Its key is the idempotency key, its value the order's bytes, unchanged; the headers of the order stand
//! before these.

use crate::Entry;

/// Where the order came from, as `topic/partition@offset`.
pub const SOURCE: &str = "outbox-source";
/// When the order was admitted, in milliseconds since 1970 UTC.
pub const ADMITTED_AT: &str = "outbox-admitted-at";
/// The W3C trace context; the order's own one is kept.
pub const TRACEPARENT: &str = "traceparent";

/// A trace context for an order that came without one: a trace that begins here. It follows from what the
/// order is and where it lies, so that each order has another one without a source of randomness.
#[must_use]
pub fn traceparent(entry: &Entry) -> Traceparent {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    hex(&mut text[3..35], &entry.fingerprint.0);
    // Offsets and times are small, so that their XOR, turned apart, tells admissions of one payload apart.
    let parent = entry.admitted_at.0.rotate_left(20) ^ entry.source.0;
    // All zeros is no parent id (W3C Trace Context, section 3.2).
    hex(
        &mut text[36..52],
        &if parent == 0 { 1 } else { parent }.to_be_bytes(),
    );
    Traceparent(text)
}

/// The header of a trace context, version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent([u8; 55]);

impl Traceparent {
    /// As it stands in the header.
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
    use crate::{Fingerprint, Offset, Timestamp};

    #[test]
    fn a_trace_begins_with_the_order() {
        let entry = Entry {
            status: Status::Pending,
            fingerprint: Fingerprint([0xab; 16]),
            admitted_at: Timestamp(1),
            source: Offset(2),
        };
        let text = traceparent(&entry);
        let expected = format!("00-{}-0000000000100002-01", "ab".repeat(16));
        assert_eq!(std::str::from_utf8(text.as_bytes()), Ok(expected.as_str()));
    }
}
