//! `group create`: begins a callers' group whose offsets are missing, at a place that the operator chooses.
//! `group recover` rebuilds one that was lost.

mod recover;

use std::collections::BTreeSet;

use anyhow::{Context, bail, ensure};
use comfy_table::Table;
use kafka::admin::Admin;
use kafka::consumer::{CommitOffset, CommitResponse};
use kafka::group_offsets::{Counted, GroupOffsets};
use kafka::offsets::Committed;
use records::call_note::CallNote;
use records::{Bounds, Offset, Partition, Timestamp, TopicId};
use serde::Serialize;

use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT};
use crate::cli::{CreateGroup, GroupCommand};
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::confirm::confirm;
use crate::operations_log::{self, operation};
use crate::start_position::StartPosition;
use crate::tables::new_table;
use crate::timestamp::rfc3339;

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
    let settings = config.connection_as(group);
    let admin = Admin::connect(&settings, CLIENT_ID)?;
    let outbox = admin
        .identities(&[topic], REQUEST_TIMEOUT)?
        .remove(topic)
        .with_context(|| format!("the topic {topic:?} (setting topics.pending) does not exist"))?;
    let count = outbox.partitions;
    let partitions: Vec<Partition> = (0..i32::try_from(count)?).map(Partition).collect();
    let members = admin.group(group, topic, REQUEST_TIMEOUT)?.members.len();
    ensure!(
        members == 0,
        "the group {group:?} has {members} members, whose commits would mix with this one: stop all callers \
         of the group first (a killed one counts until its session timeout)"
    );
    let offsets = GroupOffsets::open(&settings, CLIENT_ID)?;
    let before = offsets.committed(topic, &partitions, REQUEST_TIMEOUT)?;
    let missing = without_offset(&before);
    // Committed offsets are the memory of the calls that were made, and never overwritten.
    ensure!(
        !missing.is_empty(),
        "the group {group:?} has a committed offset of each partition of {topic:?}: its callers continue \
         there, and nothing was changed. `outbox notes --group {group}` shows the offsets"
    );
    let begun = missing
        .iter()
        .map(|partition| plan(&offsets, topic, *partition, options.at))
        .collect::<anyhow::Result<Vec<_>>>()?;

    // To standard error: the result on standard output may be redirected to a file.
    eprintln!("{}", table(&begun));
    let calls: u64 = begun.iter().map(|begun| begun.calls).sum();
    let question = format!(
        "Begin the group {group} on {} of {count} partitions of {topic}? Its callers will make the {calls} \
         calls listed, and those that follow, but no copies that other groups have appended for themselves; a call \
         that was made before is made again, and those before `from` are never made.",
        begun.len()
    );
    if !confirm(&question, options.yes)? {
        eprintln!("Nothing was changed.");
        return Ok(Status::Problem);
    }
    // A caller, or a second operator, may have committed since. While a caller is in the group, the
    // coordinator refuses the commit below.
    ensure!(
        offsets.committed(topic, &partitions, REQUEST_TIMEOUT)? == before,
        "the offsets of the group {group:?} have changed since they were listed: someone else has begun it, \
         and nothing was changed here. Run the command again to see what is missing"
    );
    // As of the start: if the outbox was created again since, its callers halt.
    let id = TopicId::new(&outbox.id);
    let commits = begun
        .iter()
        .map(|begun| commit_of(begun, id.clone()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let what = format!(
        "the group {group} begun on {} partitions of {topic}, with {calls} calls to make",
        begun.len()
    );
    operations_log::write(config, &[operation("group create", what, None)])?;
    check_commit(offsets.commit(topic, &commits), group, "begun")?;
    let after = offsets.committed(topic, &missing, REQUEST_TIMEOUT)?;
    check_read_back(&commits, &after)?;
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

fn without_offset(committed: &[Committed]) -> Vec<Partition> {
    let missing = committed.iter().filter(|committed| committed.offset.is_none());
    missing.map(|committed| committed.partition).collect()
}

fn plan(
    offsets: &GroupOffsets,
    topic: &str,
    partition: Partition,
    at: StartPosition,
) -> anyhow::Result<Begun> {
    let bounds = offsets.bounds(topic, partition, REQUEST_TIMEOUT)?;
    let found = match at {
        StartPosition::Time(time) => offsets.offset_at(topic, partition, time, REQUEST_TIMEOUT)?,
        StartPosition::Beginning | StartPosition::End => None,
    };
    let from = from(at, found, bounds);
    let counted = offsets.count(
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

/// Checks that the group is `done`, and that nothing of its commit can arrive later.
fn check_commit(response: CommitResponse, group: &str, done: &str) -> anyhow::Result<()> {
    let not_done = || {
        format!(
            "the group is not {done}, or not on each partition: stop all callers of the group, and run the \
             command again, which leaves existing offsets as they are"
        )
    };
    let Some(why) = response.request_in_flight else {
        return response.result.with_context(not_done);
    };
    // Members fence it, but each time all callers are stopped it is accepted again.
    let in_flight = format!(
        "a request of this commit may still be in flight: {why}. Whenever it arrives while the group {group:?} has \
         no members, it puts the group back to the offsets listed above, and calls that were made since are made \
         again. Start no caller yet: restart the broker that coordinates the group (`kafka-consumer-groups.sh \
         --describe --state --group {group}` shows it), after which nothing of the request remains. Then look with \
         `outbox notes --group {group}`:"
    );
    match response.result {
        Ok(()) => bail!("{in_flight} the group is {done} if its offsets are those listed"),
        Err(error) => Err(error).context(format!(
            "{in_flight} the group may be {done}, or not on each partition; run the command again if offsets \
             are missing"
        )),
    }
}

fn check_read_back(commits: &[CommitOffset], after: &[Committed]) -> anyhow::Result<()> {
    let read: BTreeSet<_> = after
        .iter()
        .map(|read| (read.partition, read.offset, read.metadata.as_str()))
        .collect();
    for commit in commits {
        if !read.contains(&(commit.partition, Some(commit.offset), commit.metadata.as_str())) {
            bail!(
                "the coordinator took offset {} of partition {}, and does not return it: someone else \
                 commits to the group. Stop that, and look with `outbox notes` before callers are started",
                commit.offset,
                commit.partition
            );
        }
    }
    Ok(())
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
    use kafka::ClientError;

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
    fn existing_offsets_are_left_alone() {
        let committed = |partition, offset: Option<i64>| Committed {
            partition: Partition(partition),
            offset: offset.map(Offset),
            metadata: String::new(),
            leader_epoch: None,
        };
        let found = [committed(0, None), committed(1, Some(0)), committed(2, None)];
        assert_eq!(without_offset(&found), [Partition(0), Partition(2)]);
    }

    #[test]
    fn foreign_commit_is_found_when_reading_back() {
        let begun = begun(Partition(0), Offset(7), BOUNDS, Counted::default());
        let commits = [commit_of(&begun, TopicId::new("id")).expect("a commit")];
        let read = |offset: Option<i64>, metadata: &str| {
            let read = Committed {
                partition: Partition(0),
                offset: offset.map(Offset),
                metadata: metadata.into(),
                leader_epoch: None,
            };
            check_read_back(&commits, &[read]).is_ok()
        };
        assert!(read(Some(7), "2:id::"));
        assert!(!read(Some(8), "2:id::") && !read(Some(7), "2:other::") && !read(None, ""));
        assert!(check_read_back(&commits, &[]).is_err());
    }

    #[test]
    fn commit_in_flight_is_no_success() {
        let check = |result, in_flight: Option<&str>| {
            let response = CommitResponse {
                result,
                request_in_flight: in_flight.map(str::to_owned),
            };
            check_commit(response, "g", "begun").map_err(|error| format!("{error:#}"))
        };
        let refused = || Err(ClientError::refused("committing"));
        assert_eq!(check(Ok(()), None), Ok(()));
        let text = check(refused(), None).expect_err("refused");
        assert!(
            text.contains("not begun") && !text.contains("in flight"),
            "{text}"
        );
        for result in [Ok(()), refused()] {
            let text = check(result, Some("no response")).expect_err("unknown");
            let words = ["no response", "Start no caller", "--group g", "`outbox notes"];
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
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
