//! The identity of a store: the changelog partition whose state it holds.

use records::{Offset, Partition};
use redb::{Database, ReadableTable};

use crate::tables::{CHECKPOINT, CHECKPOINT_ROW, ENTRIES, IDENTITY, IDENTITY_ROW};

/// Changelog partition whose state a store holds. A store with another identity is rebuilt, not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the changelog topic.
    pub changelog: String,
    /// Partition of the changelog.
    pub partition: Partition,
    /// Number of partitions of the topic.
    // With another number, keys are hashed to other partitions.
    pub partitions: usize,
}

impl Identity {
    /// Returns the text that is written to the file.
    #[must_use]
    pub fn text(&self) -> String {
        // The version is that of the tables' layout: a store of another layout is rebuilt as well.
        format!("v1 {}/{} of {}", self.changelog, self.partition, self.partitions)
    }
}

/// Returns the identity in the file and its checkpoint. A new file is given the `expected` identity.
pub(crate) fn identify(database: &Database, expected: &str) -> Result<(String, Option<Offset>), redb::Error> {
    let mut transaction = database.begin_write()?;
    // After a crash the file opens in milliseconds instead of being read as a whole.
    transaction.set_quick_repair(true);
    let found = {
        let mut identity = transaction.open_table(IDENTITY)?;
        let found = identity.get(IDENTITY_ROW)?.map(|text| text.value().to_owned());
        match found {
            Some(found) => found,
            None => {
                identity.insert(IDENTITY_ROW, expected)?;
                expected.to_owned()
            }
        }
    };
    let checkpoint = transaction
        .open_table(CHECKPOINT)?
        .get(CHECKPOINT_ROW)?
        .map(|row| Offset(row.value()));
    // Creates the table in a new file; a snapshot of a missing table would fail.
    transaction.open_table(ENTRIES)?;
    transaction.commit()?;
    Ok((found, checkpoint))
}
