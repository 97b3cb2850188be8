//! What Kafka knows of the pipeline: the backlog of each stage, parked calls, dead letters, and the switch of the
//! callers' group.

use kafka::admin::Admin;
use kafka::changelog::ChangelogReader;
use kafka::group_offsets::GroupOffsets;
use kafka::offsets::Committed;
use records::call_note::CallNote;
use records::control::Switch;
use records::{Bounds, Offset, Timestamp, TopicId};
use serde::Serialize;

use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT, partitions};
use crate::call_records::loaded_notes;
use crate::cli::ShowStatus;
use crate::commands::parked::reading::ParkedReader;
use crate::commands::{dead_letters, switch};
use crate::config::Config;

/// Number of offsets of a partition up to which the orders that wait are read and counted.
const COUNTED_MAX: u64 = 1000;

/// Field names are those of the JSON output, as in the types below.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) at: Timestamp,
    /// Number of validators in their group.
    pub(super) validators: usize,
    /// Orders between the validators' commits and the end of the orders topic; if they are many, its offsets.
    pub(super) orders_waiting: u64,
    /// Number of callers in their group.
    pub(super) callers: usize,
    /// Switch of the callers' group; `None` if it was never set, and calls are made.
    pub(super) switch: Option<Switch>,
    pub(super) pending: u64,
    pub(super) perhaps_sent: u64,
    pub(super) oldest_pending_at: Option<Timestamp>,
    /// Parked calls that wait for an operator.
    pub(super) parked: u64,
    pub(super) call_dead_letters: u64,
    /// Dead letters of orders that were not replayed.
    pub(super) order_dead_letters: u64,
    pub(super) partitions: Vec<OutboxBacklog>,
}

/// Calls of one partition of the outbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct OutboxBacklog {
    pub(super) partition: i32,
    /// Calls that are not final.
    pub(super) pending: u64,
    /// Those of them with an intent: sent, or about to be.
    pub(super) perhaps_sent: u64,
    /// Timestamp of the oldest pending call.
    pub(super) oldest_pending_at: Option<Timestamp>,
    /// Commit position: all calls below it are final.
    pub(super) committed: Option<Offset>,
    pub(super) end: Offset,
    /// Reason for which a caller halts the partition.
    pub(super) halts: Option<String>,
    /// What an operator does about it.
    pub(super) repair: Option<String>,
}

/// Reads the report.
///
/// # Errors
/// The brokers do not respond, or a topic is missing.
pub(super) fn report(options: &ShowStatus, config: &Config) -> anyhow::Result<Report> {
    let (topics, group) = (&config.topics, options.which.group.as_str());
    let callers_settings = config.connection_as(group);
    let validators_settings = config.connection_as(&options.validators);
    let admin = Admin::connect(&callers_settings, CLIENT_ID)?;
    // The control topic, too: a reader takes one that this user may not see for one without a leader, and waits.
    let names = [
        topics.orders.as_str(),
        &topics.pending,
        &topics.call_dead_letters,
        &topics.control,
    ];
    let identities = admin.identities(&names, REQUEST_TIMEOUT)?;
    let partitions = |name: &str| partitions(&identities, name);
    let id_now = identities
        .get(&topics.pending)
        .and_then(|of| TopicId::new(&of.id));
    let callers = GroupOffsets::open(&callers_settings, CLIENT_ID)?;
    let count = |name: &str| -> anyhow::Result<u64> {
        let mut records = 0;
        for partition in partitions(name)? {
            let bounds = callers.bounds(name, partition, REQUEST_TIMEOUT)?;
            records += callers.count(name, partition, bounds)?.records;
        }
        Ok(records)
    };
    let partition_statuses = callers
        .committed(&topics.pending, &partitions(&topics.pending)?, REQUEST_TIMEOUT)?
        .into_iter()
        .map(|committed| partition_status(&callers, (group, &topics.pending), id_now.as_ref(), committed))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let validators = GroupOffsets::open(&validators_settings, CLIENT_ID)?;
    let mut orders_waiting = 0;
    for committed in validators.committed(&topics.orders, &partitions(&topics.orders)?, REQUEST_TIMEOUT)? {
        let bounds = validators.bounds(&topics.orders, committed.partition, REQUEST_TIMEOUT)?;
        let start = committed.offset.unwrap_or(bounds.start).max(bounds.start);
        let offsets = u64::try_from(bounds.end.0 - start.0).unwrap_or_default();
        // The markers of transactions are no orders, and at the end of a partition no offset behind them is committed.
        orders_waiting += if offsets <= COUNTED_MAX {
            let bounds = Bounds { start, ..bounds };
            validators
                .count(&topics.orders, committed.partition, bounds)?
                .records
        } else {
            offsets
        };
    }
    let parked = ParkedReader::open(config, group)?
        .parked_calls()?
        .waiting()
        .count();
    let control = ChangelogReader::open(&callers_settings, &topics.control)?;
    Ok(Report {
        at: Timestamp::now(),
        validators: admin
            .group(&options.validators, &topics.orders, REQUEST_TIMEOUT)?
            .members
            .len(),
        orders_waiting,
        callers: admin
            .group(group, &topics.pending, REQUEST_TIMEOUT)?
            .members
            .len(),
        switch: switch::read(&control, &topics.control, group)?,
        pending: partition_statuses.iter().map(|of| of.pending).sum(),
        perhaps_sent: partition_statuses.iter().map(|of| of.perhaps_sent).sum(),
        oldest_pending_at: partition_statuses
            .iter()
            .filter_map(|of| of.oldest_pending_at)
            .min(),
        parked: u64::try_from(parked)?,
        call_dead_letters: count(&topics.call_dead_letters)?,
        order_dead_letters: dead_letters::reading::DeadLetterReader::open(config)?.waiting_orders()?,
        partitions: partition_statuses,
    })
}

/// Reads the backlog of a partition: its calls from the commit position on.
fn partition_status(
    callers: &GroupOffsets,
    (group, topic): (&str, &str),
    id_now: Option<&TopicId>,
    committed: Committed,
) -> anyhow::Result<OutboxBacklog> {
    let partition = committed.partition;
    let bounds = callers.bounds(topic, partition, REQUEST_TIMEOUT)?;
    let (mut status, note) = without_calls(committed, bounds, id_now, (group, topic));
    let backlog = Bounds {
        start: status.committed.unwrap_or(bounds.start).max(bounds.start),
        end: bounds.end,
    };
    callers.read::<anyhow::Error>(topic, partition, backlog, |record| {
        status.take(&note, record.offset, record.at);
        Ok(())
    })?;
    Ok(status)
}

/// Returns the status of a partition of which no call was read yet, and its call note. `id_now` is the id that the outbox
/// has now.
pub(super) fn without_calls(
    committed: Committed,
    bounds: Bounds,
    id_now: Option<&TopicId>,
    (group, topic): (&str, &str),
) -> (OutboxBacklog, CallNote) {
    let (partition, offset) = (committed.partition, committed.offset);
    let note = CallNote::decode(offset.unwrap_or(bounds.start), &committed.metadata).unwrap_or_default();
    let why = loaded_notes(committed, bounds, id_now).start_position().err();
    let of = OutboxBacklog {
        partition: partition.0,
        pending: 0,
        perhaps_sent: 0,
        oldest_pending_at: None,
        committed: offset,
        end: bounds.end,
        repair: why.as_ref().map(|why| why.repair(group, topic, partition)),
        halts: why.map(|why| why.to_string()),
    };
    (of, note)
}

impl OutboxBacklog {
    /// Takes in a record at or behind the commit position.
    fn take(&mut self, note: &CallNote, offset: Offset, at: Option<Timestamp>) {
        if note.finals.contains(offset) {
            return;
        }
        self.pending += 1;
        self.perhaps_sent += u64::from(note.intents.contains(offset));
        // Timestamps of one partition need not rise.
        self.oldest_pending_at = self.oldest_pending_at.into_iter().chain(at).min();
    }
}

#[cfg(test)]
mod tests {
    use records::Partition;

    use super::*;

    /// Group and topic.
    const OUTBOX: (&str, &str) = ("callers", "outbox");

    fn committed(offset: Option<i64>, metadata: String) -> Committed {
        Committed {
            partition: Partition(2),
            offset: offset.map(Offset),
            metadata,
            leader_epoch: None,
        }
    }

    #[test]
    fn pending_calls_are_neither_final_nor_gaps() {
        let bounds = Bounds {
            start: Offset(0),
            end: Offset(12),
        };
        let note = CallNote {
            outbox: None,
            finals: [Offset(6)].into_iter().collect(),
            intents: [Offset(5), Offset(6), Offset(9)].into_iter().collect(),
        };
        let metadata = note.encode(Offset(5)).expect("short");
        let (mut status, note) = without_calls(committed(Some(5), metadata), bounds, None, OUTBOX);
        // 7, 9 and 11 are markers of transactions.
        for (offset, at) in [(5, 900), (6, 100), (8, 800), (10, 1000)] {
            status.take(&note, Offset(offset), Some(Timestamp(at)));
        }
        let json = serde_json::to_value(&status).expect("JSON");
        let expected = serde_json::json!({"partition": 2, "pending": 3, "perhaps_sent": 1, "oldest_pending_at": 800,
            "committed": 5, "end": 12, "halts": null, "repair": null});
        assert_eq!(json, expected);
    }

    #[test]
    fn partition_that_a_caller_halts_is_told() {
        let halts = |offset, metadata: &str, end| {
            let bounds = Bounds {
                start: Offset(3),
                end: Offset(end),
            };
            without_calls(committed(offset, metadata.into()), bounds, None, OUTBOX)
                .0
                .halts
        };
        let told = [
            halts(None, "", 9),
            halts(Some(2), "", 9),
            halts(Some(10), "", 9),
            halts(Some(5), "9:x", 9),
        ];
        assert!(told.iter().all(Option::is_some), "{told:?}");
        assert_eq!([halts(None, "", 0), halts(Some(5), "", 9)], [None, None]);
    }

    #[test]
    fn outbox_that_was_created_again_is_told() {
        let bounds = Bounds {
            start: Offset(0),
            end: Offset(9),
        };
        let note = CallNote {
            outbox: TopicId::new("was"),
            ..CallNote::default()
        };
        let metadata = note.encode(Offset(5)).expect("short");
        let shown = |metadata: &str, id_now| {
            let id_now = TopicId::new(id_now);
            without_calls(
                committed(Some(5), metadata.into()),
                bounds,
                id_now.as_ref(),
                OUTBOX,
            )
            .0
        };
        let halted = shown(&metadata, "is");
        let (why, repair) = (
            halted.halts.expect("created again"),
            halted.repair.expect("a command"),
        );
        assert!(why.contains("id was") && why.contains("id is"), "{why}");
        assert!(repair.contains("outbox group create --group callers"), "{repair}");
        let sound = [shown(&metadata, "was"), shown("", "is")];
        assert!(
            sound.iter().all(|of| of.halts.is_none() && of.repair.is_none()),
            "{sound:?}"
        );
    }
}
