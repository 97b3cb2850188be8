//! The store of one partition: entries by key, and the checkpoint, which always change together.
//!
//! ```text
//! apply ──▶ recent updates ──▶ batch that is being written ──▶ runs of the file
//!                 └────────────────┴── get, from the newest ──────┘
//! ```

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use records::{Entry, Forgotten, IdempotencyKey, KeyHash, Offset, Timestamp};

use crate::error::{StoreError, guarded};
use crate::file::{Batch, RunsFile, Updates, View, forgotten_runs};
use crate::writer::{SharedFile, StoreWriter, Written, lock};

/// Entries of one partition, by idempotency key.
pub struct Store {
    file: SharedFile,
    writer: StoreWriter,
    /// Runs of the file, as of the last write that is known here.
    view: View,
    /// Updates that no batch has.
    recent: Updates,
    /// Recorded times of the oldest and the newest of them; `None` if there is none.
    recent_times: Option<(Timestamp, Timestamp)>,
    /// Recorded time of the newest update of all.
    newest: Option<Timestamp>,
    /// Batch that the writer has.
    writing: Option<Arc<Batch>>,
    written: (Sender<Written>, Receiver<Written>),
    /// Number of recent updates at which they are written.
    recent_max: usize,
    /// Changelog offset that this store is equal to.
    checkpoint: Option<Offset>,
    /// Changelog offset that the file on disk is equal to.
    durable: Option<Offset>,
    /// A write has failed. Its entries can still be read.
    has_failed: bool,
    /// Blocks that look-ups have read since they were last counted.
    block_reads: Cell<u64>,
    path: PathBuf,
}

/// New state of one key, as committed in the changelog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreUpdate {
    /// Hash of the idempotency key.
    pub key: KeyHash,
    /// Entry to store; `None` removes the key.
    pub entry: Option<Entry>,
}

impl StoreUpdate {
    /// Returns the update of the key of these bytes.
    #[must_use]
    pub fn new(key: &[u8], entry: Option<Entry>) -> Self {
        Self {
            key: KeyHash::of(key),
            entry,
        }
    }
}

impl From<(IdempotencyKey, Entry)> for StoreUpdate {
    fn from((key, entry): (IdempotencyKey, Entry)) -> Self {
        Self::new(key.as_bytes(), Some(entry))
    }
}

impl From<(KeyHash, Entry)> for StoreUpdate {
    fn from((key, entry): (KeyHash, Entry)) -> Self {
        Self {
            key,
            entry: Some(entry),
        }
    }
}

impl Store {
    pub(crate) fn new(
        file: RunsFile,
        path: PathBuf,
        recent_max: usize,
        writer: StoreWriter,
    ) -> Result<Self, StoreError> {
        let checkpoint = file.checkpoint();
        let view = file.view()?;
        Ok(Self {
            newest: view.0.iter().map(|(run, _)| run.meta.newest).max(),
            recent_times: None,
            view,
            file: Arc::new(std::sync::Mutex::new(Some(file))),
            writer,
            recent: Updates::new(),
            writing: None,
            // Unbounded, but emptied at each call that changes the store.
            written: crossbeam_channel::unbounded(),
            recent_max,
            checkpoint,
            durable: checkpoint,
            has_failed: false,
            block_reads: Cell::new(0),
            path,
        })
    }

    /// Returns the entry of a key.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged, or the value of the key is not an entry.
    pub fn get(&self, key: &IdempotencyKey) -> Result<Option<Entry>, StoreError> {
        self.get_hashed(key, KeyHash::from(key))
    }

    /// As [`Self::get`], for a key whose hash is known.
    ///
    /// # Errors
    /// As those of [`Self::get`].
    pub fn get_hashed(&self, key: &IdempotencyKey, hash: KeyHash) -> Result<Option<Entry>, StoreError> {
        if let Some(entry) = self.recent.get(&hash) {
            return Ok(*entry);
        }
        if let Some(entry) = self.writing.as_ref().and_then(|batch| batch.updates.get(&hash)) {
            return Ok(*entry);
        }
        let row = guarded("reading", &self.path, || {
            for (run, blocks) in &self.view.0 {
                let found = run.get(blocks, hash, &self.block_reads)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        })?;
        let entry = row.map(|row| row.entry()).transpose();
        entry.map(Option::flatten).map_err(|source| StoreError::Entry {
            path: self.path.clone(),
            key: key.to_string(),
            source,
        })
    }

    /// Returns the number of blocks that look-ups have read from the file since the last time. A key that the store does not
    /// have is nearly always known from the filters in memory, and reads none.
    pub fn take_block_reads(&self) -> u64 {
        self.block_reads.take()
    }

    /// Returns the changelog offset up to which this store is equal to the changelog; `None` for a new store.
    #[must_use]
    pub const fn checkpoint(&self) -> Option<Offset> {
        self.checkpoint
    }

    /// Returns the number of keys; a key that was updated is counted again until its rows are merged.
    #[must_use]
    pub fn len(&self) -> u64 {
        let in_memory = self.recent.len() + self.writing.as_ref().map_or(0, |batch| batch.updates.len());
        let rows: u64 = self.view.0.iter().map(|(run, _)| run.meta.rows).sum();
        rows + in_memory as u64
    }

    /// Returns `true` if the store has no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Applies updates that Kafka has committed, and moves the checkpoint. If a key occurs more than once, its last
    /// update counts. The updates can be read at once, and are written in the background, together with others. Waits
    /// only if the disk is slower than the changelog.
    ///
    /// `recorded` is the recorded time of the newest of them; `None` means that of the updates before. Recorded times
    /// rise with the changelog's offsets.
    ///
    /// Until they are durable, a crash takes back both the updates and the checkpoint.
    ///
    /// # Errors
    /// The disk failed; or the checkpoint lies before the store's, and nothing was applied.
    pub fn apply(
        &mut self,
        updates: impl IntoIterator<Item = StoreUpdate>,
        checkpoint: Offset,
        recorded: Option<Timestamp>,
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
        let mut has_updates = false;
        self.recent.extend(updates.into_iter().map(|update| {
            has_updates = true;
            (update.key, update.entry)
        }));
        if has_updates {
            let at = recorded.or(self.newest).unwrap_or(Timestamp(0));
            let (oldest, newest) = self.recent_times.unwrap_or((at, at));
            self.recent_times = Some((oldest.min(at), newest.max(at)));
            self.newest = self.newest.max(Some(at));
        }
        self.checkpoint = Some(checkpoint);
        self.take_written()?;
        if self.recent.len() >= self.recent_max {
            // Two batches at most are in memory: these updates, and those that are written.
            self.await_batch()?;
            self.begin_write();
        }
        Ok(())
    }

    /// Has everything that was applied made durable in the background, if nothing is being written. A later restore
    /// starts at this checkpoint.
    ///
    /// # Errors
    /// The disk failed. What was applied can still be read from the changelog.
    pub fn start_persist(&mut self) -> Result<(), StoreError> {
        self.take_written()?;
        if self.writing.is_none() && !self.is_durable() {
            self.begin_write();
        }
        Ok(())
    }

    /// Makes everything that was applied durable.
    ///
    /// # Errors
    /// The disk failed. What was applied can still be read from the changelog.
    pub fn persist(&mut self) -> Result<(), StoreError> {
        self.await_batch()?;
        if !self.is_durable() {
            self.begin_write();
            self.await_batch()?;
        }
        Ok(())
    }

    fn is_durable(&self) -> bool {
        self.recent.is_empty() && self.durable == self.checkpoint
    }

    /// Hands the recent updates to the writer. None are being written.
    fn begin_write(&mut self) {
        let batch = Arc::new(Batch {
            updates: std::mem::take(&mut self.recent),
            checkpoint: self.checkpoint,
            recorded: self.recent_times.take(),
        });
        self.writer
            .write(&self.file, Arc::clone(&batch), self.written.0.clone());
        self.writing = Some(batch);
    }

    /// Waits until nothing is being written.
    pub(crate) fn await_batch(&mut self) -> Result<(), StoreError> {
        self.take_written()?;
        while self.writing.is_some() {
            // The writer answers each batch, also if redb panics. This store has a sender itself, so that the channel
            // is never closed: whether the thread still lives is looked at now and then.
            match self.written.1.recv_timeout(Duration::from_millis(100)) {
                Ok(written) => self.take(written)?,
                Err(RecvTimeoutError::Timeout) if !self.writer.has_ended() => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    self.has_failed = true;
                    return Err(self.failed());
                }
            }
        }
        Ok(())
    }

    /// Returns the recorded time of the newest key; `None` if there never was one.
    #[must_use]
    pub const fn newest(&self) -> Option<Timestamp> {
        self.newest
    }

    /// Returns the recorded time of the oldest key, or an earlier one if it was removed; `None` if there is no key.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        let in_memory = [
            self.recent_times,
            self.writing.as_ref().and_then(|batch| batch.recorded),
        ];
        let of_runs = self.view.0.iter().map(|(run, _)| run.meta.oldest);
        of_runs
            .chain(in_memory.into_iter().flatten().map(|(oldest, _)| oldest))
            .min()
    }

    /// Returns the size of the file, in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// Returns what can be forgotten of the keys that were recorded before `cutoff`; `None` if nothing can. Some are kept
    /// with later ones of the same [`crate::Options::period`].
    #[must_use]
    pub fn forgettable(&self, cutoff: Timestamp) -> Option<Forgotten> {
        let before_cutoff = Forgotten {
            below: Offset(i64::MAX),
            before: cutoff,
        };
        let from_the_oldest = || self.view.0.iter().rev().map(|(run, _)| &run.meta);
        let count = forgotten_runs(from_the_oldest(), before_cutoff);
        let forgotten = from_the_oldest().take(count);
        forgotten.fold(None, |sum: Option<Forgotten>, run| {
            let sum = sum.unwrap_or(Forgotten {
                below: run.end,
                before: Timestamp(run.newest.0 + 1),
            });
            Some(Forgotten {
                below: sum.below.max(run.end),
                // A key of the newest run that was recorded at that very time may be kept, and is known.
                before: sum.before.max(Timestamp(run.newest.0 + 1)),
            })
        })
    }

    /// Has the runs of forgotten keys removed, in the background. Their keys are unknown from then on.
    ///
    /// # Errors
    /// The disk failed earlier.
    pub fn forget(&mut self, forgotten: Forgotten) -> Result<(), StoreError> {
        self.take_written()?;
        let runs = self.view.0.iter().rev().map(|(run, _)| &run.meta);
        if forgotten_runs(runs, forgotten) > 0 {
            self.writer.forget(&self.file, forgotten, self.written.0.clone());
        }
        Ok(())
    }

    /// Takes the results that the writer has sent.
    fn take_written(&mut self) -> Result<(), StoreError> {
        while let Ok(written) = self.written.1.try_recv() {
            self.take(written)?;
        }
        if self.has_failed {
            return Err(self.failed());
        }
        Ok(())
    }

    fn take(&mut self, Written { is_batch, view }: Written) -> Result<(), StoreError> {
        match view {
            Ok(view) => {
                self.view = view;
                // Only now: if these were dropped by a failed write, their keys would be unknown, and their orders
                // would be paid twice.
                if is_batch && let Some(batch) = self.writing.take() {
                    self.durable = batch.checkpoint;
                }
                Ok(())
            }
            Err(error) => {
                self.has_failed = true;
                Err(error)
            }
        }
    }

    fn failed(&self) -> StoreError {
        StoreError::Failed {
            path: self.path.clone(),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Before the file is closed: it holds pages of it.
        self.view = View::default();
        // The writer has the file as well, and finds it closed. It may be opened again at once, and has one handle.
        let file = lock(&self.file).take();
        // A damaged file may have redb panic when it is closed, too. What was durable stays so.
        drop(catch_unwind(AssertUnwindSafe(move || drop(file))));
    }
}
