//! States of all calls, folded from the topics into a plan.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{bail, ensure};
use kafka::group_offsets::TopicRecord;
use pipeline::ledger::{KeptOutcomes, Ledger, Planner, RecordState, Selected, Terminal};
use records::call_dead_letter;
use records::operation::REPLAY;
use records::outcome::Outcome;
use records::{Bounds, Offset, OffsetSet, Partition, Timestamp};
use service::failpoint::guard_removed;

use super::call_filter::CallFilter;
use super::reading::ReplayReader;
use crate::brokers::REQUEST_TIMEOUT;
use crate::call_records::{
    admitted_at, admitted_at_of_header, call_notes, continuation_within, is_early, money, position,
    rejection, take_outcome, take_terminal, text,
};
use crate::progress::Progress;

/// Maximum number of selected calls that are kept in memory: some 450 MiB.
const KEPT_MAX: usize = 4_000_000;

/// What a replay needs to know of a call that is not in the ledger.
#[derive(Debug, Default)]
struct DeadLetters {
    /// Those that are not selected.
    unselected: OffsetSet,
    /// Those so recent that an earlier request may still be processed.
    early: OffsetSet,
}

/// What was read.
pub(super) struct Read {
    /// End of each partition of the outbox that was read.
    pub(super) ends: BTreeMap<Partition, Offset>,
    /// First records of the calls of which this plan has appended copies, if its canary is awaited.
    pub(super) appended: Vec<(Partition, Offset)>,
    /// Selected keys of which the outbox has no record.
    pub(super) missing_keys: BTreeSet<Vec<u8>>,
}

/// Which calls are selected: by an operator's filter, or by a plan.
pub(super) enum Which<'a> {
    Filtered(&'a CallFilter),
    Plan {
        /// The plan, if its canary is awaited: only then are its copies needed.
        awaited: Option<&'a str>,
        calls: &'a BTreeMap<Partition, OffsetSet>,
    },
}

/// Reads all that decides on the selected calls into the plan: first what the group has noted, then the terminal
/// records, then the outbox.
pub(super) fn read(
    reading: &ReplayReader<'_>,
    planner: &mut Planner,
    which: &Which<'_>,
    now: Timestamp,
) -> anyhow::Result<Read> {
    let mut fold = Fold {
        reading,
        ledger: Ledger::new(reading.config.topics.pending.as_str()),
        kept: KeptOutcomes::default(),
        dead_letters: BTreeMap::new(),
        which,
        now,
        progress: Progress::new(),
    };
    take_notes(reading, &mut fold.ledger)?;
    fold.outcomes()?;
    let topics = &reading.config.topics;
    fold.terminals(&topics.call_dead_letters, |record| {
        Terminal::DeadLetter(rejection(record))
    })?;
    fold.terminals(&topics.parked, |_| Terminal::Parked)?;
    let read = fold.outbox(planner)?;
    fold.progress.finish();
    Ok(read)
}

/// Fold of the topics.
struct Fold<'a> {
    reading: &'a ReplayReader<'a>,
    ledger: Ledger,
    /// Outcomes that their topic still has.
    kept: KeptOutcomes,
    dead_letters: BTreeMap<Partition, DeadLetters>,
    which: &'a Which<'a>,
    now: Timestamp,
    progress: Progress,
}

impl Fold<'_> {
    fn outcomes(&mut self) -> anyhow::Result<()> {
        let Self {
            reading,
            ledger,
            kept,
            progress,
            ..
        } = self;
        let (group, topic) = (reading.group, &reading.config.topics.processed);
        *kept = reading.reader.visit_outcomes(topic, progress, |record| {
            // One that cannot be read is an error: it may be of a selected call.
            let outcome = Outcome::parse(record.value)?;
            expect_own(
                take_outcome(ledger, group, &outcome, record.key)?.as_deref(),
                group,
            )
        })?;
        Ok(())
    }

    /// Takes in the dead letters, or the parked records. A settlement names no call of its own: what it says is an
    /// outcome, a dead letter or a copy.
    fn terminals(
        &mut self,
        topic: &str,
        terminal_of: impl Fn(&TopicRecord<'_>) -> Terminal,
    ) -> anyhow::Result<()> {
        let Self {
            reading,
            ledger,
            dead_letters,
            which,
            now,
            progress,
            ..
        } = self;
        let (group, quiescence) = (reading.group, reading.config.quiescence());
        reading.reader.visit(topic, progress, |_, record| {
            let Some(call) = position(&record.headers, call_dead_letter::CALL) else {
                return Ok(());
            };
            let terminal = terminal_of(record);
            let other = take_terminal(ledger, group, terminal, &call, record)?;
            expect_own(other.as_deref(), group)?;
            let of = dead_letters.entry(call.partition).or_default();
            if matches!(terminal, Terminal::DeadLetter(_)) && !which.has_dead_letter(record) {
                of.unselected.insert(call.offset);
            }
            // The next owner of a call with a dead letter may have sent it again, and parked it: the later time counts.
            if is_early(record, *now, quiescence) {
                of.early.insert(call.offset);
            }
            Ok(())
        })
    }

    fn outbox(&mut self, planner: &mut Planner) -> anyhow::Result<Read> {
        let topic = &self.reading.config.topics.pending;
        let mut read = Read {
            ends: BTreeMap::new(),
            appended: Vec::new(),
            missing_keys: match self.which {
                Which::Filtered(filter) => filter.keys.clone().unwrap_or_default(),
                Which::Plan { .. } => BTreeSet::new(),
            },
        };
        let reader = &self.reading.reader;
        for partition in reader.partitions(topic)? {
            let bounds = reader.settled_bounds(topic, partition, &self.progress)?;
            read.ends.insert(partition, bounds.end);
            let part = self.which.part(partition, bounds, |at| {
                reader.offsets.offset_at(topic, partition, at, REQUEST_TIMEOUT)
            })?;
            if let Some(bounds) = part {
                self.outbox_partition(partition, bounds, planner, &mut read)?;
            }
        }
        Ok(read)
    }

    fn outbox_partition(
        &mut self,
        partition: Partition,
        bounds: Bounds,
        planner: &mut Planner,
        read: &mut Read,
    ) -> anyhow::Result<()> {
        let Self {
            reading,
            ledger,
            kept,
            dead_letters,
            which,
            now,
            progress,
        } = self;
        let (config, group, reader) = (reading.config, reading.group, &reading.reader);
        let topic = &config.topics.pending;
        let no_dead_letters = DeadLetters::default();
        let dead_letters = dead_letters.get(&partition).unwrap_or(&no_dead_letters);
        reader.visit_within(topic, partition, bounds, progress, |record| {
            read.missing_keys.remove(record.key);
            let before = continuation_within(record, topic, partition);
            // The callers of the group skip it.
            if before.as_ref().is_some_and(|before| before.group != group) {
                return Ok(());
            }
            let (continues, repeats) = match &before {
                Some(before) if before.repeats => (None, Some(before.call.offset)),
                Some(before) => (Some(&before.call), None),
                None => (None, None),
            };
            let first = continues.map_or(record.offset, |call| call.offset);
            if which.appended(record) {
                read.appended.push((partition, first));
            }
            if repeats.is_some() {
                ledger.repeated(partition, record.offset);
            }
            let state = ledger.pending(partition, record.offset, record.key, continues)?;
            let is_selected =
                which.has(partition, record, state) && !dead_letters.unselected.contains(record.offset);
            // Of a copy the earlier record may be selected.
            let order = match config.order.amount() {
                Some(form) if is_selected || before.is_some() => money(record.value, form),
                _ => None,
            };
            let noted = ledger.noted_state(partition, record.offset, state);
            // A test removes the guard: a call then counts as never processed whose outcome was deleted.
            let noted = match guard_removed!("guard-kept-outcomes") {
                true => noted,
                false => kept.doubted(noted, record.key, admitted_at_of_header(&record.headers)),
            };
            let is_expired = config.is_key_expired(admitted_at(record), *now) && !config.looks_up();
            let selected = Selected {
                offset: record.offset,
                first,
                repeats,
                state: noted,
                is_noted_final: ledger.is_noted_final(partition, record.offset),
                is_selected,
                is_early: dead_letters.early.contains(record.offset),
                is_expired,
                money: order.map(|(currency, units)| (currency.code(), units)),
            };
            planner.take(partition, &selected);
            ensure!(
                planner.kept() <= KEPT_MAX,
                "more than {KEPT_MAX} calls are selected, beside those that were accepted and not asked for: select \
                 less, by --from and --to, or by --partition"
            );
            Ok(())
        })
    }
}

impl Which<'_> {
    /// Returns the part of a partition that has to be read; `None` if there is none. The state of a call is known
    /// from its last record on, so that earlier ones than the selected are not needed; later ones are.
    fn part<E>(
        &self,
        partition: Partition,
        bounds: Bounds,
        offset_at: impl FnOnce(Timestamp) -> Result<Option<Offset>, E>,
    ) -> Result<Option<Bounds>, E> {
        let start = match self {
            Self::Filtered(filter) if filter.partition.is_some_and(|of| of != partition) => {
                return Ok(None);
            }
            Self::Filtered(filter) => {
                let by_offset = filter.within(bounds).start;
                match filter.from {
                    Some(from) => match offset_at(from)? {
                        Some(by_time) => by_offset.max(by_time),
                        None => return Ok(None),
                    },
                    None => by_offset,
                }
            }
            Self::Plan { calls, .. } => match calls.get(&partition).and_then(|calls| calls.runs().next()) {
                Some((first, _)) => first,
                None => return Ok(None),
            },
        };
        Ok(Some(Bounds {
            start: start.max(bounds.start),
            end: bounds.end,
        }))
    }

    fn has(&self, partition: Partition, record: &TopicRecord<'_>, state: RecordState) -> bool {
        let has_dead_letter = matches!(state, RecordState::Final(Terminal::DeadLetter(_)));
        let by_dead_letter = matches!(self, Self::Filtered(filter) if filter.is_by_dead_letter());
        (has_dead_letter || !by_dead_letter) && self.has_record(partition, record)
    }

    /// Returns whether a record of the outbox is selected, whatever became of it.
    pub(super) fn has_record(&self, partition: Partition, record: &TopicRecord<'_>) -> bool {
        match self {
            Self::Filtered(filter) => filter.has(partition, record),
            Self::Plan { calls, .. } => calls
                .get(&partition)
                .is_some_and(|calls| calls.contains(record.offset)),
        }
    }

    fn has_dead_letter(&self, record: &TopicRecord<'_>) -> bool {
        match self {
            Self::Filtered(filter) => filter.has_dead_letter(record),
            Self::Plan { .. } => true,
        }
    }

    /// Returns whether the plan has appended the record, if its canary is awaited.
    pub(super) fn appended(&self, record: &TopicRecord<'_>) -> bool {
        match self {
            Self::Filtered(_) => false,
            Self::Plan { awaited, .. } => {
                awaited.is_some_and(|plan| text(&record.headers, REPLAY) == Some(plan))
            }
        }
    }
}

/// Takes in what the group has noted.
pub(super) fn take_notes(reading: &ReplayReader<'_>, ledger: &mut Ledger) -> anyhow::Result<()> {
    let (topic, group) = (&reading.config.topics.pending, reading.group);
    let notes = call_notes(
        &reading.reader.offsets,
        group,
        topic,
        &reading.reader.partitions(topic)?,
    )?;
    if notes.is_empty() {
        bail!(
            "the group {group:?} has no committed offset on {topic:?}, so that all its calls are pending: check \
             --group, the callers' setting kafka.group_id"
        );
    }
    for (partition, offset, note) in notes {
        ledger.noted(partition, offset, note);
    }
    Ok(())
}

/// Fails if a terminal record is of another group: the settings file, with the topics, is not that of `group`.
pub(super) fn expect_own(other: Option<&str>, group: &str) -> anyhow::Result<()> {
    match other {
        Some(other) => bail!(
            "it is of the group {other:?}, and not of {group:?}: use the settings file of the callers of {group:?}, \
             whose topics have its outcomes; nothing was changed"
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_of_a_partition_is_read_up_to_its_end() {
        let bounds = Bounds {
            start: Offset(5),
            end: Offset(90),
        };
        let part = |which: &Which<'_>, partition| {
            which
                .part(Partition(partition), bounds, |_| Ok::<_, ()>(Some(Offset(40))))
                .expect("no error")
                .map(|bounds| (bounds.start.0, bounds.end.0))
        };
        let all = CallFilter::default();
        assert_eq!(part(&Which::Filtered(&all), 0), Some((5, 90)));
        let some = CallFilter {
            partition: Some(Partition(1)),
            from: Some(Timestamp(3)),
            ..CallFilter::default()
        };
        assert_eq!(part(&Which::Filtered(&some), 0), None);
        assert_eq!(part(&Which::Filtered(&some), 1), Some((40, 90)));
        let calls = [(Partition(1), [Offset(20), Offset(30)].into_iter().collect())].into();
        let plan = Which::Plan {
            awaited: Some("p"),
            calls: &calls,
        };
        assert_eq!((part(&plan, 0), part(&plan, 1)), (None, Some((20, 90))));
    }
}
