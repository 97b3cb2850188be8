//! The records that an input record becomes.

use std::fmt::Write as _;

use kafka::OutgoingHeaders;
use kafka::transaction::Outgoing;
use pipeline::admission::Refusal;
use rdkafka::message::{BorrowedMessage, Message};
use records::{Entry, IdempotencyKey, Partition, Timestamp, Topics, continuation, dead_letter, pending};

/// The headers of an input record.
pub(crate) type InputHeaders<'a> = [(&'a str, Option<&'a [u8]>)];

/// An admitted order's record in the outbox: the order's bytes and headers, unchanged, then ours. Left out is the
/// one header by which the outbox would take the order for the continuation of another call.
pub(crate) fn pending<'a>(
    topics: &'a Topics,
    input: &'a BorrowedMessage<'_>,
    headers: &InputHeaders<'_>,
    key: &'a IdempotencyKey,
    entry: &Entry,
) -> Outgoing<'a> {
    let mut copied = OutgoingHeaders::with_capacity(headers.len() + 3);
    for (name, value) in headers {
        if *name != continuation::CONTINUES {
            copied.add(name, *value);
        }
    }
    let mut text = source(topics, input);
    copied.add(pending::SOURCE, Some(text.as_bytes()));
    text.clear();
    write(&mut text, entry.admitted_at);
    copied.add(pending::ADMITTED_AT, Some(text.as_bytes()));
    if headers.iter().all(|(name, _)| *name != pending::TRACEPARENT) {
        copied.add(pending::TRACEPARENT, Some(pending::traceparent(entry).as_bytes()));
    }
    Outgoing {
        topic: &topics.pending,
        partition: Some(Partition(input.partition())),
        key: Some(key.as_bytes()),
        value: input.payload(),
        headers: Some(copied),
        tracked: false,
    }
}

/// An admitted order's record in the changelog.
pub(crate) fn change<'a>(
    topics: &'a Topics,
    partition: Partition,
    key: &'a IdempotencyKey,
    entry: &'a [u8],
) -> Outgoing<'a> {
    Outgoing {
        topic: &topics.changelog,
        partition: Some(partition),
        key: Some(key.as_bytes()),
        value: Some(entry),
        headers: None,
        tracked: true,
    }
}

/// A refused record's dead letter: its bytes and headers, unchanged, then the reason.
pub(crate) fn dead_letter<'a>(
    topics: &'a Topics,
    input: &'a BorrowedMessage<'_>,
    headers: &InputHeaders<'_>,
    refusal: &Refusal,
    now: Timestamp,
) -> Outgoing<'a> {
    let mut copied = copy(headers, 4);
    copied.add(dead_letter::REASON, Some(refusal.reason.as_str().as_bytes()));
    copied.add(dead_letter::DETAIL, Some(refusal.detail.as_bytes()));
    copied.add(dead_letter::SOURCE, Some(source(topics, input).as_bytes()));
    copied.add(dead_letter::AT, Some(now.to_string().as_bytes()));
    Outgoing {
        topic: &topics.order_dead_letters,
        partition: None,
        key: input.key(),
        value: input.payload(),
        headers: Some(copied),
        tracked: false,
    }
}

/// Where the input lies, without the cost of a [`records::Position`] for each order.
fn source(topics: &Topics, input: &BorrowedMessage<'_>) -> String {
    // Room for any partition and offset: the text is written without growing.
    let mut text = String::with_capacity(topics.orders.len() + 32);
    text.push_str(&topics.orders);
    text.push('/');
    write(&mut text, input.partition());
    text.push('@');
    write(&mut text, input.offset());
    text
}

fn write(text: &mut String, value: impl std::fmt::Display) {
    // A text takes whatever is written to it.
    let _ = write!(text, "{value}");
}

fn copy(headers: &InputHeaders<'_>, more: usize) -> OutgoingHeaders {
    let mut copy = OutgoingHeaders::with_capacity(headers.len() + more);
    for (name, value) in headers {
        copy.add(name, *value);
    }
    copy
}
