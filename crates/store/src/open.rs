//! Opening a store: the file is used, or replaced by an empty one if it cannot be trusted.

use std::fs;
use std::path::Path;

use hashbrown::HashMap;
use redb::Builder;

use crate::error::{StoreError, guarded};
use crate::identity::{Identity, identify};
use crate::read::snapshot;
use crate::store::Store;

/// Options for opening a store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of redb's cache in memory, in bytes.
    pub cache_bytes: usize,
    /// Verify the checksum of every page of the file once, before anything in it is trusted. Takes about 0.2
    /// s for a million keys in the page cache.
    // redb reads without looking at checksums, and a page that has changed on disk is a key that is not
    // found.
    pub verify: bool,
}

/// An opened store, and whether its file was replaced.
pub struct Opened {
    /// The store, ready for use.
    pub store: Store,
    /// Reason why the existing file was replaced, if there was one and it was.
    pub rebuild_reason: Option<String>,
}

/// A store, or the identity that its file has instead of the expected one.
type Identified = Result<Store, String>;

impl Store {
    /// Opens the store in `path`. Creates an empty one if there is no file, if the file is damaged, or if it
    /// belongs to another changelog.
    ///
    /// # Errors
    /// The operating system failed, or another process has the file open; an existing file is left as it is.
    /// Or a new file cannot be created.
    pub fn open(path: &Path, identity: &Identity, options: Options) -> Result<Opened, StoreError> {
        let existed = path.exists();
        let rebuild_reason = match Self::open_file(path, identity, options) {
            Ok(Ok(store)) => {
                return Ok(Opened {
                    store,
                    rebuild_reason: None,
                });
            }
            Ok(Err(other)) => format!("it is a store of {other}, and {} is wanted", identity.text()),
            // Only a proven corruption: without a file handle or on a full disk the file is healthy, and its
            // keys would be read from the changelog for nothing.
            Err(error) if existed && error.is_corruption() => error.to_string(),
            Err(error) => return Err(error),
        };
        fs::remove_file(path).map_err(|source| StoreError::Remove {
            path: path.to_owned(),
            source,
        })?;
        match Self::open_file(path, identity, options)? {
            Ok(store) => Ok(Opened {
                store,
                rebuild_reason: Some(rebuild_reason),
            }),
            Err(other) => unreachable!("a new store has the identity {other}"),
        }
    }

    fn open_file(path: &Path, identity: &Identity, options: Options) -> Result<Identified, StoreError> {
        let expected = identity.text();
        guarded("opening", path, || {
            let mut database = Builder::new().set_cache_size(options.cache_bytes).create(path)?;
            if options.verify && !database.check_integrity()? {
                // redb has repaired the file, but what it dropped are keys: their orders would be paid twice.
                let damaged = "a page is not as redb wrote it".to_owned();
                return Err(redb::StorageError::Corrupted(damaged).into());
            }
            let (found, checkpoint) = identify(&database, &expected)?;
            if found != expected {
                return Ok(Err(found));
            }
            Ok(Ok(Self {
                snapshot: Some(snapshot(&database)?),
                database,
                pending: HashMap::new(),
                checkpoint,
                is_durable: true,
                path: path.to_owned(),
            }))
        })
    }
}
