//! `notes`: the call notes of each outbox partition, as the next owner of the partition reads them.

use anyhow::{Context, bail, ensure};
use comfy_table::Table;
use kafka::admin::Admin;
use kafka::offsets::{Committed, OffsetReader};
use records::call_note::CallNote;
use records::{Bounds, Offset, OffsetSet, Partition, TopicId};
use serde::Serialize;

use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT};
use crate::call_records::loaded_notes;
use crate::cli::Notes;
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::tables::new_table;

/// Maximum number of offset ranges per table cell; the rest is counted. `--json` has all.
const RUNS_SHOWN_MAX: usize = 8;

/// Call notes of one partition. Its field names are those of the JSON output.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Noted {
    partition: Partition,
    /// Commit position: all calls below it are final. `None` if the group has committed no offset.
    committed: Option<Offset>,
    /// End of the partition under `read_committed`.
    end: Offset,
    /// Ranges of offsets beyond the commit position that are final or hold no call, each with its end
    /// excluded.
    finals: Vec<(Offset, Offset)>,
    /// Ranges of offsets of calls whose intent is recorded, and which may have been processed.
    intents: Vec<(Offset, Offset)>,
    /// Id of the outbox that the notes count in; `None` if an earlier version of the caller, or an operator,
    /// has committed the offset.
    outbox_id: Option<String>,
    /// The notes can be read.
    #[serde(skip)]
    is_readable: bool,
    /// Reason for which a caller halts the partition.
    halts: Option<String>,
    /// What an operator does about it.
    repair: Option<String>,
}

pub(crate) fn run(which: &Notes, config: &Config, json: bool) -> anyhow::Result<Status> {
    // Reads as the callers' group without joining it: a member would trigger a rebalance and stop the
    // callers.
    let (topic, group) = (&config.topics.pending, &which.which.group);
    let settings = config.connection_as(group);
    let admin = Admin::connect(&settings, CLIENT_ID)?;
    let described = admin.identities(&[topic], REQUEST_TIMEOUT)?;
    let outbox = described
        .get(topic)
        .with_context(|| format!("the topic {topic:?} (setting topics.pending) does not exist"))?;
    let id_now = TopicId::new(&outbox.id);
    let reader = OffsetReader::open(&settings, CLIENT_ID)?;
    // One request for offsets and notes of all partitions, as the callers make it: the two belong together.
    let noted = reader
        .committed(
            topic,
            &partitions(which, topic, outbox.partitions)?,
            REQUEST_TIMEOUT,
        )?
        .into_iter()
        .map(|committed| {
            let bounds = reader.bounds(topic, committed.partition, REQUEST_TIMEOUT)?;
            Ok(noted(committed, bounds, id_now.as_ref(), (group, topic)))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    // An error and not an empty table: a wrong group would look like a pipeline without open calls.
    if noted.iter().all(|noted| noted.committed.is_none()) {
        bail!(
            "the group {group:?} has no committed offset of {topic:?}: no caller has run yet, the offsets \
             have expired, or --group differs from the callers' setting kafka.group_id"
        );
    }
    if json {
        print_json(&noted)?;
    } else {
        println!("{}", table(&noted));
        for noted in &noted {
            if let (Some(why), Some(repair)) = (&noted.halts, &noted.repair) {
                println!(
                    "partition {} of {topic}, which callers halt: {why}. {repair}",
                    noted.partition
                );
            }
        }
    }
    Ok(if noted.iter().all(|noted| noted.halts.is_none()) {
        Status::Ok
    } else {
        Status::Problem
    })
}

fn partitions(which: &Notes, topic: &str, count: usize) -> anyhow::Result<Vec<Partition>> {
    let count = i32::try_from(count).context("the partition count exceeds 2^31")?;
    if which.partition.is_empty() {
        return Ok((0..count).map(Partition).collect());
    }
    which
        .partition
        .iter()
        .map(|&partition| {
            ensure!(
                partition < count,
                "--partition is {partition}, but {topic} has the partitions 0 to {}",
                count - 1
            );
            Ok(Partition(partition))
        })
        .collect()
}

fn noted(
    committed: Committed,
    bounds: Bounds,
    id_now: Option<&TopicId>,
    (group, topic): (&str, &str),
) -> Noted {
    let (partition, offset) = (committed.partition, committed.offset);
    // Notes count from the committed offset. Without one there are none, and the base does not matter.
    let decoded = CallNote::decode(offset.unwrap_or(bounds.start), &committed.metadata);
    let why = loaded_notes(committed, bounds, id_now).start_position().err();
    let is_readable = decoded.is_ok();
    // Shown beside the other partitions: an operator needs the whole picture to decide.
    let note = decoded.unwrap_or_default();
    Noted {
        partition,
        committed: offset,
        end: bounds.end,
        finals: runs(&note.finals),
        intents: runs(&note.intents),
        outbox_id: note.outbox.map(|id| id.to_string()),
        is_readable,
        repair: why.as_ref().map(|why| why.repair(group, topic, partition)),
        halts: why.map(|why| why.to_string()),
    }
}

fn runs(set: &OffsetSet) -> Vec<(Offset, Offset)> {
    set.runs().collect()
}

fn table(noted: &[Noted]) -> Table {
    let mut table = new_table([
        "partition",
        "all final below",
        "final beyond",
        "intent recorded, perhaps processed",
        "end",
    ]);
    for noted in noted {
        // An empty cell would read as "no such calls".
        let of = |runs: &[(Offset, Offset)]| match noted.is_readable {
            true => text(runs),
            false => "unreadable".into(),
        };
        table.add_row(vec![
            noted.partition.to_string(),
            noted.committed.map_or("-".into(), |offset| offset.to_string()),
            of(&noted.finals),
            of(&noted.intents),
            noted.end.to_string(),
        ]);
    }
    table
}

/// Formats ranges with their last offset included: `7, 9-12`.
fn text(runs: &[(Offset, Offset)]) -> String {
    let shown = runs.iter().take(RUNS_SHOWN_MAX).map(|(from, until)| {
        // Ranges exclude their end, as in the call notes; people expect the last offset.
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
            ", and {} more ranges (--json)",
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
            leader_epoch: None,
        }
    }

    #[test]
    fn notes_are_decoded_or_reported_unreadable() {
        let note = CallNote {
            outbox: TopicId::new("old"),
            finals: [101, 102, 107].into_iter().map(Offset).collect(),
            intents: [100, 105].into_iter().map(Offset).collect(),
        };
        let metadata = note.encode(Offset(100)).expect("short");
        let bounds = Bounds {
            start: Offset(0),
            end: Offset(120),
        };
        let noted = |metadata: &str, id_now| {
            let id_now = TopicId::new(id_now);
            noted(
                committed(metadata),
                bounds,
                id_now.as_ref(),
                ("callers", "outbox"),
            )
        };
        let read = noted(&metadata, "old");
        assert_eq!(
            (read.halts.as_deref(), read.outbox_id.as_deref()),
            (None, Some("old"))
        );
        assert_eq!(
            (text(&read.finals), text(&read.intents)),
            ("101-102, 107".to_owned(), "100, 105".to_owned())
        );
        let recreated = noted(&metadata, "new");
        assert!(recreated.halts.is_some_and(|why| why.contains("created again")));
        assert!(
            recreated
                .repair
                .is_some_and(|repair| repair.contains("--delete-offsets"))
        );
        // Of an earlier version.
        assert_eq!(noted("1:bAg:", "new").halts, None);
        let later = noted("3:x", "new");
        assert!(
            later.halts.as_ref().is_some_and(|why| why.contains("version 1")),
            "{later:?}"
        );
        assert!(table(&[later]).to_string().contains("unreadable"));
    }

    #[test]
    fn table_shows_a_limited_number_of_ranges() {
        let runs: Vec<_> = (0..100)
            .map(|run| (Offset(3 * run), Offset(3 * run + 1)))
            .collect();
        assert!(
            text(&runs).ends_with(", 21, and 92 more ranges (--json)"),
            "{}",
            text(&runs)
        );
    }
}
