//! Writing a store: updates are gathered in memory, written in batches, and made durable on request.

use hashbrown::HashMap;
use records::{Entry, IdempotencyKey, Offset};
use redb::{Database, Durability};

use crate::error::{StoreError, guarded};
use crate::read::snapshot;
use crate::store::Store;
use crate::tables::{CHECKPOINT, CHECKPOINT_ROW, ENTRIES};

/// Number of updates in memory at which they are written.
// Some 100 bytes each, so a megabyte per partition, and the updates of one call more.
pub(crate) const PENDING_MAX: usize = 10_000;

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

impl Store {
    /// Applies updates that Kafka has committed, and moves the checkpoint. If a key occurs more than once,
    /// its last update counts. The updates can be read at once, and are written later, together with others.
    ///
    /// Until the next [`Self::persist`] a crash takes back both the updates and the checkpoint.
    ///
    /// # Errors
    /// The disk failed; or the checkpoint lies before the store's, and nothing was applied.
    pub fn apply(
        &mut self,
        updates: impl IntoIterator<Item = StoreUpdate>,
        checkpoint: Offset,
    ) -> Result<(), StoreError> {
        // The restore compares the checkpoint with the changelog's end. Moved backwards, it would hide that the
        // changelog has lost keys.
        if let Some(from) = self.checkpoint.filter(|from| checkpoint < *from) {
            return Err(StoreError::CheckpointBackwards {
                path: self.path.clone(),
                from,
                to: checkpoint,
            });
        }
        let updates = updates.into_iter().map(|update| (update.key, update.entry));
        self.pending.extend(updates);
        self.checkpoint = Some(checkpoint);
        self.is_durable = false;
        if self.pending.len() >= PENDING_MAX {
            // Not durable, because a sync costs more than the changelog's tail that a crash makes us read
            // again.
            self.write_pending()
        } else {
            Ok(())
        }
    }

    /// Writes pending updates, without making them durable.
    ///
    /// # Errors
    /// The disk failed; the store must be rebuilt.
    pub fn write_pending(&mut self) -> Result<(), StoreError> {
        self.flush(Durability::None)
    }

    /// Makes everything that was applied durable, so that a later restore starts at this checkpoint.
    ///
    /// # Errors
    /// The disk failed. What was applied can still be read from the changelog.
    pub fn persist(&mut self) -> Result<(), StoreError> {
        if !self.is_durable {
            self.flush(Durability::Immediate)?;
            self.is_durable = true;
        }
        Ok(())
    }

    /// Writes pending updates and the checkpoint in one transaction.
    fn flush(&mut self, durability: Durability) -> Result<(), StoreError> {
        let mut updates: Vec<(&[u8], Option<Entry>)> =
            self.pending.iter().map(|(key, entry)| (&**key, *entry)).collect();
        // Neighbouring keys share pages: in key order each page is touched once.
        updates.sort_unstable_by_key(|(key, _)| *key);
        self.snapshot = None;
        let written = guarded("writing", &self.path, || {
            write(&self.database, &updates, self.checkpoint, durability)
        });
        // Renewed after a failure too: what was written before can still be read.
        self.snapshot = Some(guarded("reading", &self.path, || snapshot(&self.database))?);
        written?;
        // Only now: if these were dropped by a failed write, the next one would write the checkpoint without
        // its keys, and their orders would be paid twice.
        self.pending = HashMap::new();
        Ok(())
    }
}

fn write(
    database: &Database,
    updates: &[(&[u8], Option<Entry>)],
    checkpoint: Option<Offset>,
    durability: Durability,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(durability)?;
    // After a crash the file opens in milliseconds instead of being read as a whole. A crash falls back to a
    // durable commit, so that only those need it; on every commit it slowed a bulk load by 18 %.
    transaction.set_quick_repair(matches!(durability, Durability::Immediate));
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        for (key, entry) in updates {
            match entry {
                Some(entry) => entries.insert(*key, &entry.encode()[..])?,
                None => entries.remove(*key)?,
            };
        }
    }
    // In the same transaction: a checkpoint ahead of its entries would hide keys from the next restore, and
    // their orders would be paid twice.
    if let Some(checkpoint) = checkpoint {
        transaction
            .open_table(CHECKPOINT)?
            .insert(CHECKPOINT_ROW, checkpoint.0)?;
    }
    transaction.commit()?;
    Ok(())
}
