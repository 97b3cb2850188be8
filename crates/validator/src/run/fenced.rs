//! Fencing: another member has taken this validator's instance id.
//!
//! Everything that belongs to the membership is released, and nothing of it is committed, until the owner of the id is
//! known. The stores stay on disk.

use kafka::{ClientError, Consumer};
use pipeline::admission::Event;
use service::Shutdown;

use crate::run::Loop;

impl Loop<'_> {
    /// Releases all partitions and leaves the group.
    ///
    /// # Errors
    /// The program cannot continue.
    pub(crate) fn release_all(&mut self, consumer: Consumer, error: &ClientError) -> anyhow::Result<()> {
        self.member.report_fenced(error);
        self.tell(&consumer, Event::Expelled)?;
        self.tell_unassigned();
        consumer.leave();
        Ok(())
    }

    /// Waits until the instance id is vacant. Returns `false` if the shutdown is requested meanwhile.
    ///
    /// # Errors
    /// A live process owns the instance id.
    pub(crate) fn await_instance_id(&self, shutdown: &Shutdown) -> anyhow::Result<bool> {
        self.member.await_instance_id(|| {
            // This wait takes the place of the run loop, so it feeds the watchdog and answers queries.
            self.health.tick();
            // A restore that ends now leaves an open store. Dropping it closes the file, so that the restore after
            // the rejoin can open it.
            while self.shell.restorers.finished().is_some() {}
            self.answer();
            !shutdown.is_requested()
        })
    }
}
