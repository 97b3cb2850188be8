//! Appending of calls to the outbox, in transactions that also say how far the replay is.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use kafka::group_offsets::TopicRecord;
use kafka::{OutgoingHeaders, OutgoingRecord, TransactionalProducer};
use pipeline::ledger::Replayable;
use records::continuation::{self, Ambiguity};
use records::operation::{Event, Operation, REPLAY};
use records::{Bounds, Continuation, Offset, OffsetSet, Partition, Position, Timestamp};
use service::failpoint::{freeze_at, kill_at};

use super::reading::ReplayReader;
use crate::call_records::{admitted_at, continuation_of};
use crate::operations_log::{event, send};
use crate::transaction::expect_committed;

const TAKEN_OVER: &str = "these calls of the replay were not appended: a second operator may have taken over. Run the \
                          command again, which does nothing twice";

/// Calls that may be made again now, by their states.
pub(super) type Eligible = BTreeMap<Partition, BTreeMap<Replayable, OffsetSet>>;

/// Appends the calls of one plan.
pub(super) struct Appender<'a> {
    pub(super) reading: &'a ReplayReader<'a>,
    pub(super) producer: &'a TransactionalProducer,
    pub(super) plan: &'a str,
    pub(super) reason: Option<&'a str>,
    pub(super) eligible: Eligible,
}

impl Appender<'_> {
    /// Appends those of the calls that may be made again, in one transaction. Returns the event of it.
    pub(super) fn append(&self, batch: &BTreeMap<Partition, Vec<Offset>>) -> anyhow::Result<Event> {
        freeze_at!("frozen-before-replay-batch");
        self.producer.begin().context(TAKEN_OVER)?;
        let (mut appended, mut left_out) = (0, 0);
        for (partition, offsets) in batch {
            let count = self.append_of(*partition, offsets)?;
            appended += count;
            left_out += offsets.len() as u64 - count;
        }
        let of = Event::Appended {
            until: batch
                .iter()
                .filter_map(|(partition, offsets)| Some((*partition, offsets.last()?.next())))
                .collect(),
            appended,
            left_out,
        };
        let operation = self.operation(of.clone());
        send(self.producer, self.reading.config, &operation)?;
        self.commit()?;
        Ok(of)
    }

    /// Returns an event of this replay, for the topic of operations.
    pub(super) fn operation(&self, of: Event) -> Operation {
        event("replay run", self.plan, of, self.reason)
    }

    fn append_of(&self, partition: Partition, offsets: &[Offset]) -> anyhow::Result<u64> {
        let topic = &self.reading.config.topics.pending;
        let eligible: BTreeMap<Offset, Replayable> = offsets
            .iter()
            .filter_map(|offset| Some((*offset, self.state(partition, *offset)?)))
            .collect();
        let (Some((first, _)), Some((last, _))) = (eligible.first_key_value(), eligible.last_key_value())
        else {
            return Ok(0);
        };
        let bounds = Bounds {
            start: *first,
            end: last.next(),
        };
        let (mut seen, mut appended) = (0, 0);
        self.reading
            .reader
            .offsets
            .read::<anyhow::Error>(topic, partition, bounds, |record| {
                let Some(state) = eligible.get(&record.offset) else {
                    return Ok(());
                };
                seen += 1;
                // A slow replay may take longer than the API remembers the keys.
                let config = self.reading.config;
                if config.looks_up() || !config.is_key_expired(admitted_at(record), Timestamp::now()) {
                    self.send_copy(partition, record, *state)?;
                    appended += 1;
                }
                kill_at!("between-replay-records");
                Ok(())
            })?;
        ensure!(
            seen == eligible.len(),
            "{} calls of {topic}/{partition} from {first} to {last} are gone: their retention has passed. Nothing of \
             this transaction was appended; run the command again",
            eligible.len() - seen
        );
        Ok(appended)
    }

    fn state(&self, partition: Partition, offset: Offset) -> Option<Replayable> {
        self.eligible
            .get(&partition)?
            .iter()
            .find(|(_, offsets)| offsets.contains(offset))
            .map(|(state, _)| *state)
    }

    fn send_copy(
        &self,
        partition: Partition,
        record: &TopicRecord<'_>,
        state: Replayable,
    ) -> anyhow::Result<()> {
        let topic = &self.reading.config.topics.pending;
        let own = Position {
            topic: topic.clone(),
            partition,
            offset: record.offset,
        };
        let config = self.reading.config;
        let now = Timestamp::now();
        let may_be_processed = state.may_charge_again() || config.is_key_expired(admitted_at(record), now);
        let copy = continuation(
            &own,
            continuation_of(record),
            state,
            may_be_processed && config.looks_up(),
            self.reading.group,
            now,
        );
        let mut headers = OutgoingHeaders::with_capacity(record.headers.readable.len() + 2);
        for (name, value) in &record.headers.readable {
            if ![continuation::CONTINUES, REPLAY].contains(name) {
                headers.add(name, *value);
            }
        }
        headers.add(continuation::CONTINUES, Some(&copy.to_json()));
        headers.add(REPLAY, Some(self.plan.as_bytes()));
        let sent = self.producer.send(OutgoingRecord {
            topic,
            // The same partition: calls of one key stay in order, and the group's notes are by partition.
            partition: Some(partition),
            key: Some(record.key),
            value: Some(record.value),
            headers: Some(headers),
            at: None,
        });
        sent.context(TAKEN_OVER)
    }

    fn commit(&self) -> anyhow::Result<()> {
        let end = self.producer.end_without_offsets(|| {
            kill_at!("before-replay-commit");
        });
        kill_at!("after-replay-commit");
        expect_committed(end, "calls of the replay")
    }
}

/// Returns what a copy of a call says: that it continues the call, or, if that was accepted, that it repeats it.
/// `look_up` has its caller look it up before it is sent.
fn continuation(
    own: &Position,
    before: Option<Continuation>,
    state: Replayable,
    look_up: bool,
    group: &str,
    now: Timestamp,
) -> Continuation {
    let repeats = state == Replayable::Accepted;
    let first = before.as_ref().map_or(own, |before| before.first(own)).clone();
    // Without the attempts before: each limit counts anew from here on, but for one ambiguous attempt.
    let mut copy = Continuation::new(first, group.to_owned(), now);
    copy.repeats = repeats;
    copy.deferrals = match &before {
        Some(before) if !repeats && !before.repeats => before.deferrals.saturating_add(1),
        _ => 1,
    };
    if state.may_charge_again() {
        // One stands for all that there were: the dead letter of the copy must not say that none was processed, even if
        // what tells of the records before has left its topic.
        copy.attempts_ambiguous = 1;
    }
    if look_up && !repeats {
        copy.ambiguity = Some(Ambiguity::AmbiguousResponse);
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> Position {
        Position {
            topic: "outbox".into(),
            partition: Partition(1),
            offset: Offset(offset),
        }
    }

    fn copy(before: Option<Continuation>, state: Replayable, look_up: bool) -> Continuation {
        continuation(&at(9), before, state, look_up, "g", Timestamp(5))
    }

    #[test]
    fn copy_continues_the_first_record() {
        let first = copy(None, Replayable::Rejected, false);
        assert_eq!((&first.call, first.deferrals, first.ambiguity), (&at(9), 1, None));
        let mut before = Continuation::new(at(3), "g".into(), Timestamp(1));
        before.deferrals = 4;
        before.attempts = 7;
        before.ambiguity = Some(Ambiguity::Redelivered);
        let next = copy(Some(before), Replayable::Rejected, false);
        assert_eq!((&next.call, next.deferrals, next.attempts), (&at(3), 5, 0));
        assert_eq!((next.ambiguity, next.first_seen_at), (None, Timestamp(5)));
    }

    #[test]
    fn copy_of_an_accepted_call_repeats_its_first_record() {
        let mut before = Continuation::new(at(3), "g".into(), Timestamp(1));
        before.deferrals = 4;
        let repeat = copy(Some(before), Replayable::Accepted, true);
        assert!(repeat.repeats && repeat.ambiguity.is_none());
        assert_eq!((&repeat.call, repeat.deferrals), (&at(3), 1));
        // Rejected, the repeat is continued, as any call.
        let again = copy(Some(repeat), Replayable::Rejected, false);
        assert_eq!((&again.call, again.deferrals, again.repeats), (&at(9), 1, false));
    }

    #[test]
    fn copy_of_a_call_that_may_be_charged_again_says_so() {
        for state in Replayable::ALL {
            for look_up in [false, true] {
                let expected = match state {
                    Replayable::Ambiguous
                    | Replayable::Settled
                    | Replayable::Accepted
                    | Replayable::Unknown => 1,
                    Replayable::Rejected => 0,
                };
                assert_eq!(
                    copy(None, state, look_up).attempts_ambiguous,
                    expected,
                    "{state:?}"
                );
            }
        }
    }

    #[test]
    fn call_that_may_be_processed_is_looked_up() {
        let looked_up = copy(None, Replayable::Ambiguous, true);
        assert_eq!(looked_up.ambiguity, Some(Ambiguity::AmbiguousResponse));
        assert_eq!(copy(None, Replayable::Ambiguous, false).ambiguity, None);
    }
}
