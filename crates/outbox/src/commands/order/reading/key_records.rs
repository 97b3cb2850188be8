//! Records of one key: in the partitions that its hash names, from a time on.

use anyhow::Context;
use kafka::group_offsets::TopicRecord;
use pipeline::admission::Partitioner;
use records::{Bounds, Partition, Position, Timestamp};

use super::OrderReader;
use crate::brokers::REQUEST_TIMEOUT;
use crate::progress::Progress;

impl OrderReader<'_> {
    pub(super) fn visit(
        &self,
        topic: &str,
        partitions: &[Partition],
        since: Option<Timestamp>,
        progress: &Progress,
        mut sink: impl FnMut(&Position, &TopicRecord<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for partition in partitions {
            let bounds = self.bounds(topic, *partition, since)?;
            self.visit_within(topic, *partition, bounds, progress, &mut sink)?;
        }
        Ok(())
    }

    /// Returns the bounds of what a partition has from a time on.
    pub(super) fn bounds(
        &self,
        topic: &str,
        partition: Partition,
        since: Option<Timestamp>,
    ) -> anyhow::Result<Bounds> {
        let bounds = self.reader.bounds(topic, partition)?;
        let Some(since) = since.filter(|_| bounds.start < bounds.end) else {
            return Ok(bounds);
        };
        let start = self
            .reader
            .offsets
            .offset_at(topic, partition, since, REQUEST_TIMEOUT)?;
        Ok(Bounds {
            start: start.unwrap_or(bounds.end),
            ..bounds
        })
    }

    pub(super) fn visit_within(
        &self,
        topic: &str,
        partition: Partition,
        bounds: Bounds,
        progress: &Progress,
        mut sink: impl FnMut(&Position, &TopicRecord<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        progress.wait(format!("reading {topic}/{partition}"));
        self.reader
            .offsets
            .read_key::<anyhow::Error>(topic, partition, bounds, self.key, |record| {
                let place = Position {
                    topic: topic.to_owned(),
                    partition,
                    offset: record.offset,
                };
                sink(&place, record).with_context(|| format!("reading {place}"))
            })
    }

    /// Returns the partitions that the hashes of the key name.
    pub(super) fn hashed(&self, topic: &str, partitioners: &[Partitioner]) -> anyhow::Result<Vec<Partition>> {
        let count = u32::try_from(self.reader.partitions(topic)?.len())?;
        let mut hashed = partitioners
            .iter()
            .filter_map(|by| by.partition(self.key, count))
            .map(|partition| Ok(Partition(i32::try_from(partition)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        hashed.dedup();
        Ok(hashed)
    }

    pub(super) fn others(&self, topic: &str, known: &[Partition]) -> anyhow::Result<Vec<Partition>> {
        let mut all = self.reader.partitions(topic)?;
        all.retain(|partition| !known.contains(partition));
        Ok(all)
    }
}
