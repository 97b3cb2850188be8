//! The thread that writes the runs of all stores of a process, so that nothing else waits for a disk.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use crate::error::StoreError;
use crate::file::{Batch, RunsFile, View};

/// Handle of the thread, which ends with the last handle.
#[derive(Clone, Debug)]
pub struct StoreWriter {
    // Unbounded, but each store has at most one job in it.
    jobs: Sender<Job>,
}

/// A file that the thread writes; `None` once the store is closed.
pub(crate) type SharedFile = Arc<Mutex<Option<RunsFile>>>;

/// Result of a write or of a merge: the runs as they are now.
pub(crate) struct Written {
    /// The batch is written; otherwise runs were merged.
    pub(crate) is_batch: bool,
    pub(crate) view: Result<View, StoreError>,
}

/// Batch to write to a file.
struct Job {
    file: SharedFile,
    batch: Arc<Batch>,
    written: Sender<Written>,
}

/// File whose runs are to be merged.
struct Merging {
    file: SharedFile,
    written: Sender<Written>,
}

impl StoreWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system has no thread.
    pub fn start() -> std::io::Result<Self> {
        let (jobs, taken) = crossbeam_channel::unbounded();
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run(&taken))?;
        Ok(Self { jobs })
    }

    /// Has a batch written.
    pub(crate) fn write(&self, file: &SharedFile, batch: Arc<Batch>, written: Sender<Written>) {
        let job = Job {
            file: Arc::clone(file),
            batch,
            written,
        };
        // The thread lives as long as this handle. If it had panicked, nobody would answer: the run loop would stand
        // still in `Store::await_batch`, and the watchdog of its health would say so.
        drop(self.jobs.send(job));
    }
}

/// Locks a file. A panic of redb is caught within, so that a poisoned lock says nothing.
pub(crate) fn lock(file: &SharedFile) -> MutexGuard<'_, Option<RunsFile>> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(jobs: &Receiver<Job>) {
    let mut merging: VecDeque<Merging> = VecDeque::new();
    loop {
        // Batches first: orders may wait for them, and for merges nobody does.
        let job = if merging.is_empty() {
            jobs.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            jobs.try_recv()
        };
        match job {
            Ok(job) => {
                let is_queued = merging.iter().any(|queued| Arc::ptr_eq(&queued.file, &job.file));
                if write(&job) && !is_queued {
                    let Job { file, written, .. } = job;
                    merging.push_back(Merging { file, written });
                }
            }
            Err(TryRecvError::Empty) => {
                if let Some(next) = merging.pop_front()
                    && merge(&next)
                {
                    merging.push_back(next);
                }
            }
            // Merges that are left out are made by the next owner of the file.
            Err(TryRecvError::Disconnected) => return,
        }
    }
}

/// Writes a batch. Returns `true` if runs are to be merged.
fn write(job: &Job) -> bool {
    let mut locked = lock(&job.file);
    let Some(file) = locked.as_mut() else {
        return false;
    };
    let view = file.write(&job.batch).and_then(|()| file.view());
    let wants_merge = view.is_ok() && file.wants_merge();
    drop(locked);
    // Nobody waits if the store was closed meanwhile.
    drop(job.written.send(Written { is_batch: true, view }));
    wants_merge
}

/// Merges by a step. Returns `true` if there is more to do.
fn merge(merging: &Merging) -> bool {
    let mut locked = lock(&merging.file);
    let Some(file) = locked.as_mut() else {
        return false;
    };
    let view = match file.merge_step() {
        Ok(false) => return file.wants_merge(),
        Ok(true) => file.view(),
        Err(error) => Err(error),
    };
    let goes_on = view.is_ok() && file.wants_merge();
    drop(locked);
    drop(merging.written.send(Written {
        is_batch: false,
        view,
    }));
    goes_on
}
