//! `state rebuild`: appends to the changelog the entries that it has lost, as the outbox shows them.

use anyhow::{Context, bail, ensure};
use kafka::admin::Admin;
use kafka::changelog::ChangelogReader;
use kafka::consumer::CommitOffset;
use kafka::group_offsets::GroupOffsets;
use kafka::producer::transactional::TransactionEnd;
use kafka::topic_ids::TopicIdentity;
use kafka::{KafkaSettings, OutgoingRecord, TransactionalProducer};
use records::entry::EncodedEntry;
use records::{Forgotten, Offset, Partition, Timestamp, TopicId, Topics, TopicsNote};
use serde::Serialize;

use super::comparison::{Compared, Comparison, table};
use super::forgotten_offsets::ForgottenOffsets;
use super::{ENTRIES_MAX, ensure_no_validator, open_producer, partitions, repartition};
use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT, expect_known};
use crate::cli::RebuildState;
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::confirm::confirm;
use crate::operations_log::{self, operation};

#[derive(Serialize)]
struct Rebuilt<'a> {
    changelog: &'a str,
    partitions: &'a [Compared],
    /// Number of entries appended.
    appended: u64,
    /// Partitions whose committed offset named another changelog, and names this one now.
    confirmed: Vec<Partition>,
}

pub(super) fn run(options: &RebuildState, config: &Config, json: bool) -> anyhow::Result<Status> {
    config.expect_validators("state rebuild")?;
    let (topics, settings) = (&config.topics, config.connection_as(&options.validators));
    let admin = Admin::connect(&settings, CLIENT_ID)?;
    let (partitions, changelog) = partitions(&admin, topics)?;
    if !options.new_group {
        let group = admin.group(&options.validators, &topics.orders, REQUEST_TIMEOUT)?;
        let why = "validators of another group may be running, and would halt on the rebuilt changelog";
        expect_known(&group, &options.validators, "validators", "--validators", why)?;
    }
    ensure_no_validator(&admin, topics, &options.validators)?;
    // Before anything is read.
    let producer = open_producer(&settings, &admin, topics)?;
    let reader = ChangelogReader::open(&settings, &topics.changelog)?;
    let topic = Comparison {
        reader,
        topics,
        amount: config.order.amount(),
        fingerprint: &config.validator.fingerprint,
        forgotten: ForgottenOffsets::read(&settings, topics, &partitions, &changelog)?,
    };

    let compared = topic.compare_all(&partitions)?;
    eprintln!("{}", table(&compared));
    let missing: u64 = compared.iter().map(|compared| compared.missing).sum();
    let gaps = compared.iter().filter(|compared| compared.gap.is_some()).count();
    if gaps > 0 && !options.accept_gap {
        eprintln!(
            "The outbox no longer has all orders that followed the last entry of the changelog on {gaps} \
             partitions: their keys are in neither, and each such order would be admitted again if it is sent \
             again. Nothing was changed. A store of these partitions may still have the keys: keep the state \
             directories. If the orders cannot come again, run the command with --accept-gap."
        );
        return Ok(Status::Problem);
    }
    let mut appended = 0;
    if missing > 0 {
        let question = format!(
            "Append {missing} entries to {}? The validators will treat these orders as duplicates if they are \
             sent again. Their fingerprints are made for validator.fingerprint = {}: if the validators have another, \
             run the command with their settings file.",
            topics.changelog, config.validator.fingerprint
        );
        if !confirm(&question, options.yes)? {
            eprintln!("Nothing was changed.");
            return Ok(Status::Problem);
        }
        ensure_no_validator(&admin, topics, &options.validators)?;
        let what = format!("{missing} entries to be appended to {}", topics.changelog);
        operations_log::write(config, &[operation("state rebuild", what, None)])?;
        for partition in compared.iter().filter(|compared| compared.missing > 0) {
            appended += topic.append(partition.partition, &producer)?;
        }
        let left: u64 = topic
            .compare_all(&partitions)?
            .iter()
            .map(|left| left.missing)
            .sum();
        ensure!(
            left == 0,
            "the changelog {} still lacks {left} entries after {appended} were appended: something else writes \
             to these topics. Stop it, and run the command again before a validator is started",
            topics.changelog
        );
    }
    let moved = repartition::move_rebuilt(config, &admin, &settings, &partitions, &producer)?;
    if moved > 0 {
        eprintln!("{moved} entries were appended for keys that have another partition than their orders");
    }
    // Last: before, the validators would halt on the changelog's id, and now they may go on.
    let confirmed = confirm_changelog(&settings, topics, &partitions, &changelog)?;
    if json {
        print_json(&Rebuilt {
            changelog: &topics.changelog,
            partitions: &compared,
            appended,
            confirmed,
        })?;
    } else {
        println!(
            "{} has each key of {}; {appended} entries were appended. Remove the state directories of all \
             validators before they are started: a store that was equal to the changelog before is not trusted.",
            topics.changelog, topics.pending
        );
    }
    Ok(Status::Ok)
}

impl Comparison<'_> {
    /// Appends the missing entries of a partition, and returns their number.
    fn append(&self, partition: Partition, producer: &TransactionalProducer) -> anyhow::Result<u64> {
        let (mut batch, mut appended) = (Vec::new(), 0);
        self.visit_missing(partition, |key, entry, recorded| {
            batch.push((Box::<[u8]>::from(key), entry.encode(), recorded));
            if batch.len() == ENTRIES_MAX {
                appended += self.commit(partition, producer, &batch)?;
                batch.clear();
            }
            Ok(())
        })?;
        if !batch.is_empty() {
            appended += self.commit(partition, producer, &batch)?;
        }
        eprintln!("partition {partition}: {appended} entries appended");
        Ok(appended)
    }

    fn commit(
        &self,
        partition: Partition,
        producer: &TransactionalProducer,
        batch: &[(Box<[u8]>, EncodedEntry, Timestamp)],
    ) -> anyhow::Result<u64> {
        producer.begin()?;
        for (key, entry, recorded) in batch {
            producer.send(OutgoingRecord {
                topic: &self.topics.changelog,
                partition: Some(partition),
                key: Some(key),
                value: Some(entry),
                headers: None,
                at: Some(*recorded),
            })?;
        }
        match producer.end_without_offsets(|| ()) {
            TransactionEnd::Committed { .. } => Ok(u64::try_from(batch.len())?),
            TransactionEnd::CommittedRetireProducer { why, .. } => {
                bail!("entries were appended to partition {partition}, and the producer cannot continue: {why}. Run the command again")
            }
            TransactionEnd::Aborted(error) | TransactionEnd::Unknown(error) => {
                Err(anyhow::Error::new(error).context(format!(
                    "appending entries to {}/{partition} failed; if a second operator runs this command, leave \
                     it to that one, otherwise run it again: it appends only what is missing",
                    self.topics.changelog
                )))
            }
        }
    }
}

/// Has the committed offsets name the changelog as it is now, and returns their partitions. A validator halts on
/// an offset that was committed with another changelog.
fn confirm_changelog(
    settings: &KafkaSettings,
    topics: &Topics,
    partitions: &[Partition],
    changelog: &TopicIdentity,
) -> anyhow::Result<Vec<Partition>> {
    let offsets = GroupOffsets::open(settings, CLIENT_ID)?;
    let mut commits = Vec::new();
    for committed in offsets.committed(&topics.orders, partitions, REQUEST_TIMEOUT)? {
        let note = TopicsNote::decode(&committed.metadata).with_context(|| {
            format!(
                "the metadata of the committed offset of {}/{}",
                topics.orders, committed.partition
            )
        })?;
        if let Some((offset, note)) = committed.offset.zip(note)
            && let Some(note) = renamed(note, TopicId::new(&changelog.id))
        {
            commits.push(CommitOffset {
                partition: committed.partition,
                offset,
                metadata: note.encode(),
                // The same offset, and so the same log.
                leader_epoch: committed.leader_epoch,
            });
        }
    }
    if !commits.is_empty() {
        // A copy of the request that arrives later has orders read again, which are duplicates.
        offsets.commit(&topics.orders, &commits).result.context(
            "the changelog is rebuilt, and the committed offsets still name the one before: run the command again",
        )?;
    }
    Ok(commits.into_iter().map(|commit| commit.partition).collect())
}

/// Returns the note with this changelog; `None` if it has it already.
fn renamed(note: TopicsNote, changelog: Option<TopicId>) -> Option<TopicsNote> {
    let is_other = note.changelog.is_some() && changelog.is_some() && note.changelog != changelog;
    // What was forgotten stays refused. But offsets of the former changelog mean nothing in this one, whose start they
    // would have cut off.
    let forgotten = note.forgotten.map(|forgotten| Forgotten {
        below: Offset(0),
        ..forgotten
    });
    is_other.then_some(TopicsNote {
        changelog,
        forgotten,
        ..note
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_changelog_is_renamed() {
        let note = |changelog: &str| TopicsNote {
            partitions: 6,
            orders: TopicId::new("o"),
            pending: TopicId::new("p"),
            changelog: TopicId::new(changelog),
            forgotten: None,
        };
        assert_eq!(renamed(note("old"), TopicId::new("new")), Some(note("new")));
        assert_eq!(renamed(note("new"), TopicId::new("new")), None);
        assert_eq!(
            renamed(note(""), TopicId::new("new")),
            None,
            "brokers without ids"
        );
        // Orders of forgotten keys stay refused, but nothing of the new changelog may be deleted.
        let forgotten = |below| {
            Some(Forgotten {
                below: Offset(below),
                before: Timestamp(7),
            })
        };
        let old = TopicsNote {
            forgotten: forgotten(50),
            ..note("old")
        };
        let new = renamed(old, TopicId::new("new")).expect("another changelog");
        assert_eq!(new.forgotten, forgotten(0));
    }
}
