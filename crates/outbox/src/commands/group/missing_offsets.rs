//! Partitions of the outbox for which a callers' group has no committed offset: how `group create` and `group recover`
//! find them, and give them one.

use std::collections::BTreeSet;

use anyhow::{Context, bail, ensure};
use kafka::admin::Admin;
use kafka::consumer::{CommitOffset, CommitResponse};
use kafka::offsets::Committed;
use records::{Partition, TopicId};

use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT};
use crate::config::Config;
use crate::operations_log::{self, operation};
use crate::topics_reader::TopicsReader;

/// Partitions for which a group has no committed offset, and the reader that found them.
pub(super) struct MissingOffsets<'a> {
    config: &'a Config,
    group: &'a str,
    /// Reader of the outbox, and of the other topics that were named.
    pub(super) reader: TopicsReader,
    /// All partitions of the outbox.
    pub(super) partitions: Vec<Partition>,
    /// Those without a committed offset; at least one.
    pub(super) missing: Vec<Partition>,
    /// Committed offsets as they were found.
    before: Vec<Committed>,
}

/// What a command changes.
pub(super) struct Change {
    /// Name of the command, for the operations.
    pub(super) command: &'static str,
    /// What it does, for the operations.
    pub(super) what: String,
    /// What the group is afterwards, such as "begun".
    pub(super) done: &'static str,
}

impl<'a> MissingOffsets<'a> {
    /// Looks for the partitions without an offset. `others` are topics that the command reads beside the outbox.
    ///
    /// # Errors
    /// The group has members, or an offset of each partition; or the brokers cannot be asked.
    pub(super) fn find(config: &'a Config, group: &'a str, others: &[&str]) -> anyhow::Result<Self> {
        let topic = config.topics.pending.as_str();
        let settings = config.connection_as(group);
        let admin = Admin::connect(&settings, CLIENT_ID)?;
        let reader = TopicsReader::with(&admin, &settings, &[&[topic], others].concat())?;
        let partitions = reader.partitions(topic)?;
        let members = admin.group(group, topic, REQUEST_TIMEOUT)?.members.len();
        ensure!(
            members == 0,
            "the group {group:?} has {members} members, which still make calls, and whose commits would mix with this \
             one: stop all callers of the group first (a killed one counts until its session timeout)"
        );
        let before = reader.offsets.committed(topic, &partitions, REQUEST_TIMEOUT)?;
        let missing = without_offset(&before);
        // Committed offsets are the memory of the calls that were made, and never overwritten.
        ensure!(
            !missing.is_empty(),
            "the group {group:?} has a committed offset of each partition of {topic:?}: its callers continue \
             there, and nothing was changed. `outbox notes --group {group}` shows the offsets"
        );
        Ok(Self {
            config,
            group,
            reader,
            partitions,
            missing,
            before,
        })
    }

    /// Returns the id of the outbox as of the start: if it is created again meanwhile, its callers halt.
    pub(super) fn outbox_id(&self) -> Option<TopicId> {
        let outbox = self.reader.identity(&self.config.topics.pending)?;
        TopicId::new(&outbox.id)
    }

    /// Commits the offsets of the partitions that had none, with a record of the operation, and reads them back.
    ///
    /// # Errors
    /// An offset has changed since; the commit failed, or its outcome is unknown; or someone else commits to the group.
    pub(super) fn commit(&self, commits: &[CommitOffset], change: Change) -> anyhow::Result<()> {
        let (topic, group) = (self.config.topics.pending.as_str(), self.group);
        let offsets = &self.reader.offsets;
        // A caller, or a second operator, may have committed since. While a caller is in the group, the
        // coordinator refuses the commit below.
        ensure!(
            offsets.committed(topic, &self.partitions, REQUEST_TIMEOUT)? == self.before,
            "the offsets of the group {group:?} have changed since they were listed: someone else has begun it, \
             and nothing was changed here. Run the command again to see what is missing"
        );
        operations_log::write(self.config, &[operation(change.command, change.what, None)])?;
        check_commit(offsets.commit(topic, commits), group, change.done)?;
        let after = offsets.committed(topic, &self.missing, REQUEST_TIMEOUT)?;
        check_read_back(commits, &after)
    }
}

fn without_offset(committed: &[Committed]) -> Vec<Partition> {
    let missing = committed.iter().filter(|committed| committed.offset.is_none());
    missing.map(|committed| committed.partition).collect()
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

#[cfg(test)]
mod tests {
    use kafka::ClientError;
    use records::Offset;

    use super::*;

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
        let commits = [CommitOffset {
            partition: Partition(0),
            offset: Offset(7),
            metadata: "2:id::".into(),
            leader_epoch: None,
        }];
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
}
