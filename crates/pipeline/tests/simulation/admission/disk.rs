//! Simulated stores: the state that a process sees, and the state that survives its death.

use std::collections::BTreeMap;

use records::{Entry, Forgotten, KeyHash, Offset, Partition, Timestamp};

/// Content of a store, always changed as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) entries: BTreeMap<KeyHash, Entry>,
    pub(crate) checkpoint: Option<Offset>,
    /// Recorded time of the newest key.
    pub(crate) newest: Option<Timestamp>,
    /// Keys that were applied together, which are forgotten together; the oldest first.
    runs: Vec<Run>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    keys: Vec<KeyHash>,
    end: Offset,
    newest: Timestamp,
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
        recorded: Option<Timestamp>,
    ) {
        let newest = recorded.max(self.content.newest);
        self.content.newest = newest;
        let mut run = Run {
            keys: Vec::new(),
            end: checkpoint,
            newest: newest.unwrap_or(Timestamp(0)),
        };
        for (key, entry) in changes {
            run.keys.push(key);
            match entry {
                Some(entry) => self.content.entries.insert(key, entry),
                None => self.content.entries.remove(&key),
            };
        }
        if !run.keys.is_empty() {
            self.content.runs.push(run);
        }
        self.content.checkpoint = Some(checkpoint);
        self.is_durable = false;
    }

    /// Returns what can be forgotten of the keys that were recorded before `cutoff`.
    pub(crate) fn forgettable(&self, cutoff: Timestamp) -> Option<Forgotten> {
        let old = self.content.runs.iter().take_while(|run| run.newest < cutoff);
        old.last().map(|run| Forgotten {
            below: run.end,
            before: Timestamp(run.newest.0 + 1),
        })
    }

    /// Removes forgotten keys.
    pub(crate) fn forget(&mut self, forgotten: Forgotten) {
        let is_old = |run: &Run| run.end <= forgotten.below && run.newest < forgotten.before;
        while self.content.runs.first().is_some_and(is_old) {
            for key in self.content.runs.remove(0).keys {
                // A key that was recorded again is in a later run, too.
                if !self.content.runs.iter().any(|run| run.keys.contains(&key)) {
                    self.content.entries.remove(&key);
                }
            }
            self.is_durable = false;
        }
    }

    pub(crate) fn persist(&mut self, disk: &mut Disk, partition: Partition) {
        if !self.is_durable {
            disk.stores.insert(partition, self.content.clone());
            self.is_durable = true;
        }
    }
}
