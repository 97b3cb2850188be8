//! The headers of a record in the outbox, `pending-api-calls`.
//!
//! Its key is the idempotency key, its value the order's bytes, unchanged; the headers of the order stand
//! before these.

use crate::Timestamp;

/// Where the order came from, as `topic/partition@offset`.
pub const SOURCE: &str = "outbox-source";
/// When the order was admitted, in milliseconds since 1970 UTC.
pub const ADMITTED_AT: &str = "outbox-admitted-at";
/// The W3C trace context; the order's own one is kept.
pub const TRACEPARENT: &str = "traceparent";

/// A trace context for an order that came without one: a trace that begins here. It follows from where the
/// order lies and when it was admitted, so that each order has another one without a source of randomness.
#[must_use]
pub fn traceparent(source: &str, admitted_at: Timestamp) -> String {
    let hash = blake3::Hasher::new()
        .update(source.as_bytes())
        .update(&admitted_at.0.to_be_bytes())
        .finalize();
    let hex = hash.to_hex();
    // Version 00, 16 bytes of trace id, 8 bytes of parent id, sampled (W3C Trace Context, section 3.2).
    format!("00-{}-{}-01", &hex[..32], &hex[32..48])
}
