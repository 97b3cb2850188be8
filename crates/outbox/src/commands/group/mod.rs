//! `group create`: begins a callers' group whose offsets are missing, at a place that the operator chooses.
//! `group recover` rebuilds one that was lost.

mod missing_offsets;
mod recover;

use comfy_table::Table;
use kafka::consumer::CommitOffset;
use kafka::group_offsets::Counted;
use records::call_note::CallNote;
use records::{Bounds, Offset, Partition, Timestamp, TopicId};
use serde::Serialize;

use self::missing_offsets::{Change, MissingOffsets};
use crate::brokers::REQUEST_TIMEOUT;
use crate::cli::{CreateGroup, GroupCommand};
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::confirm::confirm;
use crate::start_position::StartPosition;
use crate::tables::new_table;
use crate::timestamp::rfc3339;
use crate::topics_reader::TopicsReader;

/// Partition at which the group begins. Its field names are those of the JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Begun {
    partition: Partition,
    /// First offset that the partition still has.
    start: Offset,
    /// Offset to commit: the first one that is called.
    from: Offset,
    /// End of the partition under `read_committed`.
    end: Offset,
    /// Number of records from there on.
    calls: u64,
    /// Timestamps of the first and the last of them.
    first_at: Option<Timestamp>,
    last_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct Created<'a> {
    group: &'a str,
    topic: &'a str,
    partitions: &'a [Begun],
}

pub(crate) fn run(command: &GroupCommand, config: &Config, json: bool) -> anyhow::Result<Status> {
    match command {
        GroupCommand::Create(options) => create(options, config, json),
        GroupCommand::Recover(options) => recover::run(options, config, json),
    }
}

fn create(options: &CreateGroup, config: &Config, json: bool) -> anyhow::Result<Status> {
    let (topic, group) = (config.topics.pending.as_str(), options.which.group.as_str());
    let found = MissingOffsets::find(config, group, &[])?;
    let begun = found
        .missing
        .iter()
        .map(|partition| plan(&found.reader, topic, *partition, options.at))
        .collect::<anyhow::Result<Vec<_>>>()?;

    // To standard error: the result on standard output may be redirected to a file.
    eprintln!("{}", table(&begun));
    let calls: u64 = begun.iter().map(|begun| begun.calls).sum();
    let question = format!(
        "Begin the group {group} on {} of {} partitions of {topic}? Its callers will make the {calls} \
         calls listed, and those that follow, but no copies that other groups have appended for themselves; a call \
         that was made before is made again, and those before `from` are never made.",
        begun.len(),
        found.partitions.len()
    );
    if !confirm(&question, options.yes)? {
        eprintln!("Nothing was changed.");
        return Ok(Status::Problem);
    }
    let id = found.outbox_id();
    let commits = begun
        .iter()
        .map(|begun| commit_of(begun, id.clone()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let what = format!(
        "the group {group} begun on {} partitions of {topic}, with {calls} calls to make",
        begun.len()
    );
    let change = Change {
        command: "group create",
        what,
        done: "begun",
    };
    found.commit(&commits, change)?;
    if json {
        print_json(&Created {
            group,
            topic,
            partitions: &begun,
        })?;
    } else {
        println!(
            "The group {group} has begun on {} partitions of {topic}, with {calls} calls to make. Start the \
             callers.",
            begun.len()
        );
    }
    Ok(Status::Ok)
}

fn plan(
    reader: &TopicsReader,
    topic: &str,
    partition: Partition,
    at: StartPosition,
) -> anyhow::Result<Begun> {
    let bounds = reader.bounds(topic, partition)?;
    let found = match at {
        StartPosition::Time(time) => reader
            .offsets
            .offset_at(topic, partition, time, REQUEST_TIMEOUT)?,
        StartPosition::Beginning | StartPosition::End => None,
    };
    let from = from(at, found, bounds);
    let counted = reader.offsets.count(
        topic,
        partition,
        Bounds {
            start: from,
            end: bounds.end,
        },
    )?;
    Ok(begun(partition, from, bounds, counted))
}

/// Returns the offset to begin at; `found` is the first one at the time, if a record is that late.
fn from(at: StartPosition, found: Option<Offset>, bounds: Bounds) -> Offset {
    match at {
        StartPosition::Beginning => bounds.start,
        StartPosition::End => bounds.end,
        // The bounds are older than the search: a record may have come since, or be deleted.
        StartPosition::Time(_) => found.map_or(bounds.end, |offset| offset.max(bounds.start).min(bounds.end)),
    }
}

fn begun(partition: Partition, from: Offset, bounds: Bounds, counted: Counted) -> Begun {
    Begun {
        partition,
        start: bounds.start,
        from,
        end: bounds.end,
        calls: counted.records,
        first_at: counted.first_at,
        last_at: counted.last_at,
    }
}

fn commit_of(begun: &Begun, outbox: Option<TopicId>) -> anyhow::Result<CommitOffset> {
    // No call from there on has begun or is final.
    let note = CallNote {
        outbox,
        ..CallNote::default()
    };
    Ok(CommitOffset {
        partition: begun.partition,
        offset: begun.from,
        metadata: note.encode(begun.from)?,
        // The operator's offset is accepted as it is.
        leader_epoch: None,
    })
}

fn table(begun: &[Begun]) -> Table {
    let mut table = new_table([
        "partition",
        "start",
        "from",
        "end",
        "calls to make",
        "first of them",
        "last of them",
    ]);
    for begun in begun {
        table.add_row(vec![
            begun.partition.to_string(),
            begun.start.to_string(),
            begun.from.to_string(),
            begun.end.to_string(),
            begun.calls.to_string(),
            rfc3339(begun.first_at),
            rfc3339(begun.last_at),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        start: Offset(5),
        end: Offset(9),
    };

    #[test]
    fn group_begins_within_the_bounds() {
        let at = StartPosition::Time(Timestamp(0));
        assert_eq!(from(StartPosition::Beginning, None, BOUNDS), Offset(5));
        assert_eq!(from(StartPosition::End, None, BOUNDS), Offset(9));
        assert_eq!(from(at, Some(Offset(7)), BOUNDS), Offset(7));
        assert_eq!(from(at, Some(Offset(3)), BOUNDS), Offset(5));
        assert_eq!(from(at, Some(Offset(12)), BOUNDS), Offset(9));
        assert_eq!(from(at, None, BOUNDS), Offset(9));
    }

    #[test]
    fn json_field_names_are_stable() {
        let counted = Counted {
            records: 2,
            first_at: Some(Timestamp(1)),
            last_at: Some(Timestamp(2)),
        };
        let begun = [begun(Partition(0), Offset(7), BOUNDS, counted)];
        let json = serde_json::to_value(Created {
            group: "g",
            topic: "t",
            partitions: &begun,
        });
        let expected = serde_json::json!({"group": "g", "topic": "t", "partitions": [{
            "partition": 0, "start": 5, "from": 7, "end": 9, "calls": 2, "first_at": 1, "last_at": 2,
        }]});
        assert_eq!(json.expect("JSON"), expected);
        assert!(table(&begun).to_string().contains("calls to make"));
    }
}
