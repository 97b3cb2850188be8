//! Reading of a state directory and its stores by another program than the validator that owns them.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use records::{KeyHash, Offset, Partition};
use redb::{Builder, ReadOnlyDatabase, ReadTransaction, ReadableDatabase};

use crate::directory::{DirectoryError, IDS, LOCK, TOPICS, parse_ids, partition_of};
use crate::error::{StoreError, guarded};
use crate::file::manifest_damage;
use crate::manifest::{MANIFEST, MANIFEST_ROW, Manifest};
use crate::runs::merge::{MergedRows, open_blocks};

/// State directory as another program sees it. While it is held, no validator can start on the directory.
#[derive(Debug)]
pub struct InspectedDirectory {
    /// True if a running validator has locked it: then its stores cannot be read.
    pub is_in_use: bool,
    /// Topics that it was created for.
    pub topics: Option<String>,
    /// Ids of the topics, by name.
    pub ids: BTreeMap<String, String>,
    /// Files of its stores, by partition.
    pub stores: Vec<StoreFile>,
    // Shared, so that several programs can read it.
    _lock: Option<File>,
}

/// File of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFile {
    /// Partition of the store.
    pub partition: Partition,
    /// Path of the file.
    pub path: PathBuf,
    /// Size of the file.
    pub bytes: u64,
}

impl InspectedDirectory {
    /// Reads a directory. Changes nothing in it.
    ///
    /// # Errors
    /// The directory does not exist, or cannot be read.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let failed = |source| DirectoryError::Io {
            path: path.to_owned(),
            source,
        };
        let (lock, is_in_use) = lock(path).map_err(failed)?;
        let mut stores = Vec::new();
        for file in fs::read_dir(path).map_err(failed)? {
            let file = file.map_err(failed)?;
            if let Some(partition) = partition_of(&file.file_name()) {
                stores.push(StoreFile {
                    partition,
                    path: file.path(),
                    bytes: file.metadata().map_err(failed)?.len(),
                });
            }
        }
        stores.sort_by_key(|store| store.partition);
        let read = |name| match fs::read_to_string(path.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        };
        Ok(Self {
            is_in_use,
            topics: read(TOPICS)?.map(|text| text.trim_end().to_owned()),
            ids: parse_ids(&read(IDS)?.unwrap_or_default())
                .map(|(topic, id)| (topic.to_owned(), id.to_owned()))
                .collect(),
            stores,
            _lock: lock,
        })
    }
}

/// Locks a directory against validators, and returns whether one has locked it.
fn lock(path: &Path) -> io::Result<(Option<File>, bool)> {
    // Not created: a directory without the file was never used.
    let lock = match File::open(path.join(LOCK)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, false)),
        Err(error) => return Err(error),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok((Some(lock), false)),
        Err(TryLockError::WouldBlock) => Ok((None, true)),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A store that is only read, whatever changelog it belongs to.
pub struct ReadOnlyStore {
    // Keeps the file open for the transaction.
    _database: ReadOnlyDatabase,
    read: ReadTransaction,
    manifest: Manifest,
    path: PathBuf,
}

impl ReadOnlyStore {
    /// Opens the store in `path` without changing the file.
    ///
    /// # Errors
    /// It was not closed cleanly ([`StoreError::needs_repair`]), is damaged, or is open in another process.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        guarded("opening", path, || {
            let database = Builder::new().set_cache_size(cache_bytes).open_read_only(path)?;
            let read = database.begin_read()?;
            let bytes = read.open_table(MANIFEST)?.get(MANIFEST_ROW)?;
            let manifest = bytes.and_then(|bytes| Manifest::decode(bytes.value()));
            Ok(Self {
                _database: database,
                read,
                manifest: manifest.ok_or_else(manifest_damage)?,
                path: path.to_owned(),
            })
        })
    }

    /// Returns the text of the identity: format, changelog partition, and number of partitions.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.manifest.identity
    }

    /// Returns the changelog offset up to which the store is equal to the changelog; `None` if nothing was restored.
    #[must_use]
    pub const fn checkpoint(&self) -> Option<Offset> {
        self.manifest.checkpoint
    }

    /// Returns the number of keys; a key that was updated is counted again until its rows are merged.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.manifest.runs.iter().map(|run| run.rows).sum()
    }

    /// Passes every entry to `visit`, as hash of the key and encoded entry, in the order of the hashes.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn for_each(&self, mut visit: impl FnMut(KeyHash, &[u8])) -> Result<(), StoreError> {
        guarded("reading", &self.path, || {
            let blocks: Vec<_> = self
                .manifest
                .runs
                .iter()
                .map(|run| open_blocks(&self.read, run.id))
                .collect::<Result<_, _>>()?;
            let mut rows = MergedRows::new(self.manifest.runs.iter().copied());
            while let Some(row) = rows.next(&blocks)? {
                if let Some(entry) = row.entry_bytes() {
                    visit(row.key(), entry);
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{entry, open, update};
    use crate::{Identity, StateDirectory};

    #[test]
    fn directory_in_use_is_told() {
        let temporary = tempfile::tempdir().expect("a directory");
        let path = temporary.path().join("state");
        assert!(InspectedDirectory::open(&path).is_err(), "no directory");
        fs::create_dir(&path).expect("created");
        assert!(!InspectedDirectory::open(&path).expect("never used").is_in_use);
        assert_eq!(
            fs::read_dir(&path).expect("read").count(),
            0,
            "nothing was created"
        );

        let locked = StateDirectory::lock(&path).expect("free");
        locked.claim("orders with 4 partitions").expect("new");
        locked
            .claim_ids(&[("changelog".to_owned(), "c1".to_owned())].into())
            .expect("new");
        drop(open(&locked.store(Partition(2)), 2));
        let inspected = InspectedDirectory::open(&path).expect("read");
        assert!(inspected.is_in_use);
        drop(locked);
        let inspected = InspectedDirectory::open(&path).expect("read");
        assert!(!inspected.is_in_use);
        assert_eq!(inspected.topics.as_deref(), Some("orders with 4 partitions"));
        assert_eq!(inspected.ids["changelog"], "c1");
        let partitions: Vec<_> = inspected.stores.iter().map(|store| store.partition).collect();
        assert_eq!(partitions, [Partition(2)]);
        assert!(
            StateDirectory::lock(&path).is_err(),
            "no validator starts while stores are read"
        );
        assert!(!InspectedDirectory::open(&path).expect("shared").is_in_use);
    }

    #[test]
    fn store_is_read_without_changing_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.redb");
        let mut store = open(&path, 3).store;
        store
            .apply(
                [update("b", Some(entry(1))), update("a", Some(entry(2)))],
                Offset(7),
                None,
            )
            .expect("applied");
        store.persist().expect("persisted");
        assert!(ReadOnlyStore::open(&path, 1 << 20).is_err(), "open for writing");
        drop(store);

        let before = fs::read(&path).expect("read");
        let store = ReadOnlyStore::open(&path, 1 << 20).expect("a store");
        let expected = Identity {
            changelog: "changelog".into(),
            partition: Partition(3),
            partitions: 4,
        };
        assert_eq!(store.identity(), expected.text());
        assert_eq!((store.checkpoint(), store.keys()), (Some(Offset(7)), 2));
        let mut keys = Vec::new();
        store.for_each(|key, _| keys.push(key)).expect("read");
        let mut expected = [KeyHash::of(b"a"), KeyHash::of(b"b")];
        expected.sort_unstable();
        assert_eq!(keys, expected);
        drop(store);
        assert!(fs::read(&path).expect("read") == before, "the file was changed");
    }

    #[test]
    fn store_of_a_killed_validator_needs_repair() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, killed) = (directory.path().join("0.redb"), directory.path().join("copy"));
        let mut store = open(&path, 0).store;
        store
            .apply([update("a", Some(entry(1)))], Offset(3), None)
            .expect("applied");
        store.persist().expect("persisted");
        fs::copy(&path, &killed).expect("copied");
        drop(store);
        let Err(error) = ReadOnlyStore::open(&killed, 1 << 20) else {
            panic!("opened a file that was not closed");
        };
        assert!(error.needs_repair(), "{error}");
        // Opened as a validator does, which repairs it.
        drop(open(&killed, 0));
        assert_eq!(
            ReadOnlyStore::open(&killed, 1 << 20)
                .expect("repaired")
                .checkpoint(),
            Some(Offset(3))
        );
        fs::write(&killed, b"no store").expect("written");
        let error = ReadOnlyStore::open(&killed, 1 << 20).err().expect("damaged");
        assert!(!error.needs_repair() && error.is_corruption(), "{error}");
    }
}
