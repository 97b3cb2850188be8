//! Records of the outbox with the key, and their states.

use std::collections::BTreeMap;

use pipeline::admission::Partitioner;
use pipeline::ledger::{Lineage, NamedRecord, RecordState};
use records::{Bounds, Offset, Partition, Position};

use super::super::history;
use super::{OrderReader, Pending, Read};
use crate::call_records as calls;
use crate::progress::Progress;

/// Records of the outbox with the key, and the ends of the partitions that were read.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) records: Vec<OutboxRecord>,
    ends: BTreeMap<Partition, Offset>,
}

#[derive(Debug)]
pub(super) struct OutboxRecord {
    key: Box<[u8]>,
    pub(super) pending: Pending,
    continues: Option<Position>,
    /// `None` if the callers of the group skip it.
    lineage: Option<Lineage>,
}

impl OrderReader<'_> {
    pub(super) fn outbox(&self, read: &mut Read, progress: &Progress) -> anyhow::Result<Outbox> {
        let topic = &self.config.topics.pending;
        let mut outbox = Outbox::default();
        // Where producers and validators put a key, by the hash of most clients; and only then elsewhere.
        let by_hash = self.hashed(topic, &[Partitioner::Murmur2, Partitioner::Crc32])?;
        for partitions in [by_hash.clone(), self.others(topic, &by_hash)?] {
            for partition in partitions {
                let bounds = self.bounds(topic, partition, self.from)?;
                outbox.ends.insert(partition, bounds.end);
                read.orders.starts(partition, bounds.start);
                self.read_outbox(partition, bounds, &mut outbox.records, read, progress)?;
            }
            if !outbox.records.is_empty() {
                break;
            }
        }
        Ok(outbox)
    }

    pub(super) fn rest_of_the_outbox(
        &self,
        outbox: &mut Outbox,
        read: &mut Read,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let topic = &self.config.topics.pending;
        for (partition, from) in &outbox.ends {
            let bounds = Bounds {
                start: *from,
                end: self.reader.settled_bounds(topic, *partition, progress)?.end,
            };
            self.read_outbox(*partition, bounds, &mut outbox.records, read, progress)?;
        }
        Ok(())
    }

    fn read_outbox(
        &self,
        partition: Partition,
        bounds: Bounds,
        records: &mut Vec<OutboxRecord>,
        read: &mut Read,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let topic = &self.config.topics.pending;
        self.visit_within(topic, partition, bounds, progress, |place, record| {
            let before = calls::continuation_within(record, topic, place.partition);
            read.events.push(history::appended(record, place.to_string()));
            // The callers of the group skip it.
            if before.as_ref().is_some_and(|before| before.group != self.group) {
                return Ok(());
            }
            let continues = before.filter(|before| !before.repeats).map(|before| before.call);
            records.push(OutboxRecord {
                key: record.key.into(),
                pending: Pending {
                    partition: place.partition,
                    offset: place.offset,
                    admitted_at: calls::admitted_at(record),
                    first: continues.as_ref().map_or(place.offset, |call| call.offset),
                    is_early: false,
                },
                continues,
                lineage: calls::lineage(record, topic, place.partition, self.group),
            });
            Ok(())
        })
    }
}

/// Folds the records of the outbox, after all terminal records.
pub(super) fn fold(
    mut records: Vec<OutboxRecord>,
    early: &[Position],
    read: &mut Read,
) -> anyhow::Result<()> {
    records.sort_by_key(|record| (record.pending.partition, record.pending.offset));
    for record in records {
        let mut of = record.pending;
        of.is_early = early
            .iter()
            .any(|call| (call.partition, call.offset) == (of.partition, of.offset));
        if matches!(record.lineage, Some(Lineage::Repeats(_))) {
            read.ledger.repeated(of.partition, of.offset);
        }
        let state = read
            .ledger
            .pending(of.partition, of.offset, &record.key, record.continues.as_ref())?;
        let noted = read.ledger.noted_state(of.partition, of.offset, state);
        if let Some(lineage) = record.lineage {
            let named = NamedRecord {
                offset: of.offset,
                lineage,
                noted: read
                    .ledger
                    .noted_state(of.partition, of.offset, RecordState::Open),
                is_selected: true,
                is_expired: false,
                money: None,
            };
            read.orders.pending(&record.key, of.partition, &named);
        }
        read.pending.push((of, noted));
    }
    Ok(())
}
