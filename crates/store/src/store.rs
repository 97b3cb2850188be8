//! The store of one partition: entries by key, and the checkpoint, which always change together.

use std::path::PathBuf;

use hashbrown::HashMap;
use records::{Entry, Offset};
use redb::{Database, ReadOnlyTable};

/// Entries of one partition, by idempotency key.
pub struct Store {
    pub(crate) database: Database,
    /// Entries as of the last write; `None` after a write whose snapshot could not be taken.
    // Taken once per write, not per look-up. Dropped before a write, so that redb can reuse the freed pages.
    pub(crate) snapshot: Option<Snapshot>,
    /// Updates that are not written yet, by key. `None` removes the key.
    // A crash loses them, as it loses a write that is not durable. Written together they cost a fraction,
    // since neighbouring keys share pages.
    pub(crate) pending: HashMap<Box<[u8]>, Option<Entry>>,
    /// Changelog offset that file and pending updates together are equal to.
    pub(crate) checkpoint: Option<Offset>,
    /// Set while the file on disk is equal to this store.
    pub(crate) is_durable: bool,
    pub(crate) path: PathBuf,
}

/// Read-only view of the entries.
pub(crate) type Snapshot = ReadOnlyTable<&'static [u8], &'static [u8]>;
