//! The state directory of one process, with a store for each partition that it has owned.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use records::Partition;

/// A locked state directory, which no other process can use.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    // An advisory lock of the operating system: it ends with the process, however that ends.
    _lock: File,
}

/// Reason why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process has locked it.
    #[error(
        "the state directory {} is in use by another process. Each validator needs a state directory of its \
         own: stop the other process, or set another store.dir for this one",
        path.display()
    )]
    InUse {
        /// Path of the directory.
        path: PathBuf,
    },
    /// The directory cannot be created, read or written.
    #[error(
        "the state directory {} cannot be used: {source}; check that the path exists and is writable",
        path.display()
    )]
    Io {
        /// Path of the directory.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The directory holds the state of topics with another number of partitions.
    #[error(
        "the state directory {} was created for {was}, and the topics are now {is}. With another number of \
         partitions a key is on another partition than before, where its first order is unknown, and it \
         would be paid twice. Stop the producers and the validators, move the keys with the validators' settings \
         file (outbox state repartition), and remove the state directory",
        path.display()
    )]
    OtherTopics {
        /// Path of the directory.
        path: PathBuf,
        /// Topics that the directory was created for.
        was: String,
        /// Topics that the program is configured for.
        is: String,
    },
    /// A topic whose state the directory holds was deleted and created again under the same name.
    #[error(
        "the topic {topic:?} was deleted and created again: the state directory {} was created with its id \
         {was}, and its id is now {is}. Records of the old topic are not in the new one, so orders could be \
         paid twice or never. Operator action required: compare the topic with the outbox, rebuild the \
         changelog from the outbox if it is the changelog, then stop all validators and remove their state \
         directories. A partition whose committed offset remembers the id too halts after the next start, with the \
         command that sets it",
        path.display()
    )]
    TopicRecreated {
        /// Path of the directory.
        path: PathBuf,
        /// Name of the topic.
        topic: String,
        /// Id of the topic when the directory was created.
        was: String,
        /// Id of the topic now.
        is: String,
    },
}

impl StateDirectory {
    /// Locks the directory for this process. Creates it if it is missing.
    ///
    /// # Errors
    /// Another process has locked it, or it cannot be written.
    pub fn lock(path: &Path) -> Result<Self, DirectoryError> {
        let io = |source| DirectoryError::Io {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(io)?;
        let lock = File::create(path.join(LOCK)).map_err(io)?;
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

    /// Checks that the directory was created for these topics. A new directory is bound to them.
    ///
    /// # Errors
    /// The directory was created for others, or cannot be read or written.
    pub fn claim(&self, topics: &str) -> Result<(), DirectoryError> {
        match self.read(TOPICS)? {
            Some(was) if was.trim_end() == topics => Ok(()),
            Some(was) => Err(DirectoryError::OtherTopics {
                path: self.path.clone(),
                was: was.trim_end().to_owned(),
                is: topics.to_owned(),
            }),
            None => self.write(TOPICS, &format!("{topics}\n")),
        }
    }

    /// Checks that these topics still have the ids that are recorded in the directory, and records those of
    /// new topics.
    ///
    /// # Errors
    /// A topic has another id, which means that it was deleted and created again; or the record of ids cannot
    /// be read or written.
    pub fn claim_ids(&self, ids: &BTreeMap<String, String>) -> Result<(), DirectoryError> {
        let recorded = self.read(IDS)?.unwrap_or_default();
        // Ids of topics that were not asked about stay recorded: a broker may not report all of them each
        // time.
        let mut known: BTreeMap<&str, &str> = parse_ids(&recorded).collect();
        for (topic, id) in ids {
            let was = *known.entry(topic).or_insert(id);
            if was != id {
                return Err(DirectoryError::TopicRecreated {
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
        if text == recorded {
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

    fn write(&self, name: &str, text: &str) -> Result<(), DirectoryError> {
        // Renamed into place, so that a crash leaves the old text or the new one, but never a part.
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

    /// Returns the path of a partition's store.
    #[must_use]
    pub fn store(&self, partition: Partition) -> PathBuf {
        self.path.join(format!("partition-{partition}.redb"))
    }

    /// Removes the stores that are not in use, and were last written longer ago than this. Returns their partitions.
    ///
    /// # Errors
    /// The directory cannot be read, or a file cannot be removed. Those before it are.
    pub fn remove_unused(
        &self,
        is_used: impl Fn(Partition) -> bool,
        unused_max: Duration,
    ) -> Result<Vec<Partition>, DirectoryError> {
        let mut removed = Vec::new();
        for file in fs::read_dir(&self.path).map_err(|error| self.failed(error))? {
            let file = file.map_err(|error| self.failed(error))?;
            let Some(partition) = partition_of(&file.file_name()) else {
                continue;
            };
            let written = file.metadata().and_then(|metadata| metadata.modified());
            // A file of the future was written a moment ago: the clock was set back since.
            let unused = written
                .map_err(|error| self.failed(error))?
                .elapsed()
                .unwrap_or_default();
            if unused > unused_max && !is_used(partition) {
                fs::remove_file(file.path()).map_err(|error| self.failed(error))?;
                removed.push(partition);
            }
        }
        Ok(removed)
    }
}

/// Returns the partition of the store in a file with this name; `None` if it is another file.
pub(crate) fn partition_of(file: &OsStr) -> Option<Partition> {
    let number = file.to_str()?.strip_prefix("partition-")?.strip_suffix(".redb")?;
    number.parse().ok().map(Partition)
}

/// File that is locked.
pub(crate) const LOCK: &str = "lock";
/// File with the topics that the directory was created for.
pub(crate) const TOPICS: &str = "topics";
/// File with the ids of the topics: a name and an id per line.
pub(crate) const IDS: &str = "topic-ids";

/// Returns the names and ids in the text of [`IDS`].
pub(crate) fn parse_ids(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once(' '))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn directory_belongs_to_one_process_and_pipeline() {
        let temporary = tempfile::tempdir().expect("a directory");
        let path = temporary.path().join("state");
        let locked = StateDirectory::lock(&path).expect("free");
        assert!(matches!(
            StateDirectory::lock(&path),
            Err(DirectoryError::InUse { .. })
        ));
        locked.claim("payment-orders with 10 partitions").expect("new");
        locked
            .claim("payment-orders with 10 partitions")
            .expect("the same");
        drop(locked);
        let again = StateDirectory::lock(&path).expect("free again");
        assert!(matches!(
            again.claim("payment-orders with 12 partitions"),
            Err(DirectoryError::OtherTopics { .. })
        ));
    }

    #[test]
    fn stores_that_moved_away_long_ago_are_removed() {
        let day = Duration::from_secs(24 * 3600);
        let temporary = tempfile::tempdir().expect("a directory");
        let locked = StateDirectory::lock(temporary.path()).expect("free");
        locked.claim("orders with 4 partitions").expect("new");
        for (partition, days) in [(0, 9), (1, 9), (2, 1), (3, 0)] {
            let file = File::create(locked.store(Partition(partition))).expect("created");
            file.set_modified(SystemTime::now() - day * days).expect("set");
        }
        let future = File::open(locked.store(Partition(3))).expect("opened");
        future.set_modified(SystemTime::now() + day * 365).expect("set");
        let removed = locked.remove_unused(|partition| partition == Partition(0), day * 7);
        assert_eq!(removed.expect("removed"), [Partition(1)]);
        let is_there = [0, 1, 2, 3].map(|partition| locked.store(Partition(partition)).exists());
        assert_eq!(is_there, [true, false, true, true]);
        assert!(
            locked.claim("orders with 5 partitions").is_err(),
            "other files are kept"
        );
    }

    #[test]
    fn recreated_topic_is_refused() {
        let temporary = tempfile::tempdir().expect("a directory");
        let locked = StateDirectory::lock(temporary.path()).expect("free");
        let ids = |orders: &str| BTreeMap::from([("orders".to_owned(), orders.to_owned())]);
        locked.claim_ids(&ids("a1")).expect("new");
        locked
            .claim_ids(&BTreeMap::from([("changelog".into(), "c1".into())]))
            .expect("another new one");
        locked.claim_ids(&ids("a1")).expect("the same");
        match locked.claim_ids(&ids("a2")) {
            Err(DirectoryError::TopicRecreated { topic, was, is, .. }) => {
                assert_eq!((&*topic, &*was, &*is), ("orders", "a1", "a2"));
            }
            other => panic!("{other:?}"),
        }
        // The new id was not recorded, so that the next start is refused too.
        assert!(locked.claim_ids(&ids("a2")).is_err());
        // A broker without topic ids proves nothing.
        locked.claim_ids(&BTreeMap::new()).expect("no ids");
    }
}
