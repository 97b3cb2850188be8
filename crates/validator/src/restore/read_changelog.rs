//! Reading of a changelog into a store.

use std::sync::atomic::{AtomicBool, Ordering};

use kafka::changelog::{ChangelogReader, ReadError};
use kafka::error::ErrorClass;
use pipeline::admission::restore::{Chunk, RestoreContext, Tail};
use records::entry::InvalidEntry;
use records::{Entry, Offset};
use service::failpoint::kill_at;
use store::{Store, StoreUpdate};

use super::worker::{Worker, halted};

/// Maximum number of records in memory: a few MB.
const CHUNK_RECORDS: usize = 10_000;

impl Worker {
    /// Reads the changelog from one offset to another into the store. Returns `false` if the restore was
    /// cancelled.
    pub(super) fn read_changelog(
        &self,
        reader: &ChangelogReader,
        context: &RestoreContext,
        store: &mut Store,
        (from, to): (Offset, Offset),
        cancelled: &AtomicBool,
    ) -> anyhow::Result<bool> {
        let mut tail = Tail::new(from, to, CHUNK_RECORDS);
        let mut records = 0;
        let outcome = reader.read(
            context.partition,
            from,
            to,
            || cancelled.load(Ordering::Acquire),
            |change| {
                records += 1;
                let full = tail
                    .take(change.key, change.value, change.offset)
                    .map_err(|error| {
                        halted(format!(
                            "the changelog record {}/{}@{} cannot be read: {error}. Run the version of the \
                             validator that wrote it, or find out what else writes to the changelog",
                            context.topics.changelog, context.partition, change.offset
                        ))
                    })?;
                full.map_or(Ok(()), |chunk| {
                    apply(store, chunk)?;
                    // Durable after each chunk, so that a restore that is killed does not start from nothing.
                    Ok(store.persist()?)
                })
            },
        );
        self.metrics.restore_records.inc_by(records);
        match outcome {
            Ok(()) => {}
            Err(ReadError::Cancelled) => return Ok(false),
            Err(ReadError::Client(error)) if error.class == ErrorClass::Permanent => {
                // What was deleted may have held keys, so the store cannot be trusted to know all of them.
                return Err(halted(format!(
                    "{error}; the changelog was truncated while it was read"
                )));
            }
            Err(ReadError::Client(error)) => return Err(error.into()),
            Err(ReadError::Sink(error)) => return Err(error),
        }
        if let Some(chunk) = tail.end() {
            apply(store, chunk)?;
            // Written on this thread, so that the run loop has less to write. Not made durable: orders wait,
            // and a crash only means that the changelog's tail is read again.
            store.write_pending()?;
        }
        Ok(true)
    }
}

/// Applies a chunk and its checkpoint.
fn apply(store: &mut Store, chunk: Chunk) -> anyhow::Result<()> {
    kill_at!("during-restore");
    let updates: Vec<StoreUpdate> = chunk
        .changes
        .into_iter()
        .map(|(key, entry)| {
            // Does not fail: the tail has decoded the entry before.
            let entry = entry.as_deref().map(Entry::decode).transpose()?;
            Ok(StoreUpdate {
                key: key.into(),
                entry,
            })
        })
        .collect::<Result<_, InvalidEntry>>()?;
    store.apply(updates, chunk.checkpoint)?;
    Ok(())
}
