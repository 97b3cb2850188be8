//! Reading of the parked calls: what of the topics decides whether a parked call waits, and may be settled.

use anyhow::{Context, bail};
use iso_currency::Currency;
use kafka::Headers;
use kafka::group_offsets::TopicRecord;
use pipeline::ledger::{KeptOutcomes, ParkedCalls};
use records::outcome::Outcome;
use records::settlement::{self, Settlement};
use records::{
    AmountForm, Bounds, Offset, Partition, Position, Timestamp, Topics, call_dead_letter, dead_letter, parked,
};
use service::failpoint::guard_removed;

use crate::call_records::{
    admitted_at_of_header, call_notes, continuation_of, money, number, other_group, position, text,
};
use crate::config::Config;
use crate::progress::Progress;
use crate::topics_reader::TopicsReader;

/// What is kept of a parked record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParkedRecord {
    /// Idempotency key.
    pub(crate) key: Box<[u8]>,
    /// Position of the parked record.
    pub(crate) at: Position,
    /// Reason for which it is parked, and the last response.
    pub(crate) cause: String,
    /// Number of requests sent.
    pub(crate) attempts: u64,
    /// Currency and amount in minor units, if the order has the built-in form.
    pub(crate) money: Option<(Currency, u64)>,
    /// Time at which the order was admitted; `None` if the record does not say.
    pub(crate) admitted_at: Option<Timestamp>,
}

impl ParkedRecord {
    /// Returns the key as text.
    pub(super) fn key_text(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }
}

/// Reader of the topics of the parked calls.
pub(crate) struct ParkedReader<'a> {
    pub(super) topics: &'a Topics,
    pub(super) reader: TopicsReader,
    pub(super) group: &'a str,
    /// Form of the amounts; `None` if orders have another form.
    amount_form: Option<AmountForm>,
    pending_partitions: Vec<Partition>,
    parked_partitions: Vec<Partition>,
    dead_letter_partitions: Vec<Partition>,
}

/// A record of the parked topic.
pub(crate) enum Kind {
    /// Parked record of this call.
    Parked(Position),
    /// Settlement of this call.
    Settled(Position, Settlement),
}

impl<'a> ParkedReader<'a> {
    pub(crate) fn open(config: &'a Config, group: &'a str) -> anyhow::Result<Self> {
        let topics = &config.topics;
        let names = [
            topics.pending.as_str(),
            &topics.parked,
            &topics.processed,
            &topics.call_dead_letters,
        ];
        let reader = TopicsReader::open(&config.connection_as(group), &names)?;
        Ok(Self {
            topics,
            group,
            amount_form: config.order.amount(),
            pending_partitions: reader.partitions(&topics.pending)?,
            parked_partitions: reader.partitions(&topics.parked)?,
            dead_letter_partitions: reader.partitions(&topics.call_dead_letters)?,
            reader,
        })
    }

    /// Reads the parked calls of the group. Its call notes come before the outcomes: a caller notes that a call is
    /// final after Kafka has acknowledged its outcome, so none of a call that is noted is missed.
    pub(crate) fn parked_calls(&self) -> anyhow::Result<ParkedCalls<ParkedRecord>> {
        let mut calls = ParkedCalls::new(self.topics.pending.as_str());
        let mut progress = Progress::new();
        let mut left_out: Option<(String, u64)> = None;
        for partition in &self.parked_partitions {
            let bounds = self
                .reader
                .settled_bounds(&self.topics.parked, *partition, &progress)?;
            self.visit_parked(*partition, bounds, |record, kind| {
                progress.read(&self.topics.parked);
                let named = text(&record.headers, call_dead_letter::GROUP);
                // A test removes the guard: another group's notes then decide, and its callers get the copies.
                if let Some(other) = other_group(named, self.group)
                    && !guard_removed!("guard-parked-group")
                {
                    left_out.get_or_insert_with(|| (other.to_owned(), 0)).1 += 1;
                    return Ok(());
                }
                match kind {
                    Kind::Parked(call) => {
                        let before = continuation_of(record);
                        if before.as_ref().is_some_and(|before| before.repeats) {
                            calls.repeated(&call);
                        }
                        let first = before.as_ref().map(|before| before.first(&call));
                        let (at, kept) = (parked_at(&record.headers), self.kept(*partition, record));
                        calls.parked(&call, first, at, kept);
                    }
                    Kind::Settled(call, settlement) => calls.settled(&call, settlement.decision),
                }
                Ok(())
            })?;
        }
        if calls.waiting().next().is_some() {
            self.notes(&mut calls)?;
            let kept = self.terminals(&mut calls, &mut progress)?;
            // A test removes the guard: a call is then sent again whose outcome was deleted.
            calls.kept_outcomes(|record| {
                guard_removed!("guard-kept-outcomes") || kept.has_all_of(&record.key, record.admitted_at)
            });
        }
        progress.finish();
        if let Some((other, records)) = left_out {
            // To standard error: the result on standard output may be redirected to a file.
            eprintln!(
                "{records} records of {} are of other groups than {:?}, such as {other:?}, and are left out: --group \
                 says which group's calls are meant.",
                self.topics.parked, self.group
            );
        }
        Ok(calls)
    }

    /// Returns the end of each partition of the parked topic. A parked call and a settlement move one.
    pub(crate) fn parked_ends(&self) -> anyhow::Result<Vec<Offset>> {
        let topic = &self.topics.parked;
        let end_of = |partition: &Partition| {
            let bounds = self.reader.bounds(topic, *partition)?;
            Ok(bounds.end)
        };
        self.parked_partitions.iter().map(end_of).collect()
    }

    /// Passes each record of the parked topic to `sink`, with its partition and what it is.
    pub(super) fn visit_all_parked(
        &self,
        mut sink: impl FnMut(Partition, &TopicRecord<'_>, Kind) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let progress = Progress::new();
        for partition in &self.parked_partitions {
            let bounds = self
                .reader
                .settled_bounds(&self.topics.parked, *partition, &progress)?;
            self.visit_parked(*partition, bounds, |record, kind| sink(*partition, record, kind))?;
        }
        progress.finish();
        Ok(())
    }

    /// Passes each record of a partition of the parked topic to `sink`, with what it is.
    pub(super) fn visit_parked(
        &self,
        partition: Partition,
        bounds: Bounds,
        mut sink: impl FnMut(&TopicRecord<'_>, Kind) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let topic = &self.topics.parked;
        self.reader.offsets.read(topic, partition, bounds, |record| {
            let kind = kind_of(record).with_context(|| {
                format!(
                    "reading {topic}/{partition}@{}; nothing was changed",
                    record.offset
                )
            })?;
            kind.map_or(Ok(()), |kind| sink(record, kind))
        })
    }

    fn notes(&self, calls: &mut ParkedCalls<ParkedRecord>) -> anyhow::Result<()> {
        let notes = call_notes(
            &self.reader.offsets,
            self.group,
            &self.topics.pending,
            &self.pending_partitions,
        )?;
        for (partition, offset, note) in notes {
            calls.noted(partition, offset, note);
        }
        Ok(())
    }

    /// Takes in the outcomes and the dead letters. Returns which outcomes their topic still has.
    fn terminals(
        &self,
        calls: &mut ParkedCalls<ParkedRecord>,
        progress: &mut Progress,
    ) -> anyhow::Result<KeptOutcomes> {
        let topic = &self.topics.processed;
        let kept = self.reader.visit_outcomes(topic, progress, |record| {
            // One that cannot be read may be of a parked call.
            let outcome = Outcome::parse(record.value)?;
            if other_group(outcome.group.as_deref(), self.group).is_some() {
                return Ok(());
            }
            let continues = outcome.continues.as_deref().map(str::parse).transpose()?;
            calls.accepted(&outcome.call.parse()?, continues.as_ref());
            Ok(())
        })?;
        let topic = &self.topics.call_dead_letters;
        for partition in &self.dead_letter_partitions {
            let bounds = self.reader.settled_bounds(topic, *partition, progress)?;
            self.reader
                .visit_within(topic, *partition, bounds, progress, |record| {
                    let named = text(&record.headers, call_dead_letter::GROUP);
                    if other_group(named, self.group).is_none()
                        && let Some(call) = position(&record.headers, call_dead_letter::CALL)
                    {
                        let before = continuation_of(record);
                        calls.dead_letter(&call, before.as_ref().map(|before| before.first(&call)));
                    }
                    Ok(())
                })?;
        }
        Ok(kept)
    }

    fn kept(&self, partition: Partition, record: &TopicRecord<'_>) -> ParkedRecord {
        ParkedRecord {
            key: record.key.into(),
            at: Position {
                topic: self.topics.parked.clone(),
                partition,
                offset: record.offset,
            },
            cause: cause(&record.headers),
            attempts: number(&record.headers, call_dead_letter::ATTEMPTS).unwrap_or_default(),
            money: self.amount_form.and_then(|form| money(record.value, form)),
            admitted_at: admitted_at_of_header(&record.headers),
        }
    }
}

/// Returns what a record of the parked topic is; `None` if another program wrote it.
fn kind_of(record: &TopicRecord<'_>) -> anyhow::Result<Option<Kind>> {
    // A parked record names its call, whatever headers the order has. A settlement has none of the order's.
    let settles = record.headers.last(settlement::SETTLES);
    let parks = position(&record.headers, call_dead_letter::CALL);
    match (settles, parks) {
        (_, Some(call)) => Ok(Some(Kind::Parked(call))),
        (Some(_), None) => {
            let Some(call) = position(&record.headers, settlement::SETTLES) else {
                bail!("the header {} names no call", settlement::SETTLES);
            };
            Ok(Some(Kind::Settled(call, Settlement::parse(record.value)?)))
        }
        (None, None) => Ok(None),
    }
}

/// Returns the time at which a call was parked.
fn parked_at(headers: &Headers<'_>) -> Timestamp {
    // Without one the call would never be old enough to be sent again, which errs on the safe side.
    text(headers, dead_letter::AT)
        .and_then(|at| at.parse().ok())
        .map_or(Timestamp(i64::MAX), Timestamp)
}

/// Returns why a call is parked: its reason, and its last response.
fn cause(headers: &Headers<'_>) -> String {
    let reason = text(headers, dead_letter::REASON).unwrap_or("unknown");
    let status = text(headers, call_dead_letter::STATUS).map(|status| format!(", status {status}"));
    let lost = text(headers, parked::LOST).map(|lost| format!(", {lost}"));
    format!("{reason}{}", status.or(lost).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use records::settlement::Decision;

    use super::*;
    use crate::call_records::record_with;

    fn record<'a>(headers: &[(&'a str, &'a str)], value: &'a [u8]) -> TopicRecord<'a> {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        record_with(&headers, value)
    }

    #[test]
    fn order_cannot_forge_a_settlement() {
        let settlement =
            Settlement::new(Decision::Accepted, Timestamp(1), "a@b".into(), "r".into()).to_json();
        let parked = record(
            &[
                (settlement::SETTLES, "outbox/0@1"),
                (call_dead_letter::CALL, "outbox/0@2"),
            ],
            &settlement,
        );
        assert!(matches!(kind_of(&parked), Ok(Some(Kind::Parked(call))) if call.offset == Offset(2)));
        let settled = record(&[(settlement::SETTLES, "outbox/0@1")], &settlement);
        assert!(matches!(kind_of(&settled), Ok(Some(Kind::Settled(call, _))) if call.offset == Offset(1)));
        assert!(matches!(kind_of(&record(&[], b"")), Ok(None)));
        // A settlement of a later version may say that the call was sent again.
        assert!(
            kind_of(&record(
                &[(settlement::SETTLES, "outbox/0@1")],
                b"{\"version\":2}"
            ))
            .is_err()
        );
        assert!(kind_of(&record(&[(settlement::SETTLES, "1")], &settlement)).is_err());
    }

    #[test]
    fn record_without_a_group_is_of_any_group() {
        assert_eq!(other_group(Some("b"), "a"), Some("b"));
        assert_eq!(other_group(Some("a"), "a"), None);
        assert_eq!(other_group(None, "a"), None);
        // An order that carries the header cannot forge it.
        let headers = [(call_dead_letter::GROUP, "b"), (call_dead_letter::GROUP, "a")];
        assert_eq!(
            text(&record(&headers, b"").headers, call_dead_letter::GROUP),
            Some("a")
        );
    }

    #[test]
    fn cause_has_reason_and_last_response() {
        let lost = record(
            &[(dead_letter::REASON, "ambiguous"), (parked::LOST, "timed-out")],
            b"",
        );
        assert_eq!(cause(&lost.headers), "ambiguous, timed-out");
        let status = record(
            &[
                (dead_letter::REASON, "ambiguous"),
                (call_dead_letter::STATUS, "500"),
            ],
            b"",
        );
        assert_eq!(cause(&status.headers), "ambiguous, status 500");
        assert_eq!(
            cause(&record(&[(dead_letter::REASON, "redelivered")], b"").headers),
            "redelivered"
        );
        assert_eq!(parked_at(&record(&[], b"").headers), Timestamp(i64::MAX));
    }
}
