//! Local stores: applying committed entries, persisting, closing and discarding.

use pipeline::admission::{Admitted, Event, StoreFailure};
use records::{Entry, Forgotten, IdempotencyKey, Offset, Partition, Timestamp};
use service::failpoint::kill_at;
use store::{StoreError, StoreUpdate};

use crate::effects::{Fence, Shell};

impl Shell {
    /// Has what a store has applied since the last time made durable, in the background.
    pub(crate) fn persist_store(&mut self, partition: Partition) -> Option<Event<Fence>> {
        let begun = self
            .stores
            .get_mut(&partition)
            .map_or(Ok(()), |store| store.start_persist());
        store_failed(partition, begun)
    }

    /// Applies entries that Kafka has committed, never earlier: a store ahead of Kafka would drop an order as
    /// a duplicate that was never sent.
    pub(super) fn apply_to_store(
        &mut self,
        partition: Partition,
        admitted: Admitted,
        checkpoint: Offset,
        newest: Option<Timestamp>,
    ) -> Option<Event<Fence>> {
        kill_at!("before-store");
        let Some(store) = self.stores.get_mut(&partition) else {
            // Skipping the entries would leave the store without their keys, and the orders would be admitted
            // a second time.
            tracing::error!(%partition, "store not open after a commit, restoring it");
            return Some(Event::StoreFailed(partition, StoreFailure::Unavailable));
        };
        let applied = store.apply(admitted.into_iter().map(StoreUpdate::from), checkpoint, newest);
        kill_at!("after-store");
        store_failed(partition, applied)
    }

    /// Removes keys from a store and its changelog, once Kafka has the note that they are forgotten.
    pub(super) fn forget(&mut self, partition: Partition, forgotten: Forgotten) -> Option<Event<Fence>> {
        kill_at!("before-forget");
        self.metrics.forgettings.inc();
        let removed = self
            .stores
            .get_mut(&partition)
            .map_or(Ok(()), |store| store.forget(forgotten));
        kill_at!("after-forget");
        self.deletions.delete_below(partition, forgotten.below);
        store_failed(partition, removed)
    }

    /// Applies an entry before Kafka has committed it: the fault of the test that shows why stores are
    /// written after the commit.
    pub(super) fn apply_before_commit(&mut self, partition: Partition, key: &IdempotencyKey, entry: &Entry) {
        if let Some(store) = self.stores.get_mut(&partition) {
            let checkpoint = store.checkpoint().unwrap_or(Offset(0));
            let applied = store.apply([(key.clone(), *entry).into()], checkpoint, None);
            if let Err(error) = applied.and_then(|()| store.persist()) {
                tracing::error!(%partition, %error, "store write before the commit failed");
            }
        }
    }

    pub(super) fn close_store(&mut self, partition: Partition) {
        if let Some(mut store) = self.stores.remove(&partition)
            && let Err(error) = store.persist()
        {
            // Harmless: the next owner reads from the changelog what was not made durable.
            tracing::warn!(%partition, %error, "store closed without its latest entries");
        }
    }

    pub(super) fn discard_store(&mut self, partition: Partition) {
        // Closed before its file is removed, so that nothing is written to it any more.
        drop(self.stores.remove(&partition));
        self.metrics.stores_rebuilt.inc();
        let path = self.directory.store(partition);
        if let Err(error) = std::fs::remove_file(&path) {
            // Not fatal: the restore opens the file again, and rebuilds the store if it is damaged.
            tracing::error!(%partition, path = %path.display(), %error, "failed store not removed");
        }
    }
}

fn store_failed(partition: Partition, result: Result<(), StoreError>) -> Option<Event<Fence>> {
    result.err().map(|error| report_failure(partition, &error))
}

/// Logs the failure of a store, and returns its event.
pub(crate) fn report_failure(partition: Partition, error: &StoreError) -> Event<Fence> {
    let failure = if error.is_corruption() {
        tracing::error!(%partition, %error, "store corrupt, rebuilding it from the changelog");
        StoreFailure::Corrupt
    } else {
        tracing::error!(%partition, %error, "store unavailable, closing it and retrying; its file is kept");
        StoreFailure::Unavailable
    };
    Event::StoreFailed(partition, failure)
}
