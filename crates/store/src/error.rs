//! Errors of a store, and the guard that turns redb's panics into errors.

use std::any::Any;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use records::Offset;
use records::entry::InvalidEntry;

/// Failed access to a store. The store must be closed; whether its file can be trusted any further,
/// [`StoreError::is_corruption`] says.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// redb or the disk failed.
    #[error("{attempted} the store {} failed: {source}", path.display())]
    Database {
        /// Attempted operation, as a verb.
        attempted: &'static str,
        /// Path of the store's file.
        path: PathBuf,
        /// Error that redb returned.
        source: Box<redb::Error>,
    },
    /// redb found a state that it holds to be impossible: something other than redb has changed the file.
    #[error("{attempted} the store {} failed: redb panicked: {panic}", path.display())]
    Panicked {
        /// Attempted operation, as a verb.
        attempted: &'static str,
        /// Path of the store's file.
        path: PathBuf,
        /// Message of the panic.
        panic: String,
    },
    /// The value of a key is not an entry.
    #[error("the store {} has no readable entry under the key {key:?}: {source}", path.display())]
    Entry {
        /// Path of the store's file.
        path: PathBuf,
        /// Idempotency key of the entry.
        key: String,
        /// Defect of the value.
        source: InvalidEntry,
    },
    /// The changelog has lost its end, so the store may hold the last copy of some keys. Nothing was applied.
    #[error(
        "moving the checkpoint of the store {} back from {from} to {to} was refused: the changelog has lost \
         records that Kafka had acknowledged. The store is kept, as it may hold the last copy of their keys. \
         Stop all validators, and rebuild the changelog from the outbox: outbox state rebuild",
        path.display()
    )]
    CheckpointBackwards {
        /// Path of the store's file.
        path: PathBuf,
        /// Checkpoint of the store.
        from: Offset,
        /// Checkpoint that was refused.
        to: Offset,
    },
    /// A write has failed before.
    #[error("the store {} is not used any further: a write to it has failed before", path.display())]
    Failed {
        /// Path of the store's file.
        path: PathBuf,
    },
    /// The file cannot be removed in order to be rebuilt.
    #[error("removing the store {} failed: {source}", path.display())]
    Remove {
        /// Path of the store's file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
}

impl StoreError {
    /// Returns `true` if the file was not closed cleanly, so that it must be opened for writing first, which repairs it.
    #[must_use]
    pub fn needs_repair(&self) -> bool {
        matches!(self, Self::Database { source, .. } if matches!(**source, redb::Error::RepairAborted))
    }

    /// Returns `true` if the error proves that the file is not as redb wrote it. Any other error may be the
    /// operating system's (no file handle, no space, a failing disk), and leaves a file that may be sound.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Database { source, .. } => proves_corruption(source),
            Self::Panicked { .. } | Self::Entry { .. } => true,
            Self::CheckpointBackwards { .. } | Self::Failed { .. } | Self::Remove { .. } => false,
        }
    }
}

fn proves_corruption(error: &redb::Error) -> bool {
    match error {
        // redb reports a file that is not a database, or shorter than its pages, by these kinds; the operating
        // system has no error code for them.
        redb::Error::Io(error) => {
            matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
                && error.raw_os_error().is_none()
        }
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableDoesNotExist(_) => true,
        _ => false,
    }
}

/// Runs an operation of redb, and returns its error or panic with the file's path.
///
/// # Errors
/// The operation failed or panicked.
pub(crate) fn guarded<T>(
    attempted: &'static str,
    path: &Path,
    operation: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    // redb meets a file that something else has changed with an assertion as often as with an error. Either
    // way the file can be rebuilt, so neither may end the process.
    match catch_unwind(AssertUnwindSafe(operation)) {
        Ok(result) => result.map_err(|source| StoreError::Database {
            attempted,
            path: path.to_owned(),
            source: Box::new(source),
        }),
        Err(panic) => Err(StoreError::Panicked {
            attempted,
            path: path.to_owned(),
            panic: panic_message(panic.as_ref()),
        }),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
        .to_owned()
}
