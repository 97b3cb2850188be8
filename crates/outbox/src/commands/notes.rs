//! `notes`: what the callers know of each partition of the outbox, as the next owner would read it.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use comfy_table::{ContentArrangement, Table};
use kafka::admin::Admin;
use kafka::offsets::{Committed, OffsetReader};
use records::call_note::CallNote;
use records::{Bounds, Offset, OffsetSet, Partition};
use serde::Serialize;

use crate::cli::Notes;
use crate::commands::{Answer, print_json};
use crate::config::Config;

const CLIENT_ID: &str = "outbox-command-line";
/// Offsets on which a transaction is pending are not told; one of a caller ends within this.
const RESPONSE_MAX: Duration = Duration::from_secs(15);
/// A table is for people: of more runs than this it says how many there are.
const RUNS_SHOWN_MAX: usize = 8;

/// What is noted of one partition.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Noted {
    partition: Partition,
    /// All calls before it are final; `None` if the group has never committed one.
    committed: Option<Offset>,
    /// The outbox's end, as far as transactions have ended.
    end: Offset,
    /// Runs of offsets from there on that are final already, or hold no call: the first, and the one behind the last.
    finals: Vec<(Offset, Offset)>,
    /// Runs of offsets of calls that have begun, and may have been processed.
    begun: Vec<(Offset, Offset)>,
    /// Why the note cannot be read; a caller would refuse the partition.
    unreadable: Option<String>,
}

pub(crate) fn run(which: &Notes, config: &Config, json: bool) -> anyhow::Result<Answer> {
    let (topic, group) = (&config.topics.pending, &which.group);
    let settings = config.connection_as(group);
    let admin = Admin::connect(&settings, CLIENT_ID)?;
    let described = admin.identities(&[topic], RESPONSE_MAX)?;
    let count = described
        .get(topic)
        .with_context(|| format!("there is no topic {topic:?}, the setting topics.pending"))?
        .partitions;
    let reader = OffsetReader::open(&settings, CLIENT_ID)?;
    let noted = reader
        .committed(topic, &partitions(which, topic, count)?, RESPONSE_MAX)?
        .into_iter()
        .map(|committed| {
            let bounds = reader.bounds(topic, committed.partition, RESPONSE_MAX)?;
            Ok(noted(committed, bounds))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    if noted.iter().all(|noted| noted.committed.is_none()) {
        bail!(
            "the group {group:?} has committed no offset of {topic:?}: no caller has run yet, its offsets have expired, \
             or --group is not the callers' setting kafka.group_id"
        );
    }
    if json {
        print_json(&noted)?;
    } else {
        println!("{}", table(&noted));
        for noted in &noted {
            if let Some(why) = &noted.unreadable {
                println!("partition {} of {topic}: {why}", noted.partition);
            }
        }
    }
    let is_sound = noted.iter().all(|noted| noted.unreadable.is_none());
    Ok(if is_sound { Answer::Sound } else { Answer::Unsound })
}

fn partitions(which: &Notes, topic: &str, count: usize) -> anyhow::Result<Vec<Partition>> {
    let count = i32::try_from(count).context("a number of partitions")?;
    if which.partition.is_empty() {
        return Ok((0..count).map(Partition).collect());
    }
    which
        .partition
        .iter()
        .map(|&partition| {
            ensure!(
                partition < count,
                "--partition is {partition}, and {topic} has the partitions 0 to {}",
                count - 1
            );
            Ok(Partition(partition))
        })
        .collect()
}

fn noted(committed: Committed, bounds: Bounds) -> Noted {
    let base = committed.offset.unwrap_or(bounds.start);
    let (note, unreadable) = match CallNote::decode(base, &committed.metadata) {
        Ok(note) => (note, None),
        Err(error) => (CallNote::default(), Some(error.to_string())),
    };
    Noted {
        partition: committed.partition,
        committed: committed.offset,
        end: bounds.end,
        finals: runs(&note.finals),
        begun: runs(&note.begun),
        unreadable,
    }
}

fn runs(set: &OffsetSet) -> Vec<(Offset, Offset)> {
    set.runs().collect()
}

fn table(noted: &[Noted]) -> Table {
    let mut table = Table::new();
    table
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(vec![
            "partition",
            "all final before",
            "final behind it",
            "begun, perhaps processed",
            "end",
        ]);
    for noted in noted {
        let of = |runs: &[(Offset, Offset)]| match noted.unreadable {
            None => text(runs),
            Some(_) => "unreadable".into(),
        };
        table.add_row(vec![
            noted.partition.to_string(),
            noted.committed.map_or("-".into(), |offset| offset.to_string()),
            of(&noted.finals),
            of(&noted.begun),
            noted.end.to_string(),
        ]);
    }
    table
}

/// Runs as people write them, with their last offset: `7, 9-12`.
fn text(runs: &[(Offset, Offset)]) -> String {
    let shown = runs.iter().take(RUNS_SHOWN_MAX).map(|(from, until)| {
        let last = until.0 - 1;
        if from.0 == last {
            from.to_string()
        } else {
            format!("{from}-{last}")
        }
    });
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if runs.len() > RUNS_SHOWN_MAX {
        text.push_str(&format!(
            ", and {} runs more (--json)",
            runs.len() - RUNS_SHOWN_MAX
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(metadata: &str) -> Committed {
        Committed {
            partition: Partition(3),
            offset: Some(Offset(100)),
            metadata: metadata.into(),
        }
    }

    #[test]
    fn a_note_is_read_as_the_next_owner_reads_it() {
        let note = CallNote {
            finals: [101, 102, 107].into_iter().map(Offset).collect(),
            begun: [100, 105].into_iter().map(Offset).collect(),
        };
        let metadata = note.encode(Offset(100)).expect("short");
        let bounds = Bounds {
            start: Offset(0),
            end: Offset(120),
        };
        let read = noted(committed(&metadata), bounds);
        assert_eq!(
            (text(&read.finals), text(&read.begun)),
            ("101-102, 107".to_owned(), "100, 105".to_owned())
        );
        assert_eq!(read.unreadable, None);
        let later = noted(committed("2:x"), bounds);
        assert!(
            later
                .unreadable
                .as_ref()
                .is_some_and(|why| why.contains("version 1")),
            "{later:?}"
        );
        assert!(table(&[later]).to_string().contains("unreadable"));
    }

    #[test]
    fn a_table_does_not_grow_with_the_runs() {
        let runs: Vec<_> = (0..100)
            .map(|run| (Offset(3 * run), Offset(3 * run + 1)))
            .collect();
        assert!(
            text(&runs).ends_with(", 21, and 92 runs more (--json)"),
            "{}",
            text(&runs)
        );
    }
}
