//! Opening a store: the file is used, or replaced by an empty one if it cannot be trusted.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::error::StoreError;
use crate::file::RunsFile;
use crate::identity::Identity;
use crate::store::Store;
use crate::writer::StoreWriter;

/// Options for opening a store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of redb's cache in memory, in bytes.
    pub cache_bytes: usize,
    /// Number of updates in memory at which they are written. Twice as many are in memory while they are.
    pub recent_max: usize,
    /// Length of the periods of recorded time whose keys are kept, and forgotten, together; `None` if no key is ever
    /// forgotten.
    pub period: Option<Duration>,
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
    /// Opens the store in `path`, which `writer` writes. Creates an empty one if there is no file, if the file is
    /// damaged, or if it belongs to another changelog.
    ///
    /// Damage of a part that is not read here is found when it is read: [`StoreError::is_corruption`].
    ///
    /// # Errors
    /// The operating system failed, or another process has the file open; an existing file is left as it is.
    /// Or a new file cannot be created.
    pub fn open(
        path: &Path,
        identity: &Identity,
        options: Options,
        writer: &StoreWriter,
    ) -> Result<Opened, StoreError> {
        let existed = path.exists();
        let rebuild_reason = match Self::open_file(path, identity, options, writer) {
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
        match Self::open_file(path, identity, options, writer)? {
            Ok(store) => Ok(Opened {
                store,
                rebuild_reason: Some(rebuild_reason),
            }),
            Err(other) => unreachable!("a new store has the identity {other}"),
        }
    }

    fn open_file(
        path: &Path,
        identity: &Identity,
        options: Options,
        writer: &StoreWriter,
    ) -> Result<Identified, StoreError> {
        let expected = identity.text();
        let file = RunsFile::open(path, &expected, options.cache_bytes, options.period)?;
        if file.identity() != expected {
            return Ok(Err(file.identity().to_owned()));
        }
        Self::new(file, path.to_owned(), options.recent_max, writer.clone()).map(Ok)
    }
}
