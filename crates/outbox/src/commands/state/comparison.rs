//! Comparison of the changelog with the outbox: which entries the changelog lacks.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use comfy_table::Table;
use kafka::changelog::{ChangelogReader, ChangelogRecord, ReadError};
use pipeline::admission::{AdmittedOrder, ChangelogRebuild};
use records::pending::Admission;
use records::{AmountForm, Bounds, Entry, Partition, Selection, Timestamp, Topics};
use serde::Serialize;

use super::forgotten_offsets::ForgottenOffsets;
use crate::brokers::REQUEST_TIMEOUT;
use crate::tables::new_table;
use crate::timestamp::rfc3339;

/// Interval of the progress messages.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Comparison of a partition. Its field names are those of the JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Compared {
    pub(super) partition: Partition,
    /// Number of keys in the changelog and the outbox together.
    pub(super) keys: u64,
    /// Number of entries that the changelog lacks.
    pub(super) missing: u64,
    /// Set if keys between the changelog's last entry and the outbox's first order may be lost for good.
    pub(super) gap: Option<GapShown>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct GapShown {
    /// Last admission in the changelog, as offset of the order and time; `None` if it is empty.
    pub(super) last_entry: Option<String>,
    /// First admission in the outbox; `None` if it is empty.
    pub(super) first_order: Option<String>,
}

/// Comparison of the changelog with the outbox.
pub(super) struct Comparison<'a> {
    pub(super) reader: ChangelogReader,
    pub(super) topics: &'a Topics,
    /// Settings of the validators.
    pub(super) amount: Option<AmountForm>,
    pub(super) fingerprint: &'a Selection,
    pub(super) forgotten: ForgottenOffsets,
}

impl Comparison<'_> {
    pub(super) fn compare_all(&self, partitions: &[Partition]) -> anyhow::Result<Vec<Compared>> {
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

    /// Compares a partition, and passes each missing entry to `sink`, in the order of the outbox, with the time to record
    /// it at.
    pub(super) fn visit_missing(
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
            .forgotten
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
pub(super) fn read(
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

pub(super) fn table(compared: &[Compared]) -> Table {
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
