//! Another member has taken this validator's instance id: nothing is held any longer, and it is found out whether to
//! join the group again or to leave; see `kafka/src/instance_id_conflict.rs`.

use anyhow::bail;
use kafka::instance_id_conflict::Owner;
use kafka::instance_id_watch::FencedMember;
use kafka::{ClientError, Consumer};
use pipeline::admission::Event;
use service::{GroupHealth, Shutdown};

use crate::run::Loop;

impl Loop<'_> {
    /// Lets go of all that belongs to the membership, and commits nothing of it. The stores stay where they are.
    ///
    /// # Errors
    /// An action failed.
    pub(crate) fn let_all_go(
        &mut self,
        consumer: Consumer,
        fault: &ClientError,
        health: &GroupHealth,
    ) -> anyhow::Result<()> {
        tracing::warn!(
            error = %fault,
            "another member of the group has taken this validator's instance id; all partitions are let go, nothing is \
             committed, and the group is watched",
        );
        health.fenced("another member of the group has taken this instance id");
        self.tell(&consumer, Event::Expelled)?;
        self.tell_unassigned();
        consumer.leave();
        Ok(())
    }

    /// Waits until nobody has the instance id any longer. `false` if asked to end meanwhile.
    ///
    /// # Errors
    /// It is another process that has it.
    pub(crate) fn await_name(
        &mut self,
        fenced: &FencedMember,
        health: &GroupHealth,
        shutdown: &Shutdown,
    ) -> anyhow::Result<bool> {
        let standing = fenced.settle(|standing| {
            self.health.tick();
            health.fenced(standing.to_string());
            // A store that comes late is closed by this, so that the next restore can open it.
            while self.shell.restorers.finished().is_some() {}
            self.answer();
            !shutdown.is_requested()
        });
        match standing {
            Some(standing @ Owner::LiveProcess(..)) => bail!(
                "another validator has joined group {:?} as {:?}, so this one leaves; its store stays, and nothing of it \
                 was committed since. Give each validator a validator.instance_id of its own. ({standing})",
                fenced.group_id,
                fenced.instance_id
            ),
            Some(_) => {
                tracing::warn!(
                    group = fenced.group_id,
                    instance_id = fenced.instance_id,
                    "the member that had taken the instance id is gone; joining the group again",
                );
                Ok(true)
            }
            None => {
                tracing::info!("validator left");
                Ok(false)
            }
        }
    }
}
