//! One partition's store: entries by key, and the checkpoint, always changed together.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use hashbrown::HashMap;
use records::entry::InvalidEntry;
use records::{Entry, IdempotencyKey, Offset, Partition};
use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata,
};

use crate::tables::{CHECKPOINT, CHECKPOINT_ROW, ENTRIES, IDENTITY, IDENTITY_ROW};

/// The entries of one partition.
pub struct Store {
    database: Database,
    /// A snapshot as of the last change. Taken once per change, not per look-up; dropped before a change,
    /// so that redb can use the freed pages again.
    snapshot: Option<ReadOnlyTable<&'static [u8], &'static [u8]>>,
    /// What was admitted since the last write. A crash takes it back, as it would a write that is not
    /// durable; written in one go it costs a fraction, since neighbouring keys share pages.
    pending: HashMap<Box<[u8]>, Option<Entry>>,
    checkpoint: Option<Offset>,
    durable: bool,
    path: PathBuf,
}

/// As many admitted keys as are held in memory before they are written: some 100 bytes each.
const PENDING_MAX: usize = 10_000;

/// Whose changelog a store holds; a store of another one is rebuilt, not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The changelog's topic.
    pub changelog: String,
    /// The partition.
    pub partition: Partition,
    /// How many partitions the topic has: with another number, keys lie elsewhere.
    pub partitions: usize,
}

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What redb may hold of it in memory, in bytes.
    pub cache_bytes: usize,
    /// Whether each page of the file is read and checked against its checksum, once, before anything in it
    /// is believed. redb itself reads without looking at checksums, and a page that has changed on the disk
    /// is a key that is not found. It takes some 0.2 s for a million keys in the page cache.
    pub verify: bool,
}

/// A store that was opened.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Why the file that was there is not used, if there was one.
    pub rebuilt_because: Option<String>,
}

/// New state of one key, as committed in the changelog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreUpdate {
    /// Bytes of the idempotency key.
    pub key: Box<[u8]>,
    /// Entry to store; `None` removes the key.
    pub entry: Option<Entry>,
}

impl From<(IdempotencyKey, Entry)> for StoreUpdate {
    fn from((key, entry): (IdempotencyKey, Entry)) -> Self {
        Self {
            key: key.into_bytes(),
            entry: Some(entry),
        }
    }
}

/// The store cannot be read or written. The file is not to be trusted further; the changelog is.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// redb or the disk failed.
    #[error("{attempted} the store {} failed: {source}", path.display())]
    Database {
        /// What was attempted.
        attempted: &'static str,
        /// The store's file.
        path: PathBuf,
        /// What redb said.
        source: Box<redb::Error>,
    },
    /// redb has met what it holds to be impossible: the file was changed by something else than redb.
    #[error("{attempted} the store {} failed: redb panicked: {panic}", path.display())]
    Panicked {
        /// What was attempted.
        attempted: &'static str,
        /// The store's file.
        path: PathBuf,
        /// The panic's text.
        panic: String,
    },
    /// The entry of a key is not one.
    #[error("the store {} has no readable entry under the key {key:?}: {source}", path.display())]
    Entry {
        /// The store's file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with the entry.
        source: InvalidEntry,
    },
    /// The file cannot be removed to be rebuilt.
    #[error("removing the store {} failed: {source}", path.display())]
    Remove {
        /// The store's file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl Store {
    /// Opens the store in `path`, or makes an empty one: when there is none, when the file is not sound, and
    /// when it is another changelog's.
    ///
    /// # Errors
    /// Neither the old file nor a new one can be opened.
    pub fn open(path: &Path, identity: &Identity, options: Options) -> Result<Opened, StoreError> {
        let existed = path.exists();
        let rebuilt_because = match Self::open_as(path, identity, options) {
            Ok(Ok(store)) => {
                return Ok(Opened {
                    store,
                    rebuilt_because: None,
                });
            }
            Ok(Err(other)) => format!("it is a store of {other}, and {} is wanted", identity.text()),
            // A file that another process holds is healthy; deleting it would not help.
            Err(StoreError::Database { source, .. })
                if existed && !matches!(*source, redb::Error::DatabaseAlreadyOpen) =>
            {
                source.to_string()
            }
            Err(error @ StoreError::Panicked { .. }) if existed => error.to_string(),
            Err(error) => return Err(error),
        };
        fs::remove_file(path).map_err(|source| StoreError::Remove {
            path: path.to_owned(),
            source,
        })?;
        match Self::open_as(path, identity, options)? {
            Ok(store) => Ok(Opened {
                store,
                rebuilt_because: Some(rebuilt_because),
            }),
            Err(other) => unreachable!("a new store says that it is one of {other}"),
        }
    }

    /// The entry of a key.
    ///
    /// # Errors
    /// The file cannot be read, or what it holds is no entry.
    pub fn get(&self, key: &IdempotencyKey) -> Result<Option<Entry>, StoreError> {
        if let Some(entry) = self.pending.get(key.as_bytes()) {
            return Ok(*entry);
        }
        let Some(snapshot) = &self.snapshot else {
            // A key that cannot be looked up is not an unknown one.
            return Err(self.failed("reading", redb::StorageError::DatabaseClosed));
        };
        let decoded = guarded("reading", &self.path, || {
            let found = snapshot.get(key.as_bytes())?;
            Ok(found.map(|bytes| Entry::decode(bytes.value())))
        })?;
        decoded.transpose().map_err(|source| StoreError::Entry {
            path: self.path.clone(),
            key: key.to_string(),
            source,
        })
    }

    /// The changelog offset up to which this store equals the changelog; `None` if it is new.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Offset> {
        self.checkpoint
    }

    /// Returns the number of keys, pending updates included.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn len(&self) -> Result<u64, StoreError> {
        let Some(snapshot) = &self.snapshot else {
            return Ok(0);
        };
        guarded("counting", &self.path, || {
            let mut count = snapshot.len()?;
            for (key, entry) in &self.pending {
                match (snapshot.get(&**key)?.is_some(), entry.is_some()) {
                    (false, true) => count += 1,
                    (true, false) => count -= 1,
                    (true, true) | (false, false) => {}
                }
            }
            Ok(count)
        })
    }

    /// Whether there is no key.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len()? == 0)
    }

    /// Hands out every entry that was written, in the order of the keys.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn for_each(&self, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        let Some(snapshot) = &self.snapshot else {
            return Ok(());
        };
        for row in snapshot
            .range::<&[u8]>(..)
            .map_err(|error| self.failed("reading", error))?
        {
            let (key, entry) = row.map_err(|error| self.failed("reading", error))?;
            visit(key.value(), entry.value());
        }
        Ok(())
    }

    /// Applies updates that Kafka has committed, and moves the checkpoint. The last update of a key counts.
    ///
    /// Updates are gathered in memory and written in large batches; until the next [`Self::persist`] a crash takes
    /// them back, and the checkpoint with them.
    ///
    /// # Errors
    /// The disk failed; the store is to be rebuilt.
    pub fn apply(
        &mut self,
        updates: impl IntoIterator<Item = StoreUpdate>,
        checkpoint: Offset,
    ) -> Result<(), StoreError> {
        let updates = updates.into_iter().map(|update| (update.key, update.entry));
        self.pending.extend(updates);
        self.checkpoint = Some(checkpoint);
        self.durable = false;
        if self.pending.len() >= PENDING_MAX {
            self.flush(Durability::None)
        } else {
            Ok(())
        }
    }

    /// Makes all that was applied durable, so that a later restore begins here.
    ///
    /// # Errors
    /// The disk failed; what was applied can still be read, and is in the changelog.
    pub fn persist(&mut self) -> Result<(), StoreError> {
        if !self.durable {
            self.flush(Durability::Immediate)?;
            self.durable = true;
        }
        Ok(())
    }

    /// Writes pending updates and the checkpoint in one transaction.
    fn flush(&mut self, durability: Durability) -> Result<(), StoreError> {
        let pending = std::mem::take(&mut self.pending);
        let mut updates: Vec<(Box<[u8]>, Option<Entry>)> = pending.into_iter().collect();
        // Neighbouring keys share pages: in key order each page is touched once.
        updates.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        self.snapshot = None;
        let written = guarded("writing", &self.path, || {
            write(&self.database, &updates, self.checkpoint, durability)
        });
        // Also after a failure: what was there before is still there to be read.
        self.snapshot = Some(guarded("reading", &self.path, || snapshot(&self.database))?);
        written
    }

    /// Opens the file. The inner error is the identity that the file gives instead of the one wanted.
    fn open_as(
        path: &Path,
        identity: &Identity,
        options: Options,
    ) -> Result<Result<Self, String>, StoreError> {
        let wanted = identity.text();
        guarded("opening", path, || {
            let mut database = Builder::new().set_cache_size(options.cache_bytes).create(path)?;
            if options.verify && !database.check_integrity()? {
                let unsound = "a page is not as redb wrote it".to_owned();
                return Err(redb::StorageError::Corrupted(unsound).into());
            }
            let (found, checkpoint) = identify(&database, &wanted)?;
            if found != wanted {
                return Ok(Err(found));
            }
            Ok(Ok(Self {
                snapshot: Some(snapshot(&database)?),
                database,
                pending: HashMap::new(),
                checkpoint,
                durable: true,
                path: path.to_owned(),
            }))
        })
    }

    fn failed(&self, attempted: &'static str, error: impl Into<redb::Error>) -> StoreError {
        StoreError::Database {
            attempted,
            path: self.path.clone(),
            source: Box::new(error.into()),
        }
    }
}

impl Identity {
    /// As it stands in the file. It begins with the version of the tables' layout.
    fn text(&self) -> String {
        format!("v1 {}/{} of {}", self.changelog, self.partition, self.partitions)
    }
}

/// Does something with redb. A panic is an error like any other: redb meets a file that something else has
/// changed with an assertion as often as with an error, and the file can be rebuilt.
fn guarded<T>(
    attempted: &'static str,
    path: &Path,
    work: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|source| StoreError::Database {
            attempted,
            path: path.to_owned(),
            source: Box::new(source),
        }),
        Err(panic) => Err(StoreError::Panicked {
            attempted,
            path: path.to_owned(),
            panic: text_of(panic.as_ref()),
        }),
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
        .to_owned()
}

/// The identity that the file gives, which for a new one is the one wanted, and its checkpoint.
fn identify(database: &Database, wanted: &str) -> Result<(String, Option<Offset>), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    let found = {
        let mut identity = transaction.open_table(IDENTITY)?;
        let found = identity.get(IDENTITY_ROW)?.map(|text| text.value().to_owned());
        match found {
            Some(found) => found,
            None => {
                identity.insert(IDENTITY_ROW, wanted)?;
                wanted.to_owned()
            }
        }
    };
    let checkpoint = transaction
        .open_table(CHECKPOINT)?
        .get(CHECKPOINT_ROW)?
        .map(|row| Offset(row.value()));
    transaction.open_table(ENTRIES)?;
    transaction.commit()?;
    Ok((found, checkpoint))
}

fn write(
    database: &Database,
    updates: &[(Box<[u8]>, Option<Entry>)],
    checkpoint: Option<Offset>,
    durability: Durability,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(durability)?;
    // After a crash the file opens in milliseconds instead of being read as a whole.
    transaction.set_quick_repair(matches!(durability, Durability::Immediate));
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        for (key, entry) in updates {
            match entry {
                Some(entry) => entries.insert(&**key, &entry.encode()[..])?,
                None => entries.remove(&**key)?,
            };
        }
    }
    if let Some(checkpoint) = checkpoint {
        transaction
            .open_table(CHECKPOINT)?
            .insert(CHECKPOINT_ROW, checkpoint.0)?;
    }
    transaction.commit()?;
    Ok(())
}

fn snapshot(database: &Database) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>, redb::Error> {
    Ok(database.begin_read()?.open_table(ENTRIES)?)
}

#[cfg(test)]
mod tests {
    use records::entry::Status;
    use records::{Fingerprint, Timestamp};

    use super::*;

    const OPTIONS: Options = Options {
        cache_bytes: 1 << 20,
        verify: true,
    };

    fn identity(partition: i32) -> Identity {
        Identity {
            changelog: "changelog".into(),
            partition: Partition(partition),
            partitions: 4,
        }
    }

    fn entry(source: i64) -> Entry {
        Entry {
            status: Status::Pending,
            fingerprint: Fingerprint::of(&source.to_be_bytes()),
            admitted_at: Timestamp(1),
            source: Offset(source),
        }
    }

    fn key(text: &str) -> IdempotencyKey {
        IdempotencyKey::new(text).expect("a key")
    }

    fn update(key: &str, entry: Option<Entry>) -> StoreUpdate {
        StoreUpdate {
            key: key.as_bytes().into(),
            entry,
        }
    }

    fn open(path: &Path, partition: i32) -> Opened {
        Store::open(path, &identity(partition), OPTIONS).expect("a store")
    }

    #[test]
    fn what_was_persisted_is_there_after_reopening_with_its_checkpoint() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.redb");
        let mut store = open(&path, 0).store;
        assert_eq!(store.checkpoint(), None);
        let updates = [
            update("b", Some(entry(1))),
            update("a", Some(entry(2))),
            update("b", None),
        ];
        store.apply(updates, Offset(7)).expect("applied");
        store.persist().expect("persisted");
        drop(store);

        let Opened {
            store,
            rebuilt_because,
        } = open(&path, 0);
        assert_eq!(rebuilt_because, None);
        assert_eq!(store.checkpoint(), Some(Offset(7)));
        assert_eq!(store.get(&key("a")).expect("read"), Some(entry(2)));
        assert_eq!(
            store.get(&key("b")).expect("read"),
            None,
            "the last change of a key counts"
        );
        assert_eq!(store.len().expect("counted"), 1);
    }

    #[test]
    fn what_was_admitted_is_known_at_once_and_durable_with_its_checkpoint() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.redb");
        let mut store = open(&path, 0).store;
        store
            .apply([update("a", Some(entry(1)))], Offset(3))
            .expect("applied");
        assert_eq!(store.get(&key("a")).expect("read"), Some(entry(1)));
        let before = (0..PENDING_MAX).map(|n| update(&format!("k{n}"), Some(entry(2))));
        store.apply(before, Offset(9)).expect("applied");
        assert_eq!(
            store.len().expect("counted"),
            1 + PENDING_MAX as u64,
            "written when there are many"
        );
        store
            .apply([update("b", Some(entry(4)))], Offset(11))
            .expect("applied");
        store.persist().expect("persisted");
        drop(store);
        let store = open(&path, 0).store;
        assert_eq!(
            (store.checkpoint(), store.get(&key("b")).expect("read")),
            (Some(Offset(11)), Some(entry(4)))
        );
    }

    #[test]
    fn another_partitions_store_and_a_garbled_file_are_rebuilt() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.redb");
        let mut store = open(&path, 0).store;
        store
            .apply([update("a", Some(entry(1)))], Offset(1))
            .expect("applied");
        store.persist().expect("persisted");
        drop(store);

        let other = open(&path, 1);
        assert!(
            other
                .rebuilt_because
                .is_some_and(|why| why.contains("changelog/0 of 4"))
        );
        assert_eq!(
            (other.store.checkpoint(), other.store.len().expect("counted")),
            (None, 0)
        );
        drop(other.store);

        fs::write(&path, vec![0x5a; 100_000]).expect("garbled");
        let rebuilt = open(&path, 1);
        assert!(rebuilt.rebuilt_because.is_some());
        assert_eq!(rebuilt.store.checkpoint(), None);
    }

    #[test]
    fn a_store_in_use_is_not_taken_for_a_broken_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.redb");
        let _held = open(&path, 0);
        assert!(Store::open(&path, &identity(0), OPTIONS).is_err());
        assert!(path.exists());
    }
}
