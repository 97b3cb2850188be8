//! Writing of settlements.
//!
//! One fixed transactional id: the second of two operators ends what the first has open, fences it, and decides on
//! what the topics have then. Each call's settlement is in one transaction with what it says, so that a command that
//! was killed at any step, or whose commit has an unknown outcome, is simply run again.

use std::collections::BTreeMap;

use anyhow::ensure;
use kafka::group_offsets::TopicRecord;
use kafka::{OutgoingHeaders, OutgoingRecord, TransactionalProducer};
use records::continuation::Ambiguity;
use records::outcome::Outcome;
use records::settlement::{self, Decision, Settlement};
use records::{
    Bounds, Continuation, Offset, Partition, Position, Timestamp, call_dead_letter, continuation,
    dead_letter, order_id,
};
use service::failpoint::{guard_removed, kill_at};

use super::reading::{Kind, ParkedReader};
use crate::call_records::{admitted_at_of_header, number};
use crate::config::Config;
use crate::operations_log::{self, operation};
use crate::transaction::{self, Batches};

/// Calls to settle, by the positions of their parked records.
pub(super) type Chosen = BTreeMap<Partition, BTreeMap<Offset, Position>>;

/// Returns whether the call with this parked record is chosen.
pub(super) fn is_chosen(chosen: &Chosen, at: &Position) -> bool {
    let calls = chosen.get(&at.partition);
    calls.is_some_and(|calls| calls.contains_key(&at.offset))
}

/// Opens the producer of settlements, before the topics are read: what an earlier operator has open is committed or
/// aborted by then, and whatever that one writes from now on is refused.
pub(super) fn open_producer(config: &Config) -> anyhow::Result<TransactionalProducer> {
    let topics = &config.topics;
    // Not that of replays: those never take a parked call, so that neither need end the other.
    let id = format!("outbox-settle-{}", topics.parked);
    let names = [
        topics.pending.as_str(),
        &topics.processed,
        &topics.call_dead_letters,
        &topics.parked,
        &topics.operations,
    ];
    transaction::open_producer(config, &id, &names)
}

/// Writes settlements.
pub(super) struct Settler<'a> {
    pub(super) reading: &'a ParkedReader<'a>,
    pub(super) producer: &'a TransactionalProducer,
    pub(super) settlement: Settlement,
    pub(super) config: &'a Config,
    /// Command that settles, such as `parked settle`.
    pub(super) command: &'static str,
}

impl Settler<'_> {
    /// Settles the chosen calls, in transactions of a limited number. Reads their parked records again, so that no
    /// order is kept in memory.
    pub(super) fn settle(&self, chosen: &Chosen) -> anyhow::Result<()> {
        let mut batches = Batches::new(self.producer, |calls| self.commit(calls));
        for (partition, calls) in chosen {
            let (Some((first, _)), Some((last, _))) = (calls.first_key_value(), calls.last_key_value())
            else {
                continue;
            };
            let bounds = Bounds {
                start: *first,
                end: Offset(last.0 + 1),
            };
            let mut seen = 0;
            self.reading.visit_parked(*partition, bounds, |record, kind| {
                let Some(call) = calls.get(&record.offset) else {
                    return Ok(());
                };
                ensure!(
                    matches!(&kind, Kind::Parked(parked) if parked == call),
                    "{}/{partition}@{} is no longer the parked record of {call}",
                    self.reading.topics.parked,
                    record.offset
                );
                seen += 1;
                batches.write(|| self.write(*partition, call, record))
            })?;
            ensure!(
                seen == calls.len(),
                "{} parked records of {}/{partition} are gone; run the command again",
                calls.len() - seen,
                self.reading.topics.parked
            );
        }
        batches.commit()
    }

    /// Writes the settlement of a call, and what it says.
    fn write(&self, partition: Partition, call: &Position, record: &TopicRecord<'_>) -> anyhow::Result<()> {
        match self.settlement.decision {
            Decision::Accepted => self.write_outcome(call, record)?,
            Decision::Rejected => self.write_dead_letter(call, record)?,
            Decision::SendAgain => self.write_copy(call, record)?,
        }
        kill_at!("between-settlement-records");
        if guard_removed!("guard-settlement") {
            // A test removes the guard: nothing tells that the call was settled.
            return Ok(());
        }
        let mut headers = OutgoingHeaders::with_capacity(2);
        headers.add(settlement::SETTLES, Some(call.to_string().as_bytes()));
        headers.add(call_dead_letter::GROUP, Some(self.reading.group.as_bytes()));
        self.send(
            &self.reading.topics.parked,
            // That of the parked record, so that one partition tells all of a call.
            Some(partition),
            record.key,
            &self.settlement.to_json(),
            headers,
        )
    }

    fn write_outcome(&self, call: &Position, record: &TopicRecord<'_>) -> anyhow::Result<()> {
        let key = String::from_utf8_lossy(record.key).into_owned();
        let order = order_id(record.value).ok().flatten();
        let order = order.map_or_else(|| key.clone(), |order| order.into_owned());
        let mut outcome = Outcome::new(order, key, call.to_string());
        outcome.continues = continued(record)?.map(|before| before.call.to_string());
        outcome.group = Some(self.reading.group.to_owned());
        outcome.settled_by = Some(self.settlement.by.clone());
        outcome.settled_because = Some(self.settlement.reason.clone());
        let number = |name| number(&record.headers, name);
        outcome.attempts = number(call_dead_letter::ATTEMPTS).unwrap_or_default();
        outcome.attempts_ambiguous = number(call_dead_letter::ATTEMPTS_AMBIGUOUS).unwrap_or_default();
        outcome.responded_at = self.settlement.at;
        let mut headers = OutgoingHeaders::with_capacity(2);
        headers.add(call_dead_letter::CALL, Some(call.to_string().as_bytes()));
        headers.add(settlement::SETTLED_BY, Some(self.settlement.by.as_bytes()));
        self.send(
            &self.reading.topics.processed,
            None,
            record.key,
            &outcome.to_json(),
            headers,
        )
    }

    fn write_dead_letter(&self, call: &Position, record: &TopicRecord<'_>) -> anyhow::Result<()> {
        let (at, call) = (self.settlement.at.to_string(), call.to_string());
        // As the caller's: what it knew of the call, then the reason. Readers take the last header of a name.
        let mut headers = OutgoingHeaders::with_capacity(record.headers.readable.len() + 6);
        for (name, value) in &record.headers.readable {
            headers.add(name, *value);
        }
        for (name, value) in [
            (dead_letter::REASON, call_dead_letter::REJECTED_BY_OPERATOR),
            (dead_letter::DETAIL, &self.settlement.reason),
            (dead_letter::AT, &at),
            (call_dead_letter::CALL, &call),
            (call_dead_letter::GROUP, self.reading.group),
            (settlement::SETTLED_BY, &self.settlement.by),
        ] {
            headers.add(name, Some(value.as_bytes()));
        }
        self.send(
            &self.reading.topics.call_dead_letters,
            None,
            record.key,
            record.value,
            headers,
        )
    }

    /// Appends a copy of the call to the outbox, as a deferral does. It continues the call's first record, so that
    /// an outcome of either ends both.
    fn write_copy(&self, call: &Position, record: &TopicRecord<'_>) -> anyhow::Result<()> {
        let (now, admitted_at) = (self.settlement.at, admitted_at_of_header(&record.headers));
        // The API may have forgotten its key: its caller looks it up first.
        let look_up = self.config.looks_up() && self.config.is_key_expired(admitted_at, now);
        let copy = continuation(call, continued(record)?, look_up, self.reading.group, now);
        let own = of_the_order(record);
        let mut headers = OutgoingHeaders::with_capacity(own.len() + 1);
        for (name, value) in own {
            if *name != continuation::CONTINUES {
                headers.add(name, *value);
            }
        }
        headers.add(continuation::CONTINUES, Some(&copy.to_json()));
        // The same partition: calls of one key stay in order, and the group's notes are by partition.
        self.send(
            &self.reading.topics.pending,
            Some(call.partition),
            record.key,
            record.value,
            headers,
        )
    }

    fn send(
        &self,
        topic: &str,
        partition: Option<Partition>,
        key: &[u8],
        value: &[u8],
        headers: OutgoingHeaders,
    ) -> anyhow::Result<()> {
        Ok(self.producer.send(OutgoingRecord {
            topic,
            partition,
            key: Some(key),
            value: Some(value),
            headers: Some(headers),
            at: None,
        })?)
    }

    fn commit(&self, calls: usize) -> anyhow::Result<()> {
        let decided = match self.settlement.decision {
            Decision::Accepted => "settled as accepted",
            Decision::Rejected => "settled as rejected",
            Decision::SendAgain => "sent again",
        };
        let what = format!(
            "{calls} parked calls of the group {} {decided}",
            self.reading.group
        );
        let operation = operation(self.command, what, Some(&self.settlement.reason));
        operations_log::send(self.producer, self.config, &operation)?;
        let end = self.producer.end_without_offsets(|| {
            kill_at!("before-settlement-commit");
        });
        kill_at!("after-settlement-commit");
        transaction::expect_committed(end, "settlements")
    }
}

/// Returns what a copy of a parked call says: that it continues the call, which continued the one `before`. `look_up` has
/// its caller look it up before it is sent.
fn continuation(
    call: &Position,
    before: Option<Continuation>,
    look_up: bool,
    group: &str,
    now: Timestamp,
) -> Continuation {
    let first = before.as_ref().map_or(call, |before| &before.call).clone();
    // Without the attempts before, and without an ambiguity: the operator says that none was processed. One ambiguous
    // attempt stands for what made it wait, for the operator may be wrong: if the copy is rejected, its dead letter must
    // not say that no request was processed.
    let mut copy = Continuation::new(first, group.to_owned(), now);
    copy.deferrals = before.map_or(1, |before| before.deferrals.saturating_add(1));
    copy.attempts_ambiguous = 1;
    copy.ambiguity = look_up.then_some(Ambiguity::AmbiguousResponse);
    copy
}

/// Returns the headers that the pending call had: the caller's come after them, from the last reason on.
fn of_the_order<'r>(record: &'r TopicRecord<'_>) -> &'r [(&'r str, Option<&'r [u8]>)] {
    let all = record.headers.readable.as_slice();
    let own = all.iter().rposition(|(name, _)| *name == dead_letter::REASON);
    &all[..own.unwrap_or(all.len())]
}

/// Returns what the pending call continued.
fn continued(record: &TopicRecord<'_>) -> anyhow::Result<Option<Continuation>> {
    let value = record.headers.last(continuation::CONTINUES);
    let before = value
        .map(|value| Continuation::parse(value.unwrap_or_default()))
        .transpose()?;
    Ok(before.filter(|before| !before.repeats))
}

#[cfg(test)]
mod tests {
    use kafka::Headers;

    use super::*;

    #[test]
    fn copy_of_a_parked_call_remains_ambiguous() {
        let at = |offset| Position {
            topic: "outbox".into(),
            partition: Partition(1),
            offset: Offset(offset),
        };
        let copy = |call, before, look_up| continuation(&at(call), before, look_up, "g", Timestamp(5));
        let first = copy(3, None, false);
        assert_eq!((&first.call, first.deferrals, first.ambiguity), (&at(3), 1, None));
        assert_eq!((first.attempts, first.attempts_ambiguous), (0, 1));
        let mut before = first;
        before.attempts = 7;
        before.attempts_ambiguous = 4;
        let next = copy(9, Some(before), true);
        assert_eq!((&next.call, next.deferrals, next.attempts), (&at(3), 2, 0));
        assert_eq!(
            (next.ambiguity, next.attempts_ambiguous),
            (Some(Ambiguity::AmbiguousResponse), 1)
        );
    }

    #[test]
    fn order_keeps_its_own_headers() {
        let readable = vec![
            ("trace", Some(&b"1"[..])),
            (dead_letter::REASON, Some(b"of the order")),
            (dead_letter::REASON, Some(b"ambiguous")),
            (call_dead_letter::CALL, Some(b"outbox/0@1")),
        ];
        let record = TopicRecord {
            offset: Offset(0),
            at: None,
            key: b"k",
            value: b"{}",
            headers: Headers {
                readable,
                unreadable: None,
            },
        };
        let own = of_the_order(&record);
        assert_eq!(own, &record.headers.readable[..2]);
    }
}
