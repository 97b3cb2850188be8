//! Reading of a changelog into a store.

use kafka::changelog::{ChangelogReader, ReadError};
use kafka::error::ErrorClass;
use pipeline::admission::restore::{Chunk, Overlap, RestoreContext, StandbyRange, Tail};
use prometheus_client::metrics::counter::Counter;
use records::entry::InvalidEntry;
use records::{Entry, IdempotencyKey, Offset};
use service::failpoint::{guard_removed, kill_at};
use store::{Store, StoreUpdate};

use super::worker::{Worker, halted};

/// Maximum number of records in memory: a few MB.
const CHUNK_RECORDS: usize = 10_000;

/// Part of the changelog to read.
pub(super) struct ChangelogRange {
    /// Offset to read from.
    pub(super) start: Offset,
    /// Checkpoint of the store.
    pub(super) checkpoint: Offset,
    /// Offset to read to.
    pub(super) end: Offset,
}

impl From<StandbyRange> for ChangelogRange {
    fn from(
        StandbyRange {
            start,
            checkpoint,
            end,
        }: StandbyRange,
    ) -> Self {
        Self {
            start,
            checkpoint,
            end,
        }
    }
}

/// End of a read.
pub(super) enum ChangelogRead {
    /// The store has all changes.
    Applied,
    /// The store lacks the record at this offset, below its checkpoint.
    Differs(Offset),
    /// The restore was cancelled.
    Cancelled,
}

/// Reason why a read ended early.
enum Stopped {
    Differs(Offset),
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Worker {
    /// Reads a part of the changelog into the store, after a comparison of what the store must have already. The
    /// records that it lacks are counted by `count`.
    pub(super) fn read_changelog(
        &self,
        reader: &ChangelogReader,
        context: &RestoreContext,
        store: &mut Store,
        ChangelogRange {
            start,
            checkpoint,
            end,
        }: ChangelogRange,
        cancelled: impl Fn() -> bool,
        count: &Counter,
    ) -> anyhow::Result<ChangelogRead> {
        let (mut overlap, mut tail) = (
            Some(Overlap::new(checkpoint)),
            Tail::new(checkpoint, end, CHUNK_RECORDS),
        );
        let unreadable = |error: InvalidEntry, offset: Offset| {
            halted(format!(
                "the changelog record {}/{}@{offset} cannot be read: {error}. Run the version of the \
                 validator that wrote it, or find out what else writes to the changelog",
                context.topics.changelog, context.partition
            ))
        };
        let mut records = 0;
        let outcome = reader.read(context.partition, start, end, cancelled, |change| {
            if let Some(compared) = &mut overlap {
                let is_below = compared.take(change.key, change.value, change.offset);
                if is_below.map_err(|error| unreadable(error, change.offset))? {
                    return Ok(());
                }
                // Before the first change is applied.
                check_overlap(compared, store)?;
                overlap = None;
            }
            records += 1;
            let full = tail
                .take(change.key, change.value, change.offset, change.at)
                .map_err(|error| unreadable(error, change.offset))?;
            full.map_or(Ok(()), |chunk| {
                apply(store, chunk)?;
                // Written meanwhile, so that a restore that is killed does not start from nothing.
                Ok(store.start_persist()?)
            })
        });
        count.inc_by(records);
        match outcome {
            Ok(()) => {}
            Err(ReadError::Cancelled) => return Ok(ChangelogRead::Cancelled),
            // Another validator has deleted forgotten keys meanwhile, or somebody other ones. The next attempt reads the new
            // start, and finds out which.
            Err(ReadError::Client(error)) if error.is_out_of_range() => return Err(error.into()),
            Err(ReadError::Client(error)) if error.class == ErrorClass::Permanent => {
                // What was deleted may have held keys, so the store cannot be trusted to know all of them.
                return Err(halted(format!(
                    "{error}; the changelog was truncated while it was read"
                )));
            }
            Err(ReadError::Client(error)) => return Err(error.into()),
            Err(ReadError::Sink(Stopped::Differs(offset))) => return Ok(ChangelogRead::Differs(offset)),
            Err(ReadError::Sink(Stopped::Failed(error))) => return Err(error),
        }
        if let Some(compared) = &overlap {
            match check_overlap(compared, store) {
                Ok(()) => {}
                Err(Stopped::Differs(offset)) => return Ok(ChangelogRead::Differs(offset)),
                Err(Stopped::Failed(error)) => return Err(error),
            }
        }
        if let Some(chunk) = tail.end() {
            apply(store, chunk)?;
            store.start_persist()?;
        }
        Ok(ChangelogRead::Applied)
    }
}

/// Compares the store with the records below its checkpoint.
fn check_overlap(overlap: &Overlap, store: &Store) -> Result<(), Stopped> {
    if guard_removed!("guard-overlap") {
        return Ok(());
    }
    let stored = |key: &[u8]| {
        // The validator writes no other keys.
        let key = IdempotencyKey::from_bytes(key)?;
        Ok::<_, anyhow::Error>(store.get(&key)?)
    };
    match overlap.compare(stored).map_err(Stopped::Failed)? {
        Some(offset) => Err(Stopped::Differs(offset)),
        None => Ok(()),
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
            Ok(StoreUpdate::new(&key, entry))
        })
        .collect::<Result<_, InvalidEntry>>()?;
    // An earlier version recorded entries at the wall clock, which may have been set back.
    let recorded = chunk.recorded.max(store.newest());
    store.apply(updates, chunk.checkpoint, recorded)?;
    Ok(())
}
