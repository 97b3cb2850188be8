//! Reading a store: pending updates first, then the snapshot of the file.

use records::{Entry, IdempotencyKey, Offset};
use redb::{Database, ReadableDatabase, ReadableTableMetadata};

use crate::error::{StoreError, guarded};
use crate::store::{Snapshot, Store};
use crate::tables::ENTRIES;

impl Store {
    /// Returns the entry of a key.
    ///
    /// # Errors
    /// The file cannot be read, or the value of the key is not an entry.
    pub fn get(&self, key: &IdempotencyKey) -> Result<Option<Entry>, StoreError> {
        if let Some(entry) = self.pending.get(key.as_bytes()) {
            return Ok(*entry);
        }
        let Some(snapshot) = &self.snapshot else {
            // A key that cannot be looked up is not an unknown key: its order could be paid twice.
            return Err(self.failed("reading", redb::StorageError::DatabaseClosed));
        };
        let decoded = guarded("reading", &self.path, || {
            let value = snapshot.get(key.as_bytes())?;
            Ok(value.map(|bytes| Entry::decode(bytes.value())))
        })?;
        decoded.transpose().map_err(|source| StoreError::Entry {
            path: self.path.clone(),
            key: key.to_string(),
            source,
        })
    }

    /// Returns the changelog offset up to which this store is equal to the changelog; `None` for a new store.
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

    /// Returns `true` if the store has no keys.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len()? == 0)
    }

    /// Passes every written entry to `visit`, as key and encoded entry, in the order of the keys. Pending
    /// updates are left out.
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

    fn failed(&self, attempted: &'static str, error: impl Into<redb::Error>) -> StoreError {
        StoreError::Database {
            attempted,
            path: self.path.clone(),
            source: Box::new(error.into()),
        }
    }
}

/// Returns a view of the entries as of the last write.
pub(crate) fn snapshot(database: &Database) -> Result<Snapshot, redb::Error> {
    Ok(database.begin_read()?.open_table(ENTRIES)?)
}
