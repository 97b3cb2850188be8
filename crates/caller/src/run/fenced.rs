//! Fencing: another member has taken this caller's instance id, which is possible only with static
//! membership.
//!
//! Nothing is sent or committed until the owner of the id is known. Responses to requests in flight still
//! come, and count if their partition comes back.

use anyhow::Context as _;
use kafka::ClientError;
use kafka::error::ErrorClass;
use pipeline::delivery::Event;
use service::Shutdown;

use crate::effects::Shell;
use crate::effects::completion::Completion;
use crate::outbox::pending_call::PendingCall;
use crate::run::Loop;

impl Shell {
    /// Records that the consumer cannot be used any more. The returned event makes the delivery leave the
    /// group and rejoin, which waits while this caller is fenced.
    pub(crate) fn client_lost(&mut self, error: &ClientError) -> Event<PendingCall> {
        if error.class == ErrorClass::Fenced {
            self.set_fenced(error);
        }
        Event::ClientLost
    }

    /// Records that another member has the instance id.
    pub(crate) fn set_fenced(&mut self, error: &ClientError) {
        self.member.report_fenced(error);
        self.is_fenced = true;
    }
}

impl Loop {
    /// Starts to find out who owns the instance id, on a blocking thread.
    pub(super) fn resolve_instance_id(&mut self, shutdown: &Shutdown) {
        if !self.shell.is_fenced || self.is_resolving_id {
            return;
        }
        self.is_resolving_id = true;
        let (member, completions) = (self.shell.member.clone(), self.shell.completions.clone());
        let shutdown = shutdown.clone();
        drop(tokio::task::spawn_blocking(move || {
            let resolved = match member.await_instance_id(|| !shutdown.is_requested()) {
                Ok(true) => Ok(()),
                // Shutdown requested: the loop drains and ends without joining again.
                Ok(false) => return,
                Err(error) => Err(error),
            };
            completions.send(Completion::InstanceIdResolved(resolved));
        }));
    }

    /// Rejoins the group if the instance id is vacant.
    ///
    /// # Errors
    /// A live process owns the instance id.
    pub(super) fn on_instance_id_resolved(&mut self, resolved: anyhow::Result<()>) -> anyhow::Result<()> {
        resolved?;
        self.is_resolving_id = false;
        self.shell.is_fenced = false;
        self.shell
            .join_again()
            .context("rejoining the group after fencing")?;
        self.shell.member.report_rejoined();
        Ok(())
    }
}
