//! `dead-letters show`: all that is known of one order's dead letters.

use std::collections::VecDeque;

use kafka::group_offsets::ExactRecord;
use records::resubmission::Resubmission;
use records::{Offset, Partition};
use serde::Serialize;

use super::reading::{Content, DeadLetterReader, Kind, Letter};
use crate::cli::ShowDeadLetters;
use crate::commands::parked::time_of;
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::progress::Progress;
use crate::tables::{cell, printable};
use crate::timestamp::rfc3339;

/// Records of one order in the dead-letter topics. Its field names are those of the JSON output.
#[derive(Debug, Serialize)]
struct Shown {
    key: String,
    /// Number of its dead letters, also of those that are not shown.
    dead_letters: u64,
    /// Number of times that it was replayed.
    replays: u64,
    /// Records with this key, in their order.
    records: VecDeque<Record>,
}

#[derive(Debug, Serialize)]
struct Record {
    kind: Kind,
    /// Position of the record.
    at: String,
    /// Position of the dead letter that was replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    resubmits: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resubmission: Option<Resubmission>,
    /// Headers, in their order, as text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
    /// The order, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<String>,
}

pub(super) fn run(options: &ShowDeadLetters, config: &Config, json: bool) -> anyhow::Result<Status> {
    let reading = DeadLetterReader::open(config)?;
    let mut shown = Shown {
        key: options.key.clone(),
        dead_letters: 0,
        replays: 0,
        records: VecDeque::new(),
    };
    let mut progress = Progress::new();
    for kind in Kind::of(options.which) {
        for partition in &reading.partitions(*kind)? {
            let bounds = reading.bounds(*kind, *partition)?;
            // Of an order without a record key: a resubmission of it has no key either.
            let mut letters = records::OffsetSet::new();
            reading.read(*kind, *partition, bounds, |record, content| {
                progress.read(reading.topic(*kind));
                if let Some(record) = shown.take(*kind, *partition, record, content, &mut letters, &reading) {
                    shown.records.push_back(record);
                    if shown.records.len() > options.limit {
                        shown.records.pop_front();
                    }
                }
                Ok(())
            })?;
        }
    }
    progress.finish();
    if json {
        print_json(&shown)?;
    } else {
        print(&shown);
    }
    // For scripts: a key without a dead letter is most likely mistyped.
    Ok(if shown.records.is_empty() {
        Status::Problem
    } else {
        Status::Ok
    })
}

impl Shown {
    /// Counts a record, and returns it if it is of this key.
    fn take(
        &mut self,
        kind: Kind,
        partition: Partition,
        record: &ExactRecord<'_>,
        content: Content,
        letters: &mut records::OffsetSet,
        reading: &DeadLetterReader<'_>,
    ) -> Option<Record> {
        let position = |offset: Offset| format!("{}/{partition}@{offset}", reading.topic(kind));
        match content {
            Content::Resubmission(letter, resubmission) => letters.contains(letter).then(|| {
                self.replays += 1;
                Record {
                    kind,
                    at: position(record.offset),
                    resubmits: Some(position(letter)),
                    resubmission: Some(resubmission),
                    headers: Vec::new(),
                    order: None,
                }
            }),
            Content::Letter => {
                let letter = Letter {
                    kind,
                    partition,
                    record,
                };
                (letter.key() == self.key).then(|| {
                    letters.insert(record.offset);
                    self.dead_letters += 1;
                    of(position(record.offset), &letter)
                })
            }
        }
    }
}

fn of(at: String, letter: &Letter<'_>) -> Record {
    let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    Record {
        kind: letter.kind,
        at,
        resubmits: None,
        resubmission: None,
        headers: letter
            .record
            .headers
            .readable
            .iter()
            .map(|(name, value)| ((*name).to_owned(), text(*value)))
            .collect(),
        order: letter.record.value.map(|value| text(Some(value))),
    }
}

fn print(shown: &Shown) {
    let key = &shown.key;
    if shown.records.is_empty() {
        println!("{key} has no dead letter: check the spelling of the key.");
        return;
    }
    for record in &shown.records {
        if let (Some(letter), Some(resubmission)) = (&record.resubmits, &record.resubmission) {
            println!(
                "{}: {letter} replayed by {} at {}: {}",
                record.at,
                resubmission.by,
                rfc3339(Some(resubmission.at)),
                resubmission.reason
            );
            continue;
        }
        println!("{}: dead letter of the {}", record.at, record.kind.as_str());
        for (name, value) in &record.headers {
            println!("    {}: {}{}", cell(name), printable(value), time_of(name, value));
        }
        println!(
            "    order: {}",
            printable(record.order.as_deref().unwrap_or("none"))
        );
    }
    println!(
        "{key} has {} dead letters, and was replayed {} times.",
        shown.dead_letters, shown.replays
    );
}

#[cfg(test)]
mod tests {
    use records::Timestamp;
    use records::dead_letter;

    use super::super::reading::tests::{letter, record};
    use super::*;

    #[test]
    fn json_field_names_are_stable() {
        let record = record(4, Some("k"), &[(dead_letter::REASON, "not-json")], b"{");
        let resubmission = Record {
            kind: Kind::Order,
            at: "dead/1@6".into(),
            resubmits: Some("dead/1@4".into()),
            resubmission: Some(Resubmission::new(Timestamp(5), "a@b".into(), "r".into())),
            headers: Vec::new(),
            order: None,
        };
        let shown = Shown {
            key: "k".into(),
            dead_letters: 1,
            replays: 1,
            records: [of("dead/1@4".into(), &letter(&record)), resubmission].into(),
        };
        let expected = serde_json::json!({"key": "k", "dead_letters": 1, "replays": 1, "records": [
            {"kind": "order", "at": "dead/1@4", "headers": [["outbox-error-reason", "not-json"]], "order": "{"},
            {"kind": "order", "at": "dead/1@6", "resubmits": "dead/1@4",
             "resubmission": {"version": 1, "at": 5, "by": "a@b", "reason": "r"}},
        ]});
        assert_eq!(serde_json::to_value(&shown).expect("JSON"), expected);
    }
}
