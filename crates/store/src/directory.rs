//! The state directory: one process's, with a store for each partition that it owned.

use std::collections::BTreeMap;
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
    /// A topic that it holds the state of was deleted, and another one has its name.
    #[error(
        "the topic {topic:?} was deleted and created again: the state directory {} was made with its id {was}, and \
         its id is now {is}. What was processed before is not in the new topic, and its orders could be paid twice \
         or never. Compare it with the outbox, rebuild the changelog from the outbox if it is the changelog, and \
         then remove the state directory of each validator, while none runs",
        path.display()
    )]
    Recreated {
        /// The directory.
        path: PathBuf,
        /// The topic's name.
        topic: String,
        /// Its id when the directory was made.
        was: String,
        /// Its id now.
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
        match self.read("topics")? {
            Some(was) if was.trim_end() == topics => Ok(()),
            Some(was) => Err(DirectoryError::OtherTopics {
                path: self.path.clone(),
                was: was.trim_end().to_owned(),
                is: topics.to_owned(),
            }),
            None => self.write("topics", &format!("{topics}\n")),
        }
    }

    /// Checks that these topics have the ids that they had before, and notes those that are new. With the same
    /// name and another id, a topic was deleted and created again.
    ///
    /// # Errors
    /// A topic has another id, or the note cannot be read or written.
    pub fn claim_ids(&self, ids: &BTreeMap<String, String>) -> Result<(), DirectoryError> {
        let noted = self.read(IDS)?.unwrap_or_default();
        let mut known: BTreeMap<&str, &str> = noted.lines().filter_map(|line| line.split_once(' ')).collect();
        for (topic, id) in ids {
            let was = *known.entry(topic).or_insert(id);
            if was != id {
                return Err(DirectoryError::Recreated {
                    path: self.path.clone(),
                    topic: topic.clone(),
                    was: was.to_owned(),
                    is: id.clone(),
                });
            }
        }
        let text: String = known
            .iter()
            .map(|(topic, id)| format!("{topic} {id}\n"))
            .collect();
        if text == noted {
            Ok(())
        } else {
            self.write(IDS, &text)
        }
    }

    fn read(&self, name: &str) -> Result<Option<String>, DirectoryError> {
        match fs::read_to_string(self.path.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Renamed into place, so that a crash leaves either no note or a whole one.
    fn write(&self, name: &str, text: &str) -> Result<(), DirectoryError> {
        let new = self.path.join(format!("{name}.new"));
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, self.path.join(name)))
            .map_err(|error| self.failed(error))
    }

    fn failed(&self, source: io::Error) -> DirectoryError {
        DirectoryError::Io {
            path: self.path.clone(),
            source,
        }
    }

    /// The file of a partition's store.
    #[must_use]
    pub fn store(&self, partition: Partition) -> PathBuf {
        self.path.join(format!("partition-{partition}.redb"))
    }
}

/// The note of the topics' ids.
const IDS: &str = "topic-ids";

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

    #[test]
    fn a_topic_that_was_created_again_is_known_by_its_id() {
        let temporary = tempfile::tempdir().expect("a directory");
        let held = StateDirectory::lock(temporary.path()).expect("free");
        let ids = |orders: &str| BTreeMap::from([("orders".to_owned(), orders.to_owned())]);
        held.claim_ids(&ids("a1")).expect("new");
        held.claim_ids(&BTreeMap::from([("changelog".into(), "c1".into())]))
            .expect("another new one");
        held.claim_ids(&ids("a1")).expect("the same");
        match held.claim_ids(&ids("a2")) {
            Err(DirectoryError::Recreated { topic, was, is, .. }) => {
                assert_eq!((&*topic, &*was, &*is), ("orders", "a1", "a2"));
            }
            other => panic!("{other:?}"),
        }
        // It was not noted, so that the next start is refused too.
        assert!(held.claim_ids(&ids("a2")).is_err());
        // A broker that knows no ids proves nothing.
        held.claim_ids(&BTreeMap::new()).expect("nothing told");
    }
}
