//! `state rebuild`: appends to the changelog the entries that it has lost, as the outbox shows them.

mod inspect;
mod remembered;
mod repartition;
mod verify;

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use comfy_table::Table;
use kafka::admin::Admin;
use kafka::changelog::{ChangelogReader, ChangelogRecord, ReadError};
use kafka::consumer::CommitOffset;
use kafka::group_offsets::GroupOffsets;
use kafka::producer::RecordSizes;
use kafka::producer::transactional::{TransactionEnd, TransactionTimeouts};
use kafka::topic_ids::TopicIdentity;
use kafka::{KafkaSettings, OutgoingRecord, TransactionalProducer};
use pipeline::admission::{AdmittedOrder, ChangelogRebuild};
use records::entry::EncodedEntry;
use records::pending::Admission;
use records::{
    AmountForm, Bounds, Entry, Forgotten, Offset, Partition, Selection, Timestamp, TopicId, Topics,
    TopicsNote,
};
use serde::Serialize;

use self::remembered::Remembered;
use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT, expect_known};
use crate::cli::{RebuildState, StateCommand};
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::confirm::confirm;
use crate::operations_log::{self, operation};
use crate::tables::new_table;
use crate::timestamp::rfc3339;

/// Beginning of the transactional id, which the changelog's name follows: a second operator fences the first, and not one
/// of another pipeline.
const TRANSACTIONAL_ID: &str = "outbox-state-rebuild-";
/// Maximum number of entries of a transaction.
const ENTRIES_MAX: usize = 10_000;
const TIMEOUTS: TransactionTimeouts = TransactionTimeouts {
    transaction_timeout: Duration::from_secs(60),
    commit_timeout: Duration::from_secs(30),
};
/// Interval of the progress messages.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Comparison of a partition. Its field names are those of the JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Compared {
    partition: Partition,
    /// Number of keys in the changelog and the outbox together.
    keys: u64,
    /// Number of entries that the changelog lacks.
    missing: u64,
    /// Set if keys between the changelog's last entry and the outbox's first order may be lost for good.
    gap: Option<GapShown>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct GapShown {
    /// Last admission in the changelog, as offset of the order and time; `None` if it is empty.
    last_entry: Option<String>,
    /// First admission in the outbox; `None` if it is empty.
    first_order: Option<String>,
}

#[derive(Serialize)]
struct Rebuilt<'a> {
    changelog: &'a str,
    partitions: &'a [Compared],
    /// Number of entries appended.
    appended: u64,
    /// Partitions whose committed offset named another changelog, and names this one now.
    confirmed: Vec<Partition>,
}

pub(crate) fn run(command: &StateCommand, config: &Config, json: bool) -> anyhow::Result<Status> {
    match command {
        StateCommand::Rebuild(options) => rebuild(options, config, json),
        StateCommand::Repartition(options) => repartition::run(options, config, json),
        StateCommand::Inspect(options) => inspect::run(options, json),
        StateCommand::Verify(options) => verify::run(options, config, json),
    }
}

/// Opens the producer of entries. This fences an operator who runs the same command, or another one that appends to this
/// changelog, and ends the transaction that one may have left open.
fn open_producer(
    settings: &KafkaSettings,
    admin: &Admin,
    topics: &Topics,
) -> anyhow::Result<TransactionalProducer> {
    let changelog = topics.changelog.as_str();
    let sizes = RecordSizes::of(&admin.describe(&[changelog])?, [changelog]);
    let id = format!("{TRANSACTIONAL_ID}{changelog}");
    Ok(TransactionalProducer::open(
        settings,
        &id,
        TIMEOUTS,
        sizes,
        REQUEST_TIMEOUT,
    )?)
}

fn rebuild(options: &RebuildState, config: &Config, json: bool) -> anyhow::Result<Status> {
    let (topics, settings) = (&config.topics, config.connection_as(&options.group));
    let admin = Admin::connect(&settings, CLIENT_ID)?;
    let (partitions, changelog) = partitions(&admin, topics)?;
    if !options.new_group {
        let group = admin.group(&options.group, &topics.orders, REQUEST_TIMEOUT)?;
        let why = "validators of another group may be running, and would halt on the rebuilt changelog";
        expect_known(&group, &options.group, "validators", why)?;
    }
    ensure_no_validator(&admin, topics, &options.group)?;
    // Before anything is read.
    let producer = open_producer(&settings, &admin, topics)?;
    let reader = ChangelogReader::open(&settings, &topics.changelog)?;
    let topic = Comparison {
        reader,
        topics,
        amount: config.order.amount(),
        fingerprint: &config.validator.fingerprint,
        remembered: Remembered::read(&settings, topics, &partitions, &changelog)?,
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
        ensure_no_validator(&admin, topics, &options.group)?;
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

/// Returns the partitions and the identity of the changelog.
fn partitions(admin: &Admin, topics: &Topics) -> anyhow::Result<(Vec<Partition>, TopicIdentity)> {
    let names = [topics.orders.as_str(), &topics.pending, &topics.changelog];
    let mut found = admin.identities(&names, REQUEST_TIMEOUT)?;
    let count = |name: &str| {
        let identity = found.get(name);
        let identity = identity.with_context(|| format!("the topic {name:?} does not exist"))?;
        Ok::<_, anyhow::Error>(identity.partitions)
    };
    let [orders, pending, changelog] = [count(names[0])?, count(names[1])?, count(names[2])?];
    // An entry is needed on the partition of its order, so that a grown topic cannot be rebuilt.
    ensure!(
        orders == changelog && pending == changelog,
        "the topics {names:?} have {orders}, {pending} and {changelog} partitions: keys are looked up on the \
         partition of their order, so the counts must be equal. Nothing was changed"
    );
    let partitions = (0..i32::try_from(changelog)?).map(Partition).collect();
    let identity = found
        .remove(names[2])
        .context("the brokers did not describe the changelog")?;
    Ok((partitions, identity))
}

fn ensure_no_validator(admin: &Admin, topics: &Topics, group: &str) -> anyhow::Result<()> {
    let members = admin.group(group, &topics.orders, REQUEST_TIMEOUT)?.members.len();
    ensure!(
        members == 0,
        "the validators' group {group:?} has {members} members, which would write to the changelog at the same \
         time: stop all validators first (a killed one counts until its session timeout)"
    );
    Ok(())
}

/// Comparison of the changelog with the outbox.
struct Comparison<'a> {
    reader: ChangelogReader,
    topics: &'a Topics,
    /// Settings of the validators.
    amount: Option<AmountForm>,
    fingerprint: &'a Selection,
    remembered: Remembered,
}

impl Comparison<'_> {
    fn compare_all(&self, partitions: &[Partition]) -> anyhow::Result<Vec<Compared>> {
        let (mut compared, mut shown_at) = (Vec::new(), Instant::now());
        for partition in partitions {
            compared.push(self.visit_missing(*partition, |_, _, _| Ok(()))?);
            if shown_at.elapsed() >= PROGRESS_INTERVAL {
                eprintln!("{} of {} partitions compared", compared.len(), partitions.len());
                shown_at = Instant::now();
            }
        }
        Ok(compared)
    }

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

    /// Compares a partition, and passes each missing entry to `sink`, in the order of the outbox, with the time to record
    /// it at.
    fn visit_missing(
        &self,
        partition: Partition,
        mut sink: impl FnMut(&[u8], &Entry, Timestamp) -> anyhow::Result<()>,
    ) -> anyhow::Result<Compared> {
        let Topics {
            pending, changelog, ..
        } = self.topics;
        let mut rebuild = ChangelogRebuild::new(
            &self.topics.orders,
            partition,
            self.amount,
            self.fingerprint.clone(),
        );
        // The outbox's end first: each order below it has its entry, if that was not lost, below the end of
        // the changelog that is read afterwards.
        let outbox = self.reader.bounds_of(pending, partition, REQUEST_TIMEOUT)?;
        let bounds = self.reader.bounds(partition, REQUEST_TIMEOUT)?;
        let from = self
            .remembered
            .first(&self.reader, changelog, partition, bounds)?
            .map(|first| first.source);
        rebuild = rebuild.remembering(from);
        read(&self.reader, changelog, partition, bounds, |record| {
            let entry = record.value.map(Entry::decode).transpose()?;
            rebuild.changelog_record(record.key, entry.as_ref());
            Ok(())
        })?;
        read(&self.reader, pending, partition, outbox, |record| {
            let admission = Admission::read(&record.headers.readable)?;
            let value = record.value.unwrap_or_default();
            let missing = rebuild.pending_call(record.key, &admission, value)?;
            // Not the present: keys that were recorded before would be forgotten earlier by a wrong clock of this
            // machine, and these be kept for longer.
            let now = Timestamp::now();
            let recorded = record.at.unwrap_or(admission.at).min(now);
            missing.map_or(Ok(()), |entry| sink(record.key, &entry, recorded))
        })?;
        Ok(Compared {
            partition,
            keys: rebuild.keys(),
            missing: rebuild.missing(),
            gap: rebuild.gap(outbox.start).map(|gap| GapShown {
                last_entry: gap.after.map(admitted),
                first_order: gap.before.map(admitted),
            }),
        })
    }
}

/// Passes each record of a partition within the bounds to `sink`.
fn read(
    reader: &ChangelogReader,
    topic: &str,
    partition: Partition,
    bounds: Bounds,
    mut sink: impl FnMut(&ChangelogRecord<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let read = reader.read_other(topic, partition, bounds, |record| {
        // A record from beyond the bounds may come with the last fetch.
        if record.offset >= bounds.end {
            return Ok(());
        }
        sink(&record).with_context(|| format!("the record {topic}/{partition}@{}", record.offset))
    });
    match read {
        Ok(()) => Ok(()),
        Err(ReadError::Sink(error)) => Err(error),
        Err(ReadError::Client(error)) => Err(error.into()),
        Err(ReadError::Cancelled) => bail!("reading {topic}/{partition} was cancelled"),
    }
}

fn admitted(order: AdmittedOrder) -> String {
    format!("offset {} at {}", order.source, rfc3339(Some(order.at)))
}

fn table(compared: &[Compared]) -> Table {
    let mut table = new_table(["partition", "keys", "missing in the changelog", "possible gap"]);
    for compared in compared {
        table.add_row(vec![
            compared.partition.to_string(),
            compared.keys.to_string(),
            compared.missing.to_string(),
            compared.gap.as_ref().map_or_else(
                || "-".to_owned(),
                |gap| {
                    let text = |order: &Option<String>| order.clone().unwrap_or_else(|| "none".into());
                    format!("from {} to {}", text(&gap.last_entry), text(&gap.first_order))
                },
            ),
        ]);
    }
    table
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
