//! `group recover`: rebuilds the offsets and call notes of a callers' group from the topics.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use comfy_table::Table;
use kafka::consumer::CommitOffset;
use kafka::group_offsets::TopicRecord;
use pipeline::ledger::{KeptOutcomes, Ledger, RecordState, Recovery, Rejection, Terminal};
use records::outcome::Outcome;
use records::settlement;
use records::{Bounds, Continuation, Offset, OffsetSet, Partition, Position, call_dead_letter, continuation};
use serde::Serialize;
use service::failpoint::guard_removed;

use super::missing_offsets::{Change, MissingOffsets};
use crate::call_records::{admitted_at_of_header, other_group};
use crate::cli::{IfOutcomeGone, RecoverGroup};
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::confirm::confirm;
use crate::progress::Progress;
use crate::tables::new_table;
use crate::topics_reader::TopicsReader;

/// Partition on which the group continues. Its field names are those of the JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Recovered {
    partition: Partition,
    /// First offset that the partition still has.
    start: Offset,
    /// End of the partition.
    end: Offset,
    /// Number of records, deferred copies included.
    calls: u64,
    accepted: u64,
    dead_letters: u64,
    parked: u64,
    /// Records that a later copy continues.
    deferred: u64,
    /// Calls without any of these: they may have been sent.
    ambiguous: u64,
    /// Calls without any of these that count as final, because their outcomes may have been deleted.
    final_unknown: u64,
    /// Offset to commit.
    commit: Offset,
}

#[derive(Serialize)]
struct Report<'a> {
    group: &'a str,
    topic: &'a str,
    partitions: &'a [Recovered],
}

pub(super) fn run(options: &RecoverGroup, config: &Config, json: bool) -> anyhow::Result<Status> {
    let (topic, group) = (config.topics.pending.as_str(), options.which.group.as_str());
    let terminal_topics = [
        (Terminal::Accepted, config.topics.processed.as_str()),
        (
            Terminal::DeadLetter(Rejection::Definite),
            config.topics.call_dead_letters.as_str(),
        ),
        (Terminal::Parked, config.topics.parked.as_str()),
    ];
    let found = MissingOffsets::find(config, group, &terminal_topics.map(|(_, name)| name))?;
    let id = found.outbox_id();

    let mut reading = GroupReader::new(&found, topic, group);
    // The outcomes first: what they end is then never held in memory.
    for (kind, name) in terminal_topics {
        for partition in found.reader.partitions(name)? {
            reading.terminals(kind, name, partition)?;
        }
    }
    let bounds = found
        .missing
        .iter()
        .map(|partition| Ok((*partition, reading.outbox(*partition)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    reading.progress.finish();
    let (ledger, unreadable) = (reading.ledger, reading.unreadable);
    let (skipped, outcome_gone) = (reading.skipped, reading.outcome_gone);
    let open = |partition| ledger.open(partition).map(|(_, last)| last);
    let count_open =
        |partition, of: &OffsetSet| open(partition).filter(|last| of.contains(*last)).count() as u64;
    let gone: u64 = outcome_gone
        .iter()
        .map(|(partition, of)| count_open(*partition, of))
        .sum();
    let final_unknown = match options.if_outcome_gone {
        Some(IfOutcomeGone::Final) => outcome_gone,
        Some(IfOutcomeGone::Ambiguous) => BTreeMap::new(),
        None if gone == 0 => BTreeMap::new(),
        None => bail!(if_outcome_gone(gone, &config.topics.processed)),
    };
    let none = OffsetSet::new();
    let recoveries = bounds
        .iter()
        .map(|(partition, bounds)| {
            let final_unknown = final_unknown.get(partition).unwrap_or(&none);
            let recovery = ledger.recover(*partition, *bounds, id.clone(), final_unknown);
            let recovery = recovery.with_context(|| {
                format!(
                    "recovering partition {partition} of {topic}; nothing was changed. Begin this group \
                     deliberately: `outbox group create --group {group} --at TIMESTAMP`"
                )
            })?;
            let mut shown = recovered(&ledger, *partition, *bounds, &recovery);
            shown.final_unknown = count_open(*partition, final_unknown);
            shown.calls += skipped.get(partition).copied().unwrap_or_default();
            Ok((shown, recovery))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let recovered: Vec<_> = recoveries.iter().map(|(shown, _)| shown.clone()).collect();

    // To standard error: the result on standard output may be redirected to a file.
    eprintln!("{}", table(&recovered));
    if unreadable > 0 {
        eprintln!(
            "{unreadable} outcomes, dead letters or parked records do not name a call and were ignored: the \
             calls they end are ambiguous."
        );
    }
    let ambiguous: u64 = recovered.iter().map(|recovered| recovered.ambiguous).sum();
    let final_unknown: u64 = recovered.iter().map(|recovered| recovered.final_unknown).sum();
    let question = format!(
        "Recover the group {group} on {} of {} partitions of {topic}? {}",
        recovered.len(),
        found.partitions.len(),
        consequence(ambiguous, final_unknown)
    );
    if !confirm(&question, options.yes)? {
        eprintln!("Nothing was changed.");
        return Ok(Status::Problem);
    }
    let commits = recoveries
        .iter()
        .map(commit_of)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let what = format!(
        "the group {group} recovered on {} partitions of {topic}, with {ambiguous} ambiguous calls, and \
         {final_unknown} that count as final without an outcome",
        recovered.len()
    );
    let change = Change {
        command: "group recover",
        what,
        done: "recovered",
    };
    found.commit(&commits, change)?;
    if json {
        print_json(&Report {
            group,
            topic,
            partitions: &recovered,
        })?;
    } else {
        println!(
            "The group {group} is recovered on {} partitions of {topic}. {} Start the callers.",
            recovered.len(),
            consequence(ambiguous, final_unknown)
        );
    }
    Ok(Status::Ok)
}

/// Describes what callers do with the calls without an outcome.
fn consequence(ambiguous: u64, final_unknown: u64) -> String {
    let unknown = match final_unknown {
        0 => String::new(),
        _ => {
            format!("{final_unknown} calls whose outcome may be gone count as final: no caller makes them. ")
        }
    };
    let others = match (ambiguous, final_unknown) {
        (0, 0) => "Each call is final.".into(),
        (0, _) => "Each other call is final.".into(),
        _ => format!(
            "{ambiguous} calls are ambiguous: they have no outcome, and may have been sent. The policy of the \
             caller decides on each: park parks it, verify looks it up and sends it if the API never saw it, \
             and retry sends it, which may charge twice."
        ),
    };
    format!("{unknown}{others}")
}

/// Describes the decision that the operator has to make first.
fn if_outcome_gone(calls: u64, processed: &str) -> String {
    format!(
        "{calls} calls have no outcome, and were admitted before the first one that {processed} still has, or about then: \
         they may have been accepted, and their outcomes deleted. Say by --if-outcome-gone what becomes of them: `final`: \
         no caller makes them; ask the provider, and make those that it has not charged by \
         `outbox replay plan --state unknown KEY…`. `ambiguous`: the callers' policy decides on each; park parks it, verify \
         looks it up, and retry sends it, and charges it again if it was accepted. Nothing was changed"
    )
}

fn recovered(ledger: &Ledger, partition: Partition, bounds: Bounds, recovery: &Recovery) -> Recovered {
    let counts = ledger.counts(partition);
    Recovered {
        partition,
        start: bounds.start,
        end: bounds.end,
        calls: counts.records,
        accepted: counts.accepted,
        dead_letters: counts.dead_letters,
        parked: counts.parked,
        deferred: counts.deferred,
        ambiguous: recovery.ambiguous,
        final_unknown: 0,
        commit: recovery.commit_position,
    }
}

fn commit_of((shown, recovery): &(Recovered, Recovery)) -> anyhow::Result<CommitOffset> {
    Ok(CommitOffset {
        partition: shown.partition,
        offset: recovery.commit_position,
        metadata: recovery.note.encode(recovery.commit_position)?,
        // The topics are taken as they are now.
        leader_epoch: None,
    })
}

/// Reader of the topics, into a ledger.
struct GroupReader<'a> {
    reader: &'a TopicsReader,
    topic: &'a str,
    group: &'a str,
    missing: &'a [Partition],
    ledger: Ledger,
    /// Numbers of copies for other groups, which callers of this group skip.
    skipped: BTreeMap<Partition, u64>,
    /// Number of terminal records that do not name a call.
    unreadable: u64,
    /// Outcomes that their topic still has.
    kept: KeptOutcomes,
    /// Records without a terminal record, of which an outcome may have been deleted.
    outcome_gone: BTreeMap<Partition, OffsetSet>,
    progress: Progress,
}

impl<'a> GroupReader<'a> {
    fn new(found: &'a MissingOffsets<'a>, topic: &'a str, group: &'a str) -> Self {
        Self {
            reader: &found.reader,
            topic,
            group,
            missing: &found.missing,
            ledger: Ledger::new(topic),
            skipped: BTreeMap::new(),
            unreadable: 0,
            kept: KeptOutcomes::default(),
            outcome_gone: BTreeMap::new(),
            progress: Progress::new(),
        }
    }

    fn terminals(&mut self, kind: Terminal, name: &str, partition: Partition) -> anyhow::Result<()> {
        let bounds = self.reader.settled_bounds(name, partition, &self.progress)?;
        let Self {
            ledger,
            group,
            missing,
            unreadable,
            kept,
            progress,
            ..
        } = self;
        let mut first = None;
        self.reader
            .offsets
            .read::<anyhow::Error>(name, partition, bounds, |record| {
                progress.read(name);
                first.get_or_insert(record.at);
                let named = group_of(kind, record);
                // Neither final nor ambiguous for this group: the one would lose calls, the other would repeat them if
                // the group was renamed. A test removes the guard.
                if let Some(other) = other_group(named.as_deref(), group)
                    && !guard_removed!("guard-recovered-group")
                {
                    bail!(foreign(name, partition, record.offset, other, group));
                }
                match call_of(kind, record) {
                    // Partitions that have an offset are not recovered.
                    Some(call) if missing.contains(&call.partition) => ledger
                        .terminal(kind, &call, record.key)
                        .with_context(|| refused(name, partition, record.offset)),
                    Some(_) => Ok(()),
                    // An operator's settlement of a parked call, whose outcome, dead letter or copy tells the same.
                    None if record.headers.last(settlement::SETTLES).is_some() => Ok(()),
                    None => {
                        *unreadable += 1;
                        Ok(())
                    }
                }
            })?;
        if kind == Terminal::Accepted {
            // Had more been deleted since, it would not have been read from its start.
            kept.partition(bounds.start, first.flatten());
        }
        Ok(())
    }

    /// Reads a partition of the outbox, and returns its bounds.
    fn outbox(&mut self, partition: Partition) -> anyhow::Result<Bounds> {
        let topic = self.topic;
        let bounds = self.reader.settled_bounds(topic, partition, &self.progress)?;
        let Self {
            ledger,
            group,
            skipped,
            kept,
            outcome_gone,
            progress,
            ..
        } = self;
        self.reader
            .offsets
            .read::<anyhow::Error>(topic, partition, bounds, |record| {
                progress.read(topic);
                // No caller calls a copy whose header it cannot read, and it ends no earlier record.
                let header = record.headers.last(continuation::CONTINUES).flatten();
                let continues = header.and_then(|value| Continuation::parse(value).ok());
                if other_group(continues.as_ref().map(|copy| copy.group.as_str()), group).is_some() {
                    *skipped.entry(partition).or_default() += 1;
                    return Ok(());
                }
                let first = continues
                    .as_ref()
                    .filter(|continues| !continues.repeats)
                    .map(|continues| &continues.call);
                let state = ledger
                    .pending(partition, record.offset, record.key, first)
                    .with_context(|| refused(topic, partition, record.offset))?;
                // A test removes the guard: a call then counts as one without an outcome whose outcome was deleted.
                if state == RecordState::Open
                    && !kept.has_all_of(record.key, admitted_at_of_header(&record.headers))
                    && !guard_removed!("guard-kept-outcomes")
                {
                    outcome_gone.entry(partition).or_default().insert(record.offset);
                }
                Ok(())
            })?;
        Ok(bounds)
    }
}

fn refused(topic: &str, partition: Partition, offset: Offset) -> String {
    format!(
        "reading {topic}/{partition}@{offset}; nothing was changed. Find out from the outcomes and the API's \
         records which calls were made, and begin the group deliberately with `outbox group create`"
    )
}

fn foreign(topic: &str, partition: Partition, offset: Offset, other: &str, group: &str) -> String {
    format!(
        "{topic}/{partition}@{offset} is of the group {other:?}, and the group {group:?} is to be recovered: these are \
         the topics of another group, or kafka.group_id was changed. Which calls {group:?} has made cannot be told \
         from them; nothing was changed. Run the command with the settings file of the callers of {group:?}; or, if \
         they are the callers of {other:?} under a new name, give them the old name and recover {other:?}; or begin \
         {group:?} deliberately with `outbox group create`"
    )
}

/// Returns the group of callers that a terminal record names.
fn group_of(kind: Terminal, record: &TopicRecord<'_>) -> Option<String> {
    match kind {
        Terminal::Accepted => Outcome::parse(record.value).ok()?.group,
        _ => {
            let header = record.headers.last(call_dead_letter::GROUP).flatten()?;
            Some(std::str::from_utf8(header).ok()?.to_owned())
        }
    }
}

/// Returns the record of the outbox that a terminal record names.
fn call_of(kind: Terminal, record: &TopicRecord<'_>) -> Option<Position> {
    // The last header of the name: an order that carries one cannot forge it.
    let header = record.headers.last(call_dead_letter::CALL).flatten();
    let text = header.and_then(|value| std::str::from_utf8(value).ok());
    match (text, kind) {
        (Some(text), _) => text.parse().ok(),
        // Outcomes name the call in their value, too.
        (None, Terminal::Accepted) => Outcome::parse(record.value).ok()?.call.parse().ok(),
        (None, Terminal::DeadLetter(_) | Terminal::Parked) => None,
    }
}

fn table(recovered: &[Recovered]) -> Table {
    let mut table = new_table([
        "partition",
        "start",
        "end",
        "calls",
        "accepted",
        "dead letters",
        "parked",
        "deferred",
        "ambiguous",
        "final, unknown",
        "commit",
    ]);
    for row in recovered {
        table.add_row([
            row.partition.to_string(),
            row.start.to_string(),
            row.end.to_string(),
            row.calls.to_string(),
            row.accepted.to_string(),
            row.dead_letters.to_string(),
            row.parked.to_string(),
            row.deferred.to_string(),
            row.ambiguous.to_string(),
            row.final_unknown.to_string(),
            row.commit.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call_records::record_with;

    fn named(kind: Terminal, header: Option<&[u8]>, value: &[u8]) -> Option<String> {
        let headers: Vec<_> = header
            .map(|of| (call_dead_letter::CALL, of))
            .into_iter()
            .collect();
        let record = record_with(&headers, value);
        call_of(kind, &record).map(|call| call.to_string())
    }

    #[test]
    fn terminal_record_names_its_call() {
        let outcome = Outcome::new("o".into(), "k".into(), "outbox/1@7".into()).to_json();
        let position = Some("outbox/1@8".to_owned());
        assert_eq!(named(Terminal::Parked, Some(b"outbox/1@8"), b""), position);
        assert_eq!(named(Terminal::Accepted, Some(b"outbox/1@8"), &outcome), position);
        let by_value = named(Terminal::Accepted, None, &outcome);
        assert_eq!(by_value.as_deref(), Some("outbox/1@7"));
        assert_eq!(
            named(Terminal::DeadLetter(Rejection::Definite), None, &outcome),
            None
        );
        assert_eq!(named(Terminal::Parked, Some(b"\xff"), b""), None);
    }

    #[test]
    fn terminal_record_names_its_group() {
        let mut outcome = Outcome::new("o".into(), "k".into(), "outbox/1@7".into());
        let named = |kind, value: &[u8], header: Option<&'static [u8]>| {
            let headers: Vec<_> = header
                .map(|of| (call_dead_letter::GROUP, of))
                .into_iter()
                .collect();
            let record = record_with(&headers, value);
            group_of(kind, &record)
        };
        assert_eq!(named(Terminal::Accepted, &outcome.to_json(), None), None);
        outcome.group = Some("a".into());
        let a = Some("a".to_owned());
        assert_eq!(named(Terminal::Accepted, &outcome.to_json(), None), a);
        assert_eq!(named(Terminal::Parked, b"", Some(b"a")), a);
        assert_eq!(named(Terminal::Parked, b"", None), None);
    }

    #[test]
    fn json_field_names_are_stable() {
        let mut ledger = Ledger::new("t");
        ledger
            .pending(Partition(0), Offset(4), b"k", None)
            .expect("no other key");
        let bounds = Bounds {
            start: Offset(3),
            end: Offset(6),
        };
        let recovery = ledger
            .recover(Partition(0), bounds, None, &OffsetSet::new())
            .expect("a note");
        let recovered = [recovered(&ledger, Partition(0), bounds, &recovery)];
        let json = serde_json::to_value(Report {
            group: "g",
            topic: "t",
            partitions: &recovered,
        });
        let expected = serde_json::json!({"group": "g", "topic": "t", "partitions": [{
            "partition": 0, "start": 3, "end": 6, "calls": 1, "accepted": 0, "dead_letters": 0, "parked": 0,
            "deferred": 0, "ambiguous": 1, "final_unknown": 0, "commit": 4,
        }]});
        assert_eq!(json.expect("JSON"), expected);
        assert!(table(&recovered).to_string().contains("dead letters"));
    }
}
