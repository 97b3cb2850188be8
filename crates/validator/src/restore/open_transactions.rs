//! Ends the transactions that lost validators have left open, on a thread of its own.
//!
//! A restore waits until the transactions of the partition's last owner have ended. Of a validator that died in the middle
//! of one, Kafka ends it only after `validator.transaction_timeout`, and up to 10 s more
//! (`transaction.abort.timed.out.transaction.cleanup.interval.ms`). Opening a producer with its transactional id ends it
//! at once.
//!
//! ```text
//! restore starts ── look ──▶ describe the group ──▶ ids that it no longer has ──▶ open a producer of each, and drop it
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, Sender};
use kafka::TransactionalProducer;
use kafka::admin::Admin;
use kafka::error::ErrorClass;
use kafka::producer::RecordSizes;
use kafka::static_members::FormerMembers;
use service::failpoint::guard_removed;

use crate::config::Config;

/// Timeout of each request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait before a failed look is repeated.
const RETRY_WAIT: Duration = Duration::from_millis(500);
/// Time after which failed looks are not repeated: by then Kafka has ended the transactions itself, with the default
/// `validator.transaction_timeout`.
const RETRIES_MAX: Duration = Duration::from_secs(30);

/// Handle of the thread, which ends when the handle is dropped.
pub(crate) struct OpenTransactions {
    looks: Sender<()>,
}

/// What the thread works with.
pub(crate) struct LostValidators {
    pub(crate) config: Config,
    pub(crate) admin: Arc<Admin>,
    /// Validators that the group no longer has.
    pub(crate) former: FormerMembers,
    /// Sizes that the topics accept which validators write to.
    pub(crate) record_sizes: RecordSizes,
}

impl OpenTransactions {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(lost: LostValidators) -> anyhow::Result<Self> {
        // One more look covers all restores that start while one is in progress.
        let (looks, wanted) = crossbeam_channel::bounded(1);
        std::thread::Builder::new()
            .name("open-transactions".into())
            .spawn(move || lost.run(&wanted))
            .context("the thread that ends the transactions of lost validators cannot be started")?;
        Ok(Self { looks })
    }

    /// Looks for transactions of lost validators. Does not wait.
    pub(super) fn look(&self) {
        // Full: the look that is due comes after this restore has started.
        let _ = self.looks.try_send(());
    }
}

impl LostValidators {
    fn run(&self, wanted: &Receiver<()>) {
        while wanted.recv().is_ok() {
            // A test removes the guard: the partitions then wait for the transaction's timeout.
            if guard_removed!("guard-open-transactions") {
                continue;
            }
            let started = Instant::now();
            while !self.end_all() && started.elapsed() < RETRIES_MAX {
                std::thread::sleep(RETRY_WAIT);
            }
        }
    }

    /// Returns `false` if it is to be repeated.
    fn end_all(&self) -> bool {
        let (group, topic) = (&self.config.kafka.group_id, &self.config.topics.orders);
        // Again, although the group is watched: an id that has come back meanwhile is left alone.
        match self.admin.group(group, topic, REQUEST_TIMEOUT) {
            Ok(found) => self.former.observe(&found),
            Err(error) => {
                tracing::debug!(%error, "group not described, transactions of lost validators not ended yet");
                return false;
            }
        }
        // Each in turn, also if one fails.
        let failed = self.former.ids().into_iter().filter(|id| !self.end(id)).count();
        failed == 0
    }

    /// Ends the transaction of a lost validator, if it has one. Returns `false` if it is to be repeated.
    fn end(&self, instance_id: &str) -> bool {
        let started = Instant::now();
        let transactional_id = self.config.transactional_id_of(instance_id);
        let opened = TransactionalProducer::open(
            &self.config.kafka,
            &transactional_id,
            self.config.transaction_timeouts(),
            self.record_sizes,
            REQUEST_TIMEOUT,
        );
        match opened {
            Ok(producer) => {
                producer.close();
                self.former.forget(instance_id);
                tracing::info!(
                    instance_id,
                    transactional_id,
                    ms = started.elapsed().as_millis(),
                    "validator has left the group; a transaction that it may have left open has ended"
                );
                true
            }
            // The partitions wait until Kafka ends it.
            Err(error) => {
                tracing::warn!(
                    %error, instance_id, transactional_id,
                    "transaction of a lost validator not ended; its partitions wait for validator.transaction_timeout"
                );
                let is_permanent = error.class == ErrorClass::Permanent;
                if is_permanent {
                    self.former.forget(instance_id);
                }
                is_permanent
            }
        }
    }
}
