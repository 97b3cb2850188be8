//! The records that an input record becomes.

use kafka::transaction::Outgoing;
use pipeline::admission::Refusal;
use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders};
use records::{Entry, IdempotencyKey, Partition, Timestamp, Topics, dead_letter, pending};

/// The headers of an input record.
pub(crate) type InputHeaders<'a> = [(&'a str, Option<&'a [u8]>)];

/// An admitted order's record in the outbox: the order's bytes and headers, unchanged, then ours.
pub(crate) fn pending<'a>(
    topics: &'a Topics,
    input: &'a BorrowedMessage<'_>,
    headers: &InputHeaders<'_>,
    key: &'a IdempotencyKey,
    entry: &Entry,
) -> Outgoing<'a> {
    let mut copied = copy(headers, 3)
        .insert(text(pending::SOURCE, &source(input)))
        .insert(text(pending::ADMITTED_AT, &entry.admitted_at.to_string()));
    if headers.iter().all(|(name, _)| *name != pending::TRACEPARENT) {
        copied = copied.insert(Header {
            key: pending::TRACEPARENT,
            value: Some(pending::traceparent(entry).as_bytes()),
        });
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
    let headers = copy(headers, 4)
        .insert(text(dead_letter::REASON, refusal.reason.as_str()))
        .insert(text(dead_letter::DETAIL, &refusal.detail))
        .insert(text(dead_letter::SOURCE, &source(input)))
        .insert(text(dead_letter::AT, &now.to_string()));
    Outgoing {
        topic: &topics.order_dead_letters,
        partition: None,
        key: input.key(),
        value: input.payload(),
        headers: Some(headers),
        tracked: false,
    }
}

/// Where the input lies, without the cost of a [`records::Position`] for each order.
fn source(input: &BorrowedMessage<'_>) -> String {
    format!("{}/{}@{}", input.topic(), input.partition(), input.offset())
}

fn copy(headers: &InputHeaders<'_>, more: usize) -> OwnedHeaders {
    headers.iter().fold(
        OwnedHeaders::new_with_capacity(headers.len() + more),
        |copy, (key, value)| copy.insert(Header { key, value: *value }),
    )
}

fn text<'a>(key: &'a str, value: &'a str) -> Header<'a, &'a str> {
    Header {
        key,
        value: Some(value),
    }
}
