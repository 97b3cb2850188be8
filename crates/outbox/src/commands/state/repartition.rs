//! `state repartition`: appends the entries of keys that have another partition since the topics have grown.
//!
//! The committed offsets remember the former partition count, and a validator halts by that. They are committed with
//! the new count last, when each entry is where it is needed; a command that was killed before is run again.

use anyhow::{Context, bail, ensure};
use kafka::admin::Admin;
use kafka::changelog::ChangelogReader;
use kafka::consumer::CommitOffset;
use kafka::group_offsets::GroupOffsets;
use kafka::producer::transactional::TransactionEnd;
use kafka::{KafkaSettings, OutgoingHeaders, OutgoingRecord, TransactionalProducer};
use pipeline::admission::{MovedEntry, Repartition, grown_notes};
use records::entry::SEEN_AGAIN;
use records::{Bounds, Entry, Offset, Partition, TopicId, Topics, TopicsNote};
use serde::Serialize;
use service::failpoint::{guard_removed, kill_at};

use super::comparison::read;
use super::{ENTRIES_MAX, ensure_no_validator, open_producer, partitions};
use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT};
use crate::cli::RepartitionState;
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::confirm::confirm;
use crate::operations_log::{self, OperationsLog, operation};

/// Name of the command in the operations.
const COMMAND: &str = "state repartition";

/// Result of the command. Its field names are those of the JSON output.
#[derive(Serialize)]
struct Repartitioned<'a> {
    changelog: &'a str,
    /// Number of partitions before; `None` if they have not grown.
    partitions_before: Option<usize>,
    partitions: usize,
    /// Number of entries appended.
    appended: u64,
    /// Number of orders that wait on the partitions that their keys had before.
    misplaced: u64,
}

pub(super) fn run(options: &RepartitionState, config: &Config, json: bool) -> anyhow::Result<Status> {
    let (topics, settings) = (&config.topics, config.connection_as(&options.validators));
    let admin = Admin::connect(&settings, CLIENT_ID)?;
    let (partitions, _) = partitions(&admin, topics)?;
    ensure_no_validator(&admin, topics, &options.validators)?;
    // Before anything is read, as in `state rebuild`.
    let producer = open_producer(&settings, &admin, topics)?;
    let grown = Grown {
        reader: ChangelogReader::open(&settings, &topics.changelog)?,
        offsets: GroupOffsets::open(&settings, CLIENT_ID)?,
        now: note_of(&admin, topics, partitions.len())?,
        topics,
        partitions,
    };
    let (committed, was) = grown.committed(&options.validators)?;
    let Some(was) = was else {
        return report(&grown, json, None, 0, 0);
    };
    let repartition = Repartition::new(
        config.validator.partitioner(),
        number(was)?,
        number(grown.partitions.len())?,
    );
    let Some(mut repartition) = repartition else {
        bail!(
            "validator.partitioner is \"any\": which partition a key has now is not known. Set it to that of the \
             producers (murmur2 or crc32) in the settings file of all validators, and run the command with it. They \
             then refuse an order on any other partition, without which a key could be admitted on two. Nothing was \
             changed"
        );
    };
    ensure!(
        config.validator.checks_record_key(),
        "validator.record_key is \"any\": producers partition by the record key, which the changelog does not have, so \
         which partition a key has now is not known. Start with orders, pending and changelog topics under new names \
         instead, and send nothing to them that was sent to these. Nothing was changed"
    );

    let misplaced = grown.misplaced_orders(&committed, &repartition)?;
    let bounds = grown.survey(&mut repartition)?;
    repartition.check_partitioner().context("nothing was changed")?;
    let counts = repartition.counts();
    eprintln!(
        "{} had {was} partitions and has {}: {} of {} entries are needed on another partition.",
        topics.changelog,
        grown.partitions.len(),
        counts.moved,
        counts.entries
    );
    if misplaced > 0 && !options.accept_misplaced {
        eprintln!(
            "{misplaced} orders wait on the partitions that their keys had before the topics grew. The validators will \
             not admit them there: each becomes a dead letter (wrong-partition), and is paid only if its producer \
             sends it again. Nothing was changed. If that is what you want, run the command with \
             --accept-misplaced."
        );
        return Ok(Status::Problem);
    }
    let question = format!(
        "Append {} entries to {}, and have the offsets of the group {:?} name {} partitions? All validators must \
         have validator.partitioner as in this settings file from now on.",
        counts.moved,
        topics.changelog,
        options.validators,
        grown.partitions.len()
    );
    if !confirm(&question, options.yes)? {
        eprintln!("Nothing was changed.");
        return Ok(Status::Problem);
    }
    ensure_no_validator(&admin, topics, &options.validators)?;
    let what = format!(
        "{} entries to be appended to {}, which has grown from {was} to {} partitions",
        counts.moved,
        topics.changelog,
        grown.partitions.len()
    );
    operations_log::write(config, &[operation(COMMAND, what, None)])?;
    let appended = grown.append(&bounds, &repartition, &producer)?;
    ensure!(
        appended == counts.moved,
        "{appended} entries were appended to {}, and {} are needed: something else writes to it, or deletes from it. \
         Stop that, and run the command again",
        topics.changelog,
        counts.moved
    );
    kill_at!("repartition-before-offsets");
    grown.commit(&committed)?;
    report(&grown, json, Some(was), appended, misplaced)
}

/// Appends the entries of keys that have another partition since the topics have grown, to a changelog that was rebuilt
/// from the outbox: that has the orders of before on their former partitions. Returns the number of entries.
pub(super) fn move_rebuilt(
    config: &Config,
    admin: &Admin,
    settings: &KafkaSettings,
    partitions: &[Partition],
    producer: &TransactionalProducer,
) -> anyhow::Result<u64> {
    let topics = &config.topics;
    let count = number(partitions.len())?;
    let Some(mut repartition) = Repartition::new(config.validator.partitioner(), count, count) else {
        let mut has_grown = false;
        OperationsLog::open(config)?.visit(|_, operation| has_grown |= operation.command == COMMAND)?;
        ensure!(
            !has_grown,
            "the topics have grown once (`outbox operations list` says when), so the keys of earlier orders have other \
             partitions than these orders, and validator.partitioner is \"any\": run the command again with the \
             validators' settings file. No validator goes on before"
        );
        return Ok(0);
    };
    let grown = Grown {
        reader: ChangelogReader::open(settings, &topics.changelog)?,
        offsets: GroupOffsets::open(settings, CLIENT_ID)?,
        now: note_of(admin, topics, partitions.len())?,
        topics,
        partitions: partitions.to_vec(),
    };
    let bounds = grown.survey(&mut repartition)?;
    grown.append(&bounds, &repartition, producer)
}

/// Topics that may have grown, and what is read of them.
struct Grown<'a> {
    reader: ChangelogReader,
    offsets: GroupOffsets,
    /// The topics as they are now.
    now: TopicsNote,
    topics: &'a Topics,
    /// All partitions that they have now.
    partitions: Vec<Partition>,
}

/// Committed offset of a partition with its note; `None` if it has none.
type CommittedNote = (CommitOffset, Option<TopicsNote>);

impl Grown<'_> {
    /// Returns the committed offsets of all partitions, and the former partition count; `None` if it is the present
    /// one.
    fn committed(&self, group: &str) -> anyhow::Result<(Vec<CommittedNote>, Option<usize>)> {
        let orders = &self.topics.orders;
        let found = self
            .offsets
            .committed(orders, &self.partitions, REQUEST_TIMEOUT)?;
        let mut committed = Vec::new();
        for partition in &self.partitions {
            let of = found.iter().find(|found| found.partition == *partition);
            let metadata = of.map_or("", |of| of.metadata.as_str());
            let note = TopicsNote::decode(metadata)
                .with_context(|| format!("the metadata of the committed offset of {orders}/{partition}"))?;
            if let Some(note) = &note {
                self.ensure_same_topics(note)?;
            }
            let commit = CommitOffset {
                partition: *partition,
                // A partition that no validator has processed an order of begins with its first one.
                offset: of.and_then(|of| of.offset).unwrap_or(Offset(0)),
                metadata: String::new(),
                leader_epoch: of.and_then(|of| of.leader_epoch),
            };
            committed.push((commit, note));
        }
        let counts = || {
            committed
                .iter()
                .filter_map(|(_, note)| Some(note.as_ref()?.partitions))
        };
        ensure!(
            counts().next().is_some(),
            "no committed offset of the group {group:?} on {orders} remembers a partition count: no validator has \
             committed one, or an operator has set the offsets since. Is {group:?} the validators' kafka.group_id? \
             Nothing was changed"
        );
        let was = counts().find(|count| *count != self.partitions.len());
        Ok((committed, was))
    }

    /// Checks that a note is of these topics, with fewer partitions.
    fn ensure_same_topics(&self, note: &TopicsNote) -> anyhow::Result<()> {
        let is_same = |was: &Option<TopicId>, is: &Option<TopicId>| {
            // Brokers that do not report ids prove nothing.
            was.is_none() || is.is_none() || was == is
        };
        let now = &self.now;
        ensure!(
            is_same(&note.orders, &now.orders)
                && is_same(&note.pending, &now.pending)
                && is_same(&note.changelog, &now.changelog)
                && note.partitions <= now.partitions,
            "the group's offsets were committed with other topics than these (one was deleted and created again, or the \
             settings name another): they have not only grown. The validators' message says what to do. Nothing was \
             changed"
        );
        Ok(())
    }

    /// Counts the orders that wait on another partition than that of their key.
    fn misplaced_orders(
        &self,
        committed: &[CommittedNote],
        repartition: &Repartition,
    ) -> anyhow::Result<u64> {
        let orders = &self.topics.orders;
        let mut misplaced = 0;
        for (commit, _) in committed {
            let partition = commit.partition;
            let bounds = self.reader.bounds_of(orders, partition, REQUEST_TIMEOUT)?;
            let waiting = Bounds {
                start: bounds.start.max(commit.offset),
                end: bounds.end,
            };
            self.offsets
                .read_exact::<anyhow::Error>(orders, partition, waiting, |record| {
                    let is_misplaced = |key| repartition.home(key).is_some_and(|home| home != partition);
                    misplaced += u64::from(record.key.is_some_and(is_misplaced));
                    Ok(())
                })?;
        }
        Ok(misplaced)
    }

    /// Takes in the whole changelog. Returns the bounds of its partitions, before anything is appended.
    fn survey(&self, repartition: &mut Repartition) -> anyhow::Result<Vec<(Partition, Bounds)>> {
        let changelog = &self.topics.changelog;
        let mut all = Vec::new();
        for partition in &self.partitions {
            let bounds = self.reader.bounds(*partition, REQUEST_TIMEOUT)?;
            read(&self.reader, changelog, *partition, bounds, |record| {
                let entry = record.value.map(Entry::decode).transpose()?;
                repartition.take(*partition, record.key, entry.as_ref(), record.at);
                Ok(())
            })?;
            all.push((*partition, bounds));
        }
        Ok(all)
    }

    /// Appends each entry to the partition that needs it, and returns their number.
    fn append(
        &self,
        bounds: &[(Partition, Bounds)],
        repartition: &Repartition,
        producer: &TransactionalProducer,
    ) -> anyhow::Result<u64> {
        let (mut batch, mut appended) = (Vec::new(), 0);
        for (partition, bounds) in bounds {
            read(
                &self.reader,
                &self.topics.changelog,
                *partition,
                *bounds,
                |record| {
                    // A tombstone is not moved: a key that is known too long is refused, and not paid twice.
                    let entry = record.value.map(Entry::decode).transpose()?;
                    let moved = entry.and_then(|entry| repartition.moved(*partition, record.key, &entry));
                    if let Some(moved) = moved {
                        batch.push((Box::<[u8]>::from(record.key), moved));
                    }
                    if batch.len() == ENTRIES_MAX {
                        appended += self.write(producer, &batch)?;
                        batch.clear();
                    }
                    Ok(())
                },
            )?;
        }
        if !batch.is_empty() {
            appended += self.write(producer, &batch)?;
        }
        Ok(appended)
    }

    fn write(
        &self,
        producer: &TransactionalProducer,
        batch: &[(Box<[u8]>, MovedEntry)],
    ) -> anyhow::Result<u64> {
        let written = u64::try_from(batch.len())?;
        // A scenario removes the guard.
        if guard_removed!("guard-repartition") {
            return Ok(written);
        }
        producer.begin()?;
        for (key, moved) in batch {
            let mut headers = OutgoingHeaders::with_capacity(1);
            // Its order is none of the partition's.
            headers.add(SEEN_AGAIN, None);
            producer.send(OutgoingRecord {
                topic: &self.topics.changelog,
                partition: Some(moved.to),
                key: Some(key),
                value: Some(&moved.entry.encode()),
                headers: Some(headers),
                at: moved.recorded,
            })?;
        }
        match producer.end_without_offsets(|| ()) {
            TransactionEnd::Committed { .. } => Ok(written),
            TransactionEnd::CommittedRetireProducer { why, .. } => {
                bail!("entries were appended, and the producer cannot continue: {why}. Run the command again")
            }
            TransactionEnd::Aborted(error) | TransactionEnd::Unknown(error) => {
                Err(anyhow::Error::new(error).context(format!(
                    "appending entries to {} failed; if a second operator runs this command, leave it to that one, \
                     otherwise run it again. No validator goes on before it has ended",
                    self.topics.changelog
                )))
            }
        }
    }

    /// Commits the offsets as they are, with the new partition count.
    fn commit(&self, committed: &[CommittedNote]) -> anyhow::Result<()> {
        let notes: Vec<Option<TopicsNote>> = committed.iter().map(|(_, note)| note.clone()).collect();
        let commits: Vec<CommitOffset> = committed
            .iter()
            .zip(grown_notes(&notes, &self.now))
            .map(|((commit, _), note)| CommitOffset {
                metadata: note.encode(),
                ..commit.clone()
            })
            .collect();
        self.offsets.commit(&self.topics.orders, &commits).result.context(
            "the entries are appended, and the committed offsets still name the former partition count: run the \
             command again",
        )?;
        Ok(())
    }
}

fn report(
    grown: &Grown<'_>,
    json: bool,
    was: Option<usize>,
    appended: u64,
    misplaced: u64,
) -> anyhow::Result<Status> {
    let (changelog, partitions) = (&grown.topics.changelog, grown.partitions.len());
    if json {
        print_json(&Repartitioned {
            changelog,
            partitions_before: was,
            partitions,
            appended,
            misplaced,
        })?;
    } else if was.is_some() {
        println!(
            "{changelog} has each key on its partition out of {partitions}; {appended} entries were appended. Remove the state \
             directories of all validators before they are started. A caller needs an offset on each new partition of {}: outbox \
             group create --group GROUP --at beginning",
            grown.topics.pending
        );
    } else {
        println!(
            "The committed offsets name {partitions} partitions already, as the topics have: nothing was changed."
        );
    }
    Ok(Status::Ok)
}

/// Returns the note of the topics as they are now.
fn note_of(admin: &Admin, topics: &Topics, partitions: usize) -> anyhow::Result<TopicsNote> {
    let names = [topics.orders.as_str(), &topics.pending, &topics.changelog];
    let ids = admin.topic_ids(&names, REQUEST_TIMEOUT)?;
    Ok(TopicsNote::of(topics, partitions, &ids))
}

fn number(partitions: usize) -> anyhow::Result<u32> {
    u32::try_from(partitions).context("a partition count")
}
