//! Deletion of forgotten keys from the changelog, on a thread of its own: the run loop waits for no broker.
//!
//! Only what the note of a committed offset names is deleted, so that it may be done late, more than once, or by the
//! next owner of the partition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use kafka::ClientError;
use kafka::admin::Admin;
use records::{Offset, Partition, TopicId};
use service::failpoint::kill_at;

/// Maximum time without a look at what is due.
const INTERVAL: Duration = Duration::from_secs(1);
/// Wait before a deletion that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// Timeout of the request for the changelog's id.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Deletions from the changelog that were asked for.
pub(crate) struct ChangelogDeletions {
    // Bounded by what one thread makes of it: one for each partition that forgets, every few hours or days.
    requests: Sender<(Partition, Offset)>,
}

struct Deleter {
    admin: Arc<Admin>,
    changelog: String,
    /// Id of the changelog that the offsets belong to.
    id: Option<TopicId>,
    requests: Receiver<(Partition, Offset)>,
    /// Offset of each partition to delete below.
    wanted: BTreeMap<Partition, Offset>,
    due: Instant,
}

impl ChangelogDeletions {
    /// Starts the thread, which ends when this value is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(changelog: &str, id: Option<TopicId>, admin: &Arc<Admin>) -> anyhow::Result<Self> {
        let (sender, requests) = crossbeam_channel::unbounded();
        let deleter = Deleter {
            admin: Arc::clone(admin),
            changelog: changelog.to_owned(),
            id,
            requests,
            wanted: BTreeMap::new(),
            due: Instant::now(),
        };
        std::thread::Builder::new()
            .name("key-deletions".into())
            .spawn(move || deleter.run())
            .context("the thread that deletes forgotten keys from the changelog cannot be started")?;
        Ok(Self { requests: sender })
    }

    /// Has the records of a partition below this offset deleted.
    pub(crate) fn delete_below(&self, partition: Partition, below: Offset) {
        // Fails only if the thread has panicked. The changelog then stays longer than it needs to be.
        let _ = self.requests.send((partition, below));
    }
}

impl Deleter {
    fn run(mut self) {
        loop {
            match self.requests.recv_timeout(INTERVAL) {
                Ok(request) => self.want(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(request) = self.requests.try_recv() {
                self.want(request);
            }
            let now = Instant::now();
            if self.wanted.is_empty() || now < self.due {
                continue;
            }
            if let Err(error) = self.delete_all() {
                self.due = now + RETRY_INTERVAL;
                // Costs space and nothing else.
                tracing::warn!(%error, "forgotten keys not deleted from the changelog, retrying");
            }
        }
    }

    fn want(&mut self, (partition, below): (Partition, Offset)) {
        if below > Offset(0) {
            let wanted = self.wanted.entry(partition).or_insert(below);
            *wanted = below.max(*wanted);
        }
    }

    fn delete_all(&mut self) -> Result<(), ClientError> {
        let ids = self.admin.topic_ids(&[&self.changelog], REQUEST_TIMEOUT)?;
        let id = ids.get(&self.changelog).and_then(|id| TopicId::new(id));
        if !is_same_changelog(self.id.as_ref(), id.as_ref()) {
            tracing::warn!(
                changelog = self.changelog,
                "changelog was recreated or its id is unknown, forgotten keys not deleted"
            );
            self.wanted.clear();
            return Ok(());
        }
        kill_at!("before-cut");
        let below: Vec<_> = self.wanted.iter().map(|(of, below)| (*of, *below)).collect();
        let failed = self.admin.delete_records(&self.changelog, &below)?;
        kill_at!("after-cut");
        self.wanted
            .retain(|partition, _| failed.iter().any(|(of, _)| of == partition));
        for (partition, below) in &below {
            if !self.wanted.contains_key(partition) {
                tracing::info!(%partition, %below, "forgotten keys deleted from the changelog");
            }
        }
        match failed.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

/// Returns whether offsets of one topic are offsets of the other. Not where either is unknown.
// In a changelog that was deleted and created again, other keys lie at these offsets. The validator halts on it.
fn is_same_changelog(noted: Option<&TopicId>, found: Option<&TopicId>) -> bool {
    noted.zip(found).is_some_and(|(noted, found)| noted == found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_deleted_from_another_changelog() {
        let [noted, other] = ["noted", "other"].map(TopicId::new);
        assert!(is_same_changelog(noted.as_ref(), noted.as_ref()));
        assert!(!is_same_changelog(noted.as_ref(), other.as_ref()));
        assert!(!is_same_changelog(noted.as_ref(), None), "deleted meanwhile");
        assert!(!is_same_changelog(None, noted.as_ref()));
        assert!(!is_same_changelog(None, None));
    }
}
