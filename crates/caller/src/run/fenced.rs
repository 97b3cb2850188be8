//! Another member has taken this caller's instance id, which it has where its membership is static: nothing is sent or
//! committed, and it is found out whether to join the group again or to leave; see `kafka/src/instance_id_conflict.rs`.
//!
//! Answers to requests that are under way still come, and count if their partition comes back.

use anyhow::bail;
use kafka::ClientError;
use kafka::error::ErrorClass;
use kafka::instance_id_conflict::Owner;
use pipeline::delivery::Event;
use service::Shutdown;

use crate::effects::Shell;
use crate::effects::completion::Arrived;
use crate::group;
use crate::outbox::pending_call::Job;
use crate::run::Loop;

impl Shell {
    /// The consumer is of no further use. What the pipeline does then leads to [`Shell::join_anew`], at once or later.
    pub(crate) fn client_lost(&mut self, fault: &ClientError) -> Event<Job> {
        if fault.class == ErrorClass::Fenced {
            self.replaced_by(fault);
        }
        Event::ClientLost
    }

    /// Another member has the instance id.
    pub(crate) fn replaced_by(&mut self, fault: &ClientError) {
        tracing::warn!(
            error = %fault,
            "another member of the group has taken this caller's instance id; all partitions are let go, nothing is \
             sent or committed, and the group is watched"
        );
        self.is_fenced = true;
    }
}

impl Loop {
    /// Begins to find out whose the instance id is, off the loop.
    pub(crate) fn settle_if_fenced(&mut self, shutdown: &Shutdown) {
        if !self.shell.is_fenced || self.is_settling {
            return;
        }
        self.is_settling = true;
        let fenced = group::fenced(&self.shell.config, &self.admin);
        let (health, shutdown, inbox) = (
            self.group_health.clone(),
            shutdown.clone(),
            self.shell.inbox.clone(),
        );
        health.fenced("another member of the group has taken this instance id");
        drop(tokio::task::spawn_blocking(move || {
            let settled = fenced.settle(|standing| {
                health.fenced(standing.to_string());
                !shutdown.is_requested()
            });
            if let Some(standing) = settled {
                // The loop is gone only when the program ends.
                drop(inbox.send(Arrived::Settled(standing)));
            }
        }));
    }

    /// It is known whose the instance id is.
    ///
    /// # Errors
    /// That of another process.
    pub(crate) fn settled(&mut self, standing: &Owner) -> anyhow::Result<()> {
        let (group, instance_id) = (
            &self.shell.config.kafka.group_id,
            &self.shell.config.caller.instance_id,
        );
        if let Owner::LiveProcess(..) = standing {
            bail!(
                "another caller has joined group {group:?} as {instance_id:?}, so this one leaves; nothing of it was \
                 committed since. Give each caller a caller.instance_id of its own. ({standing})"
            );
        }
        tracing::warn!(
            group,
            instance_id,
            "the member that had taken the instance id is gone; joining the group again"
        );
        self.is_settling = false;
        self.shell.is_fenced = false;
        self.shell.join_anew()?;
        self.group_health.rejoined();
        Ok(())
    }
}
