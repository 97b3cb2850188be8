//! Fencing: another member has taken this caller's instance id, which is possible only with static membership.
//!
//! Nothing is sent or committed until the owner of the id is known. Responses to requests in flight still come, and
//! count if their partition comes back.

use anyhow::Context as _;
use kafka::ClientError;
use kafka::error::ErrorClass;
use pipeline::delivery::Event;
use service::Shutdown;

use crate::effects::Shell;
use crate::effects::completion::Arrived;
use crate::outbox::pending_call::Job;
use crate::run::Loop;

impl Shell {
    /// Records that the consumer cannot be used any more. The returned event makes the delivery leave the group and
    /// rejoin, which waits while this caller is fenced.
    pub(crate) fn client_lost(&mut self, error: &ClientError) -> Event<Job> {
        if error.class == ErrorClass::Fenced {
            self.replaced_by(error);
        }
        Event::ClientLost
    }

    /// Records that another member has the instance id.
    pub(crate) fn replaced_by(&mut self, error: &ClientError) {
        self.member.report_fenced(error);
        self.is_fenced = true;
    }
}

impl Loop {
    /// Starts to find out who owns the instance id, on a blocking thread.
    pub(super) fn resolve_instance_id(&mut self, shutdown: &Shutdown) {
        if !self.shell.is_fenced || self.is_settling {
            return;
        }
        self.is_settling = true;
        let (member, inbox) = (self.shell.member.clone(), self.shell.inbox.clone());
        let shutdown = shutdown.clone();
        drop(tokio::task::spawn_blocking(move || {
            let resolved = match member.await_instance_id(|| !shutdown.is_requested()) {
                Ok(true) => Ok(()),
                // Shutdown requested: the loop drains and ends without joining again.
                Ok(false) => return,
                Err(error) => Err(error),
            };
            drop(inbox.send(Arrived::InstanceIdResolved(resolved)));
        }));
    }

    /// Rejoins the group if the instance id is vacant.
    ///
    /// # Errors
    /// A live process owns the instance id.
    pub(super) fn on_instance_id_resolved(&mut self, resolved: anyhow::Result<()>) -> anyhow::Result<()> {
        resolved?;
        self.is_settling = false;
        self.shell.is_fenced = false;
        self.shell
            .join_anew()
            .context("rejoining the group after fencing")?;
        self.shell.member.report_rejoined();
        Ok(())
    }
}
