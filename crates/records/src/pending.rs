//! The headers of a record in the outbox, `pending-api-calls`.
//!
//! Its key is the idempotency key, its value the order's bytes, unchanged; the headers of the order stand
//! before these.

/// Where the order came from, as `topic/partition@offset`.
pub const SOURCE: &str = "outbox-source";
/// When the order was admitted, in milliseconds since 1970 UTC.
pub const ADMITTED_AT: &str = "outbox-admitted-at";
/// The W3C trace context; the order's own one is kept.
pub const TRACEPARENT: &str = "traceparent";
