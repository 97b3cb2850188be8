//! Records that an input record becomes: a pending call with its changelog entry, or a dead letter.

use std::fmt::Write as _;

use kafka::{OutgoingHeaders, OutgoingRecord, Record};
use pipeline::admission::{Refusal, SeenAgain};
use records::dead_letter::Kept;
use records::entry::SEEN_AGAIN;
use records::{
    Entry, IdempotencyKey, Partition, Timestamp, Topics, continuation, dead_letter, header, pending,
};
use service::failpoint::guard_removed;

/// Headers of an input record, by name.
pub(crate) type InputHeaders<'a> = [(&'a str, Option<&'a [u8]>)];

/// Returns an admitted order's record in the outbox: the order's bytes and headers unchanged, followed by
/// ours. `traceparent`, if there is one, takes the place of the order's.
pub(super) fn pending_call<'a>(
    topics: &'a Topics,
    input: &'a Record<'_>,
    (headers, traceparent): (&InputHeaders<'_>, Option<&[u8; 55]>),
    key: &'a IdempotencyKey,
    entry: &Entry,
) -> OutgoingRecord<'a> {
    let mut copied = OutgoingHeaders::with_capacity(headers.len() + 3);
    for (name, value) in headers {
        // Replaced, since readers of other records look for the first one.
        if traceparent.is_some() && *name == pending::TRACEPARENT {
            continue;
        }
        // An order that carries this header would be treated as the continuation of another call, with its
        // attempts.
        if *name != continuation::CONTINUES {
            copied.add(name, *value);
        }
    }
    if let Some(traceparent) = traceparent {
        copied.add(pending::TRACEPARENT, Some(traceparent));
    }
    let mut text = source(topics, input);
    copied.add(pending::SOURCE, Some(text.as_bytes()));
    // One buffer for both values: this runs once per order.
    text.clear();
    write(&mut text, entry.admitted_at);
    copied.add(pending::ADMITTED_AT, Some(text.as_bytes()));
    OutgoingRecord {
        topic: &topics.pending,
        partition: Some(input.partition()),
        key: Some(key.as_bytes()),
        value: input.value(),
        headers: Some(copied),
        // librdkafka would read the clock for each record.
        at: Some(entry.admitted_at),
    }
}

/// Returns an admitted order's record in the changelog.
pub(super) fn change<'a>(
    topics: &'a Topics,
    partition: Partition,
    key: &'a IdempotencyKey,
    entry: &'a [u8],
    recorded: Timestamp,
) -> OutgoingRecord<'a> {
    OutgoingRecord {
        topic: &topics.changelog,
        partition: Some(partition),
        key: Some(key.as_bytes()),
        value: Some(entry),
        headers: None,
        // By which the key is forgotten one day, from the record times of orders and no clock.
        at: Some(recorded),
    }
}

/// Returns the changelog's record of a known key that is recorded again.
pub(super) fn seen_again<'a>(
    topics: &'a Topics,
    partition: Partition,
    again: &'a SeenAgain,
    entry: &'a [u8],
) -> OutgoingRecord<'a> {
    let mut headers = OutgoingHeaders::with_capacity(1);
    headers.add(SEEN_AGAIN, None);
    OutgoingRecord {
        headers: Some(headers),
        ..change(topics, partition, &again.key, entry, again.recorded)
    }
}

/// Returns a refused record's dead letter of at most `bytes_max` bytes: its bytes and headers unchanged, as far as they
/// fit, followed by the reason.
pub(super) fn dead_letter<'a>(
    topics: &'a Topics,
    input: &'a Record<'_>,
    headers: &InputHeaders<'_>,
    refusal: &Refusal,
    bytes_max: usize,
) -> OutgoingRecord<'a> {
    let bytes = header::record_bytes(input.key(), input.value(), headers);
    let value_bytes = input.value().map_or(0, <[u8]>::len);
    let kept = match guard_removed!("guard-dead-letter-size") {
        true => Kept::All,
        // One that its topic refuses would fail its transaction again and again.
        false => Kept::within(bytes_max, bytes, value_bytes, refusal.detail.len()),
    };
    let mut copied = OutgoingHeaders::with_capacity(headers.len() + 6);
    if kept != Kept::Nothing {
        for (name, value) in headers {
            copied.add(name, *value);
        }
    }
    if let Some(omitted) = kept.omitted(bytes, value_bytes) {
        copied.add(dead_letter::OMITTED, Some(omitted.as_bytes()));
    }
    copied.add(dead_letter::REASON, Some(refusal.reason.as_str().as_bytes()));
    copied.add(dead_letter::DETAIL, Some(refusal.detail.as_bytes()));
    copied.add(dead_letter::SOURCE, Some(source(topics, input).as_bytes()));
    copied.add(dead_letter::AT, Some(Timestamp::now().to_string().as_bytes()));
    if let Some(at) = input.timestamp() {
        copied.add(dead_letter::RECORD_AT, Some(at.to_string().as_bytes()));
    }
    OutgoingRecord {
        topic: &topics.order_dead_letters,
        partition: None,
        key: input.key().filter(|_| kept != Kept::Nothing),
        value: input.value().filter(|_| kept == Kept::All),
        headers: Some(copied),
        at: None,
    }
}

/// Returns the input's position as text.
fn source(topics: &Topics, input: &Record<'_>) -> String {
    // By hand rather than by `records::Position`, which would clone the topic's name for each order. The
    // capacity fits any partition and offset, so that the text never grows.
    let mut text = String::with_capacity(topics.orders.len() + 32);
    text.push_str(&topics.orders);
    text.push('/');
    write(&mut text, input.partition());
    text.push('@');
    write(&mut text, input.offset());
    text
}

fn write(text: &mut String, value: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _ = write!(text, "{value}");
}
