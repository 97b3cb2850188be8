//! The records that an input record becomes.

use kafka::transaction::Outgoing;
use pipeline::admission::Refusal;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use records::{Entry, IdempotencyKey, Partition, Timestamp, Topics, dead_letter, pending};

/// An admitted order's record in the outbox: the order's bytes and headers, unchanged, then ours.
pub(crate) fn pending<'a>(
    topics: &'a Topics,
    input: &'a BorrowedMessage<'_>,
    key: &'a IdempotencyKey,
    entry: &Entry,
) -> Outgoing<'a> {
    let source = source(input);
    let (copied, traced) = with_headers_of(input, 3);
    let mut headers = copied
        .insert(text(pending::SOURCE, &source))
        .insert(text(pending::ADMITTED_AT, &entry.admitted_at.to_string()));
    if !traced {
        headers = headers.insert(Header {
            key: pending::TRACEPARENT,
            value: Some(pending::traceparent(entry).as_bytes()),
        });
    }
    Outgoing {
        topic: &topics.pending,
        partition: Some(Partition(input.partition())),
        key: Some(key.as_bytes()),
        value: input.payload(),
        headers: Some(headers),
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
    refusal: &Refusal,
    now: Timestamp,
) -> Outgoing<'a> {
    let headers = with_headers_of(input, 4)
        .0
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

/// The last header of a name.
pub(crate) fn header<'a>(input: &'a BorrowedMessage<'_>, name: &str) -> Option<&'a [u8]> {
    let headers = input.headers()?;
    (0..headers.count())
        .rev()
        .map(|at| headers.get(at))
        .find(|header| header.key == name)?
        .value
}

/// Where the input lies, without the cost of a [`records::Position`] for each order.
fn source(input: &BorrowedMessage<'_>) -> String {
    format!("{}/{}@{}", input.topic(), input.partition(), input.offset())
}

/// The input's headers with room for more, and whether a trace context is among them. librdkafka parses the
/// headers anew each time it is asked for them, so it is asked once.
fn with_headers_of(input: &BorrowedMessage<'_>, more: usize) -> (OwnedHeaders, bool) {
    let Some(headers) = input.headers() else {
        return (OwnedHeaders::new_with_capacity(more), false);
    };
    let mut copy = OwnedHeaders::new_with_capacity(headers.count() + more);
    let mut traced = false;
    for header in headers.iter() {
        traced |= header.key == pending::TRACEPARENT;
        copy = copy.insert(header);
    }
    (copy, traced)
}

fn text<'a>(key: &'a str, value: &'a str) -> Header<'a, &'a str> {
    Header {
        key,
        value: Some(value),
    }
}
