//! Fencing: another member has taken this validator's instance id.
//!
//! Everything that belongs to the membership is released, and nothing of it is committed, until the owner of
//! the id is known. The stores stay on disk.

use kafka::error::ErrorClass;
use kafka::{ClientError, Consumer};
use pipeline::admission::Event;
use service::Shutdown;

use crate::run::Loop;

/// Returns the error by which the group reports fencing.
///
/// # Errors
/// `error` itself, if it is another one.
pub(super) fn fencing_error(error: anyhow::Error) -> anyhow::Result<ClientError> {
    let is_fenced = |error: &ClientError| error.class == ErrorClass::Fenced;
    if error.downcast_ref().is_some_and(is_fenced) {
        error.downcast()
    } else {
        Err(error)
    }
}

impl Loop<'_> {
    /// Releases all partitions and leaves the group.
    ///
    /// # Errors
    /// The program cannot continue.
    pub(super) fn release_all(&mut self, consumer: Consumer, error: &ClientError) -> anyhow::Result<()> {
        self.member.report_fenced(error);
        // Aborts the open transaction: Kafka would refuse its offsets, since they come from a fenced member.
        self.apply(&consumer, Event::Fenced)?;
        self.set_unassigned();
        consumer.leave();
        Ok(())
    }

    /// Waits until the instance id is vacant. Returns `false` if the shutdown is requested meanwhile.
    ///
    /// # Errors
    /// A live process owns the instance id.
    pub(super) fn await_instance_id(&self, shutdown: &Shutdown) -> anyhow::Result<bool> {
        self.member.await_instance_id(|| {
            // The run loop stands still here, so its watchdog is fed and its queries are answered.
            self.health.tick();
            // A restore that ends now leaves an open store. Dropping it closes the file, so that the restore
            // after the rejoin can open it.
            while self.shell.restorers.finished().is_some() {}
            self.answer_queries();
            !shutdown.is_requested()
        })
    }
}
