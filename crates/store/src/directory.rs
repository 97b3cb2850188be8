//! The state directory: one process's, with a store for each partition that it owned.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use records::Partition;

/// A state directory that no other process uses. The lock ends with the process, however it ends.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    _lock: File,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process holds it.
    #[error(
        "the state directory {} is in use by another process: each validator needs one of its own; stop the \
         other one, or give this one another store.dir",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be made, opened or written.
    #[error("the state directory {} cannot be used: {source}; check that the path exists and is writable", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It belongs to topics with another number of partitions.
    #[error(
        "the state directory {} was made for {was}, and the topics are now {is}: with another number of \
         partitions a key lies on another partition than before, where its first order is not known, and it \
         would be paid twice; give the topics their old number of partitions, or drain the pipeline, make \
         new topics and a new state directory",
        path.display()
    )]
    OtherTopics {
        /// The directory.
        path: PathBuf,
        /// What it was made for.
        was: String,
        /// What it is to be used for.
        is: String,
    },
}

impl StateDirectory {
    /// Takes the directory, and makes it if need be.
    ///
    /// # Errors
    /// Another process has it, or it cannot be written.
    pub fn lock(path: &Path) -> Result<Self, DirectoryError> {
        let io = |source| DirectoryError::Io {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(io)?;
        let lock = File::create(path.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::InUse {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// Checks that the directory was made for these topics, and notes it if it is new.
    ///
    /// # Errors
    /// It was made for others, or cannot be read or written.
    pub fn claim(&self, topics: &str) -> Result<(), DirectoryError> {
        let io = |source| DirectoryError::Io {
            path: self.path.clone(),
            source,
        };
        let file = self.path.join("topics");
        match fs::read_to_string(&file) {
            Ok(was) if was.trim_end() == topics => Ok(()),
            Ok(was) => Err(DirectoryError::OtherTopics {
                path: self.path.clone(),
                was: was.trim_end().to_owned(),
                is: topics.to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Renamed into place, so that a crash leaves either no note or a whole one.
                let new = self.path.join("topics.new");
                fs::write(&new, format!("{topics}\n"))
                    .and_then(|()| fs::rename(&new, &file))
                    .map_err(io)
            }
            Err(error) => Err(io(error)),
        }
    }

    /// The file of a partition's store.
    #[must_use]
    pub fn store(&self, partition: Partition) -> PathBuf {
        self.path.join(format!("partition-{partition}.redb"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_one_process_s_and_one_pipeline_s() {
        let temporary = tempfile::tempdir().expect("a directory");
        let path = temporary.path().join("state");
        let held = StateDirectory::lock(&path).expect("free");
        assert!(matches!(
            StateDirectory::lock(&path),
            Err(DirectoryError::InUse { .. })
        ));
        held.claim("payment-orders with 10 partitions").expect("new");
        held.claim("payment-orders with 10 partitions").expect("the same");
        drop(held);
        let again = StateDirectory::lock(&path).expect("free again");
        assert!(matches!(
            again.claim("payment-orders with 12 partitions"),
            Err(DirectoryError::OtherTopics { .. })
        ));
    }
}
