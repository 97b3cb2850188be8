//! Records of calls, as every command reads them: what of a record the ledger takes in.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use iso_currency::Currency;
use kafka::Headers;
use kafka::group_offsets::{GroupOffsets, TopicRecord};
use kafka::offsets::Committed;
use pipeline::delivery::LoadedNotes;
use pipeline::ledger::{Ledger, Lineage, Rejection, Terminal};
use records::call_dead_letter::{self, REJECTED_BY_OPERATOR, Reason};
use records::call_note::CallNote;
use records::outcome::Outcome;
use records::{
    AmountForm, Bounds, Continuation, Offset, Order, Partition, Position, Timestamp, TopicId, continuation,
    dead_letter, pending,
};

use crate::brokers::REQUEST_TIMEOUT;

/// Reads what the callers' group has committed for partitions of the outbox; none for those without an offset.
///
/// # Errors
/// The coordinator did not respond, or a note cannot be read.
pub(crate) fn call_notes(
    offsets: &GroupOffsets,
    group: &str,
    outbox: &str,
    partitions: &[Partition],
) -> anyhow::Result<Vec<(Partition, Offset, CallNote)>> {
    let mut notes = Vec::with_capacity(partitions.len());
    for of in offsets.committed(outbox, partitions, REQUEST_TIMEOUT)? {
        let Some(offset) = of.offset else { continue };
        let note = CallNote::decode(offset, &of.metadata).with_context(|| {
            format!(
                "reading the call notes of the group {group:?} for {outbox}/{}",
                of.partition
            )
        })?;
        notes.push((of.partition, offset, note));
    }
    Ok(notes)
}

/// Returns what a caller would load for a partition of the outbox, which has this id now.
// Without the end of the leader epoch: that a log was truncated and has grown again, the status of its caller says.
pub(crate) fn loaded_notes(committed: Committed, bounds: Bounds, id_now: Option<&TopicId>) -> LoadedNotes {
    LoadedNotes {
        committed: committed.offset,
        metadata: committed.metadata,
        epoch_end: None,
        outbox: id_now.cloned(),
        log_start: bounds.start,
        log_end: bounds.end,
    }
}

/// Takes an outcome of the group, with the key of its record, into the ledger. Returns the other group that it is of, if it
/// is.
///
/// # Errors
/// It names no call, or another terminal record names the call with another key.
pub(crate) fn take_outcome(
    ledger: &mut Ledger,
    group: &str,
    outcome: &Outcome,
    key: &[u8],
) -> anyhow::Result<Option<String>> {
    if let Some(other) = other_group(outcome.group.as_deref(), group) {
        return Ok(Some(other.to_owned()));
    }
    // Any outcome of a call ends it, whichever of its records it names.
    for position in [Some(&outcome.call), outcome.continues.as_ref()]
        .into_iter()
        .flatten()
    {
        ledger.terminal(Terminal::Accepted, &position.parse()?, key)?;
    }
    Ok(None)
}

/// Takes the dead letter, or the parked record, of a call of the group into the ledger. Returns the other group that it
/// is of, if it is.
///
/// # Errors
/// Another terminal record names the call with another key.
pub(crate) fn take_terminal(
    ledger: &mut Ledger,
    group: &str,
    terminal: Terminal,
    call: &Position,
    record: &TopicRecord<'_>,
) -> anyhow::Result<Option<String>> {
    if let Some(other) = other_group(text(&record.headers, call_dead_letter::GROUP), group) {
        return Ok(Some(other.to_owned()));
    }
    ledger.terminal(terminal, call, record.key)?;
    // One that does not say counts as ambiguous.
    let ambiguous = || number::<u64>(&record.headers, call_dead_letter::ATTEMPTS_AMBIGUOUS);
    if terminal == Terminal::Parked && ambiguous() != Some(0) {
        ledger.parked_ambiguous(call);
    }
    Ok(None)
}

/// Returns the group that a record names, if it is another one. A record that names none is of any group.
pub(crate) fn other_group<'n>(named: Option<&'n str>, group: &str) -> Option<&'n str> {
    named.filter(|named| *named != group)
}

/// Returns whether an earlier request of a call with this dead letter, or parked record, may still be processed.
pub(crate) fn is_early(record: &TopicRecord<'_>, now: Timestamp, quiescence: Duration) -> bool {
    // Without a time it is never old enough, which errs on the safe side.
    let at = number(&record.headers, dead_letter::AT).unwrap_or(i64::MAX);
    let quiescence = i64::try_from(quiescence.as_millis()).unwrap_or(i64::MAX);
    now.0 < at.saturating_add(quiescence)
}

/// Returns what a record of the outbox continues or repeats, if it is a copy of an earlier one of its partition.
// As the ledger has it: callers of two partitions know nothing of each other. No caller calls a copy whose header it
// cannot read, and it ends no earlier record.
pub(crate) fn continuation_within(
    record: &TopicRecord<'_>,
    topic: &str,
    partition: Partition,
) -> Option<Continuation> {
    continuation_of(record).filter(|before| {
        let call = &before.call;
        call.topic == topic && call.partition == partition && call.offset < record.offset
    })
}

/// Returns what a record of the outbox says of the record before, if it is of an order that is read by its key; `None`
/// if it is a copy for another group, which the callers of this one skip.
pub(crate) fn lineage(
    record: &TopicRecord<'_>,
    topic: &str,
    partition: Partition,
    group: &str,
) -> Option<Lineage> {
    if record.headers.last(continuation::CONTINUES).is_none() {
        return Some(Lineage::Original);
    }
    // A header that cannot be read may be of a later version, and say anything.
    let Some(before) = continuation_of(record) else {
        return Some(Lineage::Foreign);
    };
    if before.group != group {
        return None;
    }
    Some(match continuation_within(record, topic, partition) {
        Some(before) if before.repeats => Lineage::Repeats(before.call.offset),
        Some(before) => Lineage::Continues(before.call.offset),
        None => Lineage::Foreign,
    })
}

/// Returns how a dead letter came about.
pub(crate) fn rejection(record: &TopicRecord<'_>) -> Rejection {
    let ambiguous = number::<u64>(&record.headers, call_dead_letter::ATTEMPTS_AMBIGUOUS);
    match text(&record.headers, dead_letter::REASON) {
        Some(REJECTED_BY_OPERATOR) => Rejection::Settled,
        Some(reason) if reason == Reason::NotAPendingCall.as_str() => Rejection::NotACall,
        Some(reason) if Reason::ALL.iter().any(|known| known.as_str() == reason) && ambiguous == Some(0) => {
            Rejection::Definite
        }
        // No request was sent, and no copy has one of its call before.
        Some(reason) if reason == Reason::NoRequest.as_str() && ambiguous.is_none() => Rejection::Definite,
        // One that does not say is not known to be unprocessed.
        Some(_) | None => Rejection::Ambiguous,
    }
}

/// Returns the currency and the amount in minor units of an order of the built-in form.
pub(crate) fn money(value: &[u8], form: AmountForm) -> Option<(Currency, u64)> {
    let (order, _) = Order::parse_unique(value, form, None).ok()?;
    Some((order.currency, order.amount.minor_units()))
}

/// Returns what a record of the outbox continues or repeats, if it is a copy.
pub(crate) fn continuation_of(record: &TopicRecord<'_>) -> Option<Continuation> {
    let value = record.headers.last(continuation::CONTINUES)??;
    Continuation::parse(value).ok()
}

/// Returns when a record's order was admitted: its first time on the outbox.
pub(crate) fn admitted_at(record: &TopicRecord<'_>) -> Option<Timestamp> {
    admitted_at_of_header(&record.headers).or(record.at)
}

/// Returns when the order of a dead letter or parked record was admitted; `None` if its headers do not say. The record's own
/// time is a later one.
pub(crate) fn admitted_at_of_header(headers: &Headers<'_>) -> Option<Timestamp> {
    number(headers, pending::ADMITTED_AT).map(Timestamp)
}

/// Returns the position that a header names.
pub(crate) fn position(headers: &Headers<'_>, name: &str) -> Option<Position> {
    text(headers, name)?.parse().ok()
}

/// Returns the number that a header has.
pub(crate) fn number<T: FromStr>(headers: &Headers<'_>, name: &str) -> Option<T> {
    text(headers, name)?.parse().ok()
}

/// Returns the last header of a name, if it is text: an order that carries one of that name cannot forge it.
pub(crate) fn text<'h>(headers: &Headers<'h>, name: &str) -> Option<&'h str> {
    std::str::from_utf8(headers.last(name)??).ok()
}

/// Returns a record with these headers.
#[cfg(test)]
pub(crate) fn record_with<'a>(headers: &[(&'a str, &'a [u8])], value: &'a [u8]) -> TopicRecord<'a> {
    TopicRecord {
        offset: Offset(3),
        at: Some(Timestamp(5)),
        key: b"k",
        value,
        headers: Headers {
            readable: headers
                .iter()
                .map(|(name, value)| (*name, Some(*value)))
                .collect(),
            unreadable: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record<'a>(headers: &[(&'a str, &'a str)]) -> TopicRecord<'a> {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        record_with(&headers, b"{}")
    }

    #[test]
    fn dead_letter_is_definite_only_if_it_says_so() {
        let of = |reason, ambiguous| {
            rejection(&record(&[
                (dead_letter::REASON, reason),
                (call_dead_letter::ATTEMPTS_AMBIGUOUS, ambiguous),
            ]))
        };
        assert_eq!(of("rejected", "0"), Rejection::Definite);
        assert_eq!(of("abandoned", "0"), Rejection::Definite);
        assert_eq!(of("rejected", "2"), Rejection::Ambiguous);
        assert_eq!(of("rejected", "?"), Rejection::Ambiguous);
        assert_eq!(of("of a later version", "0"), Rejection::Ambiguous);
        assert_eq!(of(REJECTED_BY_OPERATOR, "0"), Rejection::Settled);
        assert_eq!(of("not-a-pending-call", "0"), Rejection::NotACall);
        assert_eq!(
            rejection(&record(&[(dead_letter::REASON, "no-request")])),
            Rejection::Definite
        );
        // Its copy was replayed after a request with an unknown outcome.
        assert_eq!(of("no-request", "1"), Rejection::Ambiguous);
        assert_eq!(of("no-request", "0"), Rejection::Definite);
        assert_eq!(rejection(&record(&[])), Rejection::Ambiguous);
    }

    #[test]
    fn parked_record_makes_a_dead_letter_ambiguous() {
        let state = |ambiguous| {
            let mut ledger = Ledger::new("outbox");
            let call = "outbox/0@7".parse().expect("a position");
            let definite = Terminal::DeadLetter(Rejection::Definite);
            for terminal in [definite, Terminal::Parked] {
                let record = record(&[(call_dead_letter::ATTEMPTS_AMBIGUOUS, ambiguous)]);
                take_terminal(&mut ledger, "g", terminal, &call, &record).expect("the same key");
            }
            ledger
                .pending(Partition(0), Offset(7), b"k", None)
                .expect("the same key")
        };
        let dead_letter = |of| pipeline::ledger::RecordState::Final(Terminal::DeadLetter(of));
        assert_eq!(state("0"), dead_letter(Rejection::Definite));
        assert_eq!(state("10"), dead_letter(Rejection::Ambiguous));
        assert_eq!(state("?"), dead_letter(Rejection::Ambiguous));
    }

    #[test]
    fn dead_letter_without_a_time_is_never_old_enough() {
        let early = |at| {
            let headers = [(dead_letter::AT, at)];
            is_early(&record(&headers), Timestamp(2_000), Duration::from_secs(1))
        };
        assert_eq!([early("1000"), early("1001"), early("?")], [false, true, true]);
    }

    #[test]
    fn lineage_is_foreign_unless_it_is_known() {
        let of = |header: Option<&[u8]>| {
            let headers: Vec<_> = header
                .into_iter()
                .map(|value| (continuation::CONTINUES, value))
                .collect();
            lineage(&record_with(&headers, b"{}"), "outbox", Partition(0), "g")
        };
        assert_eq!(of(None), Some(Lineage::Original));
        assert_eq!(of(Some(b"{\"version\":2}")), Some(Lineage::Foreign));
        let copy = |call: &str, group: &str| {
            Continuation::new(call.parse().expect("a position"), group.into(), Timestamp(1))
        };
        // The record is at offset 3.
        for (call, expected) in [
            ("outbox/0@1", Lineage::Continues(Offset(1))),
            ("outbox/0@3", Lineage::Foreign),
            ("outbox/0@9", Lineage::Foreign),
            ("outbox/1@1", Lineage::Foreign),
            ("copied.outbox/0@1", Lineage::Foreign),
        ] {
            assert_eq!(of(Some(&copy(call, "g").to_json())), Some(expected), "{call}");
        }
        let mut repeat = copy("outbox/0@1", "g");
        repeat.repeats = true;
        assert_eq!(of(Some(&repeat.to_json())), Some(Lineage::Repeats(Offset(1))));
        assert_eq!(of(Some(&copy("outbox/0@1", "h").to_json())), None);
    }

    #[test]
    fn money_is_read_from_orders_of_the_built_in_form() {
        let order = br#"{"order_id":"a","amount":1250,"currency":"EUR","customer_id":"c"}"#;
        assert_eq!(money(order, AmountForm::MinorUnits), Some((Currency::EUR, 1250)));
        assert_eq!(money(b"{}", AmountForm::MinorUnits), None);
    }
}
