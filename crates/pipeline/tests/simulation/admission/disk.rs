//! Stores, each with what a process sees and what survives its death.

use std::collections::BTreeMap;

use records::{Entry, IdempotencyKey, Offset, Partition};

/// What a store holds; always changed as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) entries: BTreeMap<IdempotencyKey, Entry>,
    pub(crate) checkpoint: Option<Offset>,
}

/// The disk of one machine: the durable copies.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) stores: BTreeMap<Partition, Content>,
    /// Files that no longer open.
    pub(crate) corrupt: Vec<Partition>,
}

/// An open store.
pub(crate) struct Store {
    pub(crate) content: Content,
    pub(crate) is_durable: bool,
}

impl Store {
    /// Opens what is there; a file that is corrupt is begun anew.
    pub(crate) fn open(disk: &mut Disk, partition: Partition) -> Self {
        if disk.corrupt.contains(&partition) {
            disk.corrupt.retain(|other| *other != partition);
            disk.stores.remove(&partition);
        }
        Self {
            content: disk.stores.get(&partition).cloned().unwrap_or_default(),
            is_durable: true,
        }
    }

    pub(crate) fn apply(
        &mut self,
        changes: impl IntoIterator<Item = (IdempotencyKey, Option<Entry>)>,
        checkpoint: Offset,
    ) {
        for (key, entry) in changes {
            match entry {
                Some(entry) => self.content.entries.insert(key, entry),
                None => self.content.entries.remove(&key),
            };
        }
        self.content.checkpoint = Some(checkpoint);
        self.is_durable = false;
    }

    pub(crate) fn persist(&mut self, disk: &mut Disk, partition: Partition) {
        if !self.is_durable {
            disk.stores.insert(partition, self.content.clone());
            self.is_durable = true;
        }
    }
}
