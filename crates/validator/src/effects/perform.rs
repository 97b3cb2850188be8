//! Dispatch of the admission's actions.

use kafka::Consumer;
use pipeline::admission::{Action, Event};
use service::failpoint::kill_at;

use crate::effects::{Fence, Shell};
use crate::metrics::End;

impl Shell {
    /// Performs an action. Returns the event that follows from it, if any.
    ///
    /// # Errors
    /// The program cannot continue.
    pub(crate) fn perform(
        &mut self,
        consumer: &Consumer,
        action: Action<Fence>,
    ) -> anyhow::Result<Option<Event<Fence>>> {
        match action {
            Action::Accept(partitions) => consumer.accept(&partitions)?,
            Action::Restore(partition, id) => {
                // The restore owns the open store meanwhile: a file has one handle.
                let store = self.stores.remove(&partition);
                self.restorers.start_restore(partition, id, store);
            }
            Action::CancelRestore(partition) => self.restorers.cancel(partition),
            Action::Start(partition, offset) => {
                if let Err(error) = consumer.start(partition, offset, self.leader_epochs.remove(&partition)) {
                    // librdkafka has stopped the partition meanwhile, as it does while its topic is being
                    // deleted. Restoring it again finds out why.
                    tracing::warn!(%partition, %error, "partition not started, restoring it again");
                    return Ok(Some(Event::TransactionFailed));
                }
            }
            Action::Pause(partitions) => consumer.pause(&partitions)?,
            Action::EndTransaction(offsets, fence) => {
                return self.end_transaction(consumer, &offsets, &fence).map(Some);
            }
            Action::Apply(partition, admitted, checkpoint, newest) => {
                return Ok(self.apply_to_store(partition, admitted, checkpoint, newest));
            }
            Action::Forget(partition, forgotten) => return Ok(self.forget(partition, forgotten)),
            Action::DropProducer => {
                self.end_spans(End::Aborted);
                // Its transactional id is used again, so the next producer ends what the abort leaves open.
                if let Some(producer) = self.producer.take() {
                    producer.abandon();
                }
            }
            Action::OpenProducer => return self.open_producer().map(Some),
            Action::Close(partition) => self.close_store(partition),
            Action::Discard(partition) => self.discard_store(partition),
            Action::ReportHalt(partition, reason) => {
                tracing::error!(%partition, reason, "partition halted, operator action required");
            }
            Action::Release(partitions) => {
                kill_at!("before-revoke");
                consumer.release(&partitions)?;
            }
            Action::Leave => self.has_left = true,
        }
        Ok(None)
    }
}
