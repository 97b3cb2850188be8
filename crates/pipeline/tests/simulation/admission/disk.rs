//! Simulated stores: the state that a process sees, and the state that survives its death.

use std::collections::BTreeMap;

use records::{Entry, KeyHash, Offset, Partition};

/// Content of a store, always changed as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) entries: BTreeMap<KeyHash, Entry>,
    pub(crate) checkpoint: Option<Offset>,
}

/// Durable stores of one host.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) stores: BTreeMap<Partition, Content>,
    /// Partitions whose file cannot be opened.
    pub(crate) corrupt: Vec<Partition>,
}

/// Open store.
pub(crate) struct Store {
    pub(crate) content: Content,
    pub(crate) is_durable: bool,
}

impl Store {
    /// Opens the store of a partition. A corrupt file is replaced by an empty store.
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
        changes: impl IntoIterator<Item = (KeyHash, Option<Entry>)>,
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
