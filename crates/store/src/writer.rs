//! The thread that writes the runs of all stores of a process, so that nothing else waits for a disk.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use records::Forgotten;

use crate::error::StoreError;
use crate::file::{Batch, RunsFile, View};

/// Handle of the thread, which ends with the last handle.
#[derive(Clone, Debug)]
pub struct StoreWriter {
    // Unbounded, but each store has at most one batch and one forgetting in it.
    jobs: Sender<Job>,
    thread: Arc<JoinHandle<()>>,
}

/// A file that the thread writes; `None` once the store is closed.
pub(crate) type SharedFile = Arc<Mutex<Option<RunsFile>>>;

/// Result of a job or of a merge: the runs as they are now.
pub(crate) struct Written {
    /// A batch was written; otherwise runs were merged or removed.
    pub(crate) is_batch: bool,
    pub(crate) view: Result<View, StoreError>,
}

/// Change of a file.
struct Job {
    file: SharedFile,
    change: Change,
    written: Sender<Written>,
}

enum Change {
    Write(Arc<Batch>),
    Forget(Forgotten),
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
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run(&taken))?;
        Ok(Self {
            jobs,
            thread: Arc::new(thread),
        })
    }

    /// Has a batch written.
    pub(crate) fn write(&self, file: &SharedFile, batch: Arc<Batch>, written: Sender<Written>) {
        self.send(file, Change::Write(batch), written);
    }

    /// Has the runs of forgotten keys removed.
    pub(crate) fn forget(&self, file: &SharedFile, forgotten: Forgotten, written: Sender<Written>) {
        self.send(file, Change::Forget(forgotten), written);
    }

    fn send(&self, file: &SharedFile, change: Change, written: Sender<Written>) {
        let job = Job {
            file: Arc::clone(file),
            change,
            written,
        };
        // The thread lives as long as this handle, unless it has panicked: then nobody answers.
        drop(self.jobs.send(job));
    }

    /// Returns `true` if the thread has panicked.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Returns the handle of a thread that has ended.
    #[cfg(test)]
    pub(crate) fn ended() -> Self {
        let thread = std::thread::spawn(|| {});
        while !thread.is_finished() {
            std::thread::yield_now();
        }
        Self {
            jobs: crossbeam_channel::unbounded().0,
            thread: Arc::new(thread),
        }
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
                if change(&job) && !is_queued {
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

/// Changes a file. Returns `true` if runs are to be merged.
fn change(job: &Job) -> bool {
    let mut locked = lock(&job.file);
    let Some(file) = locked.as_mut() else {
        return false;
    };
    let (is_batch, changed) = match &job.change {
        Change::Write(batch) => (true, file.write(batch)),
        Change::Forget(forgotten) => (false, file.forget(*forgotten)),
    };
    let view = changed.and_then(|()| file.view());
    let wants_merge = view.is_ok() && file.wants_merge();
    drop(locked);
    // Nobody waits if the store was closed meanwhile.
    drop(job.written.send(Written { is_batch, view }));
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
