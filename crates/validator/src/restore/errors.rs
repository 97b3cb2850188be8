//! Errors of restores that are being retried, for readiness.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use records::Partition;

/// Error of the last attempt per partition, written by the workers and read by the run loop.
#[derive(Default)]
pub(super) struct RestoreErrors {
    errors: Mutex<BTreeMap<Partition, String>>,
    /// Apart from the map, so that the run loop takes no lock in most turns.
    has_changed: AtomicBool,
}

impl RestoreErrors {
    /// Sets or clears the error of a partition.
    pub(super) fn set(&self, partition: Partition, error: Option<String>) {
        let mut errors = self.lock();
        let previous = match error {
            Some(error) => errors.insert(partition, error),
            None => errors.remove(&partition),
        };
        // A retry that fails as before is no news: readiness would be rebuilt for each attempt.
        if previous.as_ref() != errors.get(&partition) {
            self.has_changed.store(true, Ordering::Release);
        }
    }

    /// Returns the error of a partition.
    pub(super) fn get(&self, partition: Partition) -> Option<String> {
        self.lock().get(&partition).cloned()
    }

    /// Returns whether an error has changed since the last call.
    pub(super) fn take_changed(&self) -> bool {
        self.has_changed.swap(false, Ordering::AcqRel)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Partition, String>> {
        // A panic leaves the map valid: each change is one insertion or removal.
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
