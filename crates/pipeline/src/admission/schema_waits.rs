//! Waits for schemas: a partition whose next record names a schema that is not known is paused at that record.
//!
//! The record is not decided, and nothing behind it is: the order of the records stays, and none is dropped. What was
//! decided before is committed as always. Once the registry has answered, the partition is read again from the record on.

use std::collections::{BTreeMap, BTreeSet};

use records::{Offset, Partition};
use schemas::SchemaId;

/// Partitions that wait for a schema.
#[derive(Debug, Default)]
pub(super) struct SchemaWaits {
    partitions: BTreeMap<Partition, Wait>,
}

/// Wait of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wait {
    at: Offset,
    schema: SchemaId,
    /// The consumer knows of it.
    is_announced: bool,
}

/// Partition that waits for a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaWait {
    /// Partition of the orders topic.
    pub partition: Partition,
    /// Offset of the record that names the schema.
    pub at: Offset,
    /// Schema that is not known.
    pub schema: SchemaId,
}

impl SchemaWaits {
    /// Has a partition wait at a record.
    pub(super) fn begin(&mut self, partition: Partition, at: Offset, schema: SchemaId) {
        let wait = Wait {
            at,
            schema,
            is_announced: false,
        };
        self.partitions.insert(partition, wait);
    }

    /// Returns `true` while no record of the partition may be decided.
    pub(super) fn is_waiting(&self, partition: Partition) -> bool {
        self.partitions.contains_key(&partition)
    }

    /// Returns `true` if a partition is to be paused.
    pub(super) fn is_due(&self) -> bool {
        self.partitions.values().any(|wait| !wait.is_announced)
    }

    /// Returns the partitions to pause.
    pub(super) fn announce(&mut self) -> Vec<Partition> {
        let waits = self.partitions.iter_mut().filter(|(_, wait)| !wait.is_announced);
        waits
            .map(|(partition, wait)| {
                wait.is_announced = true;
                *partition
            })
            .collect()
    }

    /// Ends the waits for a schema. Returns where their partitions go on.
    pub(super) fn end(&mut self, schema: SchemaId) -> Vec<(Partition, Offset)> {
        let ended = self.partitions.iter().filter(|(_, wait)| wait.schema == schema);
        let ended: Vec<_> = ended.map(|(partition, wait)| (*partition, wait.at)).collect();
        for (partition, _) in &ended {
            self.partitions.remove(partition);
        }
        ended
    }

    /// Forgets the wait of a partition that does not go on.
    pub(super) fn forget(&mut self, partition: Partition) {
        self.partitions.remove(&partition);
    }

    /// Forgets all waits: each partition starts again at its committed offset, or not at all.
    pub(super) fn forget_all(&mut self) {
        self.partitions.clear();
    }

    /// Returns the schemas that are waited for.
    pub(super) fn wanted(&self) -> BTreeSet<SchemaId> {
        self.partitions.values().map(|wait| wait.schema).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = SchemaWait> + '_ {
        self.partitions.iter().map(|(partition, wait)| SchemaWait {
            partition: *partition,
            at: wait.at,
            schema: wait.schema,
        })
    }
}
