//! The member of the group: who it is, whether the group is healthy, and whether its instance id is still its
//! own.
//!
//! ```text
//! joined ── fenced: report_fenced ──▶ await_instance_id ──▶ id vacant: rejoin, report_rejoined
//!                                                      └──▶ live process owns it: error, the program exits
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kafka::admin::Admin;
use kafka::group_watch::{self, GroupStatus, MemberId, WatchedGroup};
use kafka::instance_id_conflict::Owner;
use kafka::instance_id_watch::FencedMember;
use kafka::static_members::FormerMembers;
use kafka::{ClientError, KafkaSettings};
use service::failpoint::guard_removed;

use crate::GroupHealth;

/// Readiness reason until the first look at the group.
const FENCED: &str = "another member of the group has taken this instance id";

/// Settings of a [`GroupMember`].
#[derive(Clone, Debug)]
pub struct MemberSettings {
    /// Name of the program, `validator` or `caller`; also of the settings section that has its `instance_id`.
    pub program: &'static str,
    /// Settings of the cluster and the group.
    pub kafka: KafkaSettings,
    /// Instance id: the static membership, and the client id in the brokers' logs.
    pub instance_id: String,
    /// Topic that the group consumes.
    pub topic: String,
    /// Topic that the group does not consume and this user may describe; subscribing to it triggers a
    /// rebalance.
    pub unused_topic: String,
    /// Session timeout of the group's members.
    pub session_timeout: Duration,
    /// Maximum time that a member takes to release a partition.
    pub revoke_timeout: Duration,
}

/// Membership of this program in its consumer group. Clones share the membership.
#[derive(Clone)]
pub struct GroupMember {
    program: &'static str,
    id: MemberId,
    instance: Arc<FencedMember>,
    former: FormerMembers,
    health: GroupHealth,
}

impl GroupMember {
    /// Starts the watch for unassigned partitions, in a thread that runs until the process ends.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn watch(settings: MemberSettings, admin: Arc<Admin>, health: GroupHealth) -> anyhow::Result<Self> {
        let member = Self {
            program: settings.program,
            id: MemberId::default(),
            instance: Arc::new(FencedMember {
                admin: Arc::clone(&admin),
                group_id: settings.kafka.group_id.clone(),
                topic: settings.topic.clone(),
                instance_id: settings.instance_id.clone(),
                session_timeout: settings.session_timeout,
            }),
            former: FormerMembers::new(&settings.instance_id),
            health,
        };
        // A test removes the watch, to show that partitions stay unassigned without it.
        if guard_removed!("guard-unassigned") {
            return Ok(member);
        }
        let watched = WatchedGroup {
            admin,
            settings: settings.kafka,
            client_id: settings.instance_id,
            topic: settings.topic,
            unused_topic: settings.unused_topic,
            session_timeout: settings.session_timeout,
            revoke_timeout: settings.revoke_timeout,
            former_members: member.former.clone(),
        };
        // Every program of the group may watch: the members agree on which of them acts.
        let health = member.health.clone();
        group_watch::watch(watched, &member.id, move |status| match status {
            GroupStatus::UnassignedPartitions(count, reason) => health.set_unassigned(count, reason),
            GroupStatus::AllAssigned => health.set_assigned(),
            GroupStatus::RebalanceTriggered => health.count_rebalance(),
        })
        .context("the thread that watches the consumer group cannot be started")?;
        Ok(member)
    }

    /// Records the member id that the group gave with its latest assignment or revocation.
    pub fn set_id(&self, member_id: &str) {
        self.id.set(member_id);
    }

    /// Returns the members that the group no longer has, as far as the watch has observed them.
    #[must_use]
    pub const fn former_members(&self) -> &FormerMembers {
        &self.former
    }

    /// Logs that another member has taken the instance id, and reports this program as not ready.
    pub fn report_fenced(&self, error: &ClientError) {
        tracing::warn!(
            %error,
            "fenced: another member of the group has taken this {program}'s instance id; all partitions are \
             released, nothing is sent or committed, waiting until its owner is known",
            program = self.program,
        );
        self.health.set_fenced(FENCED);
    }

    /// Waits until the instance id is vacant. Blocks. Returns `false` if `keep_waiting`, which is called
    /// after each look at the group, ended the wait.
    ///
    /// # Errors
    /// A live process owns the instance id: two programs are configured with the same one.
    pub fn await_instance_id(&self, mut keep_waiting: impl FnMut() -> bool) -> anyhow::Result<bool> {
        // Readiness shows each look, so that an operator sees who owns the id while the program waits.
        let owner = self.instance.await_owner(|owner| {
            self.health.set_fenced(owner.to_string());
            keep_waiting()
        });
        let (program, group, instance_id) =
            (self.program, &self.instance.group_id, &self.instance.instance_id);
        match owner {
            None => Ok(false),
            // Rejoining would fence the live process, which would fence this one again, without end.
            Some(owner @ Owner::LiveProcess(..)) => bail!(
                "another {program} has joined group {group:?} as {instance_id:?}, so this one leaves; it has \
                 committed nothing since it was fenced. Give each {program} a {program}.instance_id of \
                 its own. ({owner})"
            ),
            Some(Owner::Unknown | Owner::HeldBy(..) | Owner::Vacant) => {
                tracing::warn!(
                    group,
                    instance_id,
                    "instance id is vacant again, rejoining the group"
                );
                Ok(true)
            }
        }
    }

    /// Reports that the group was joined again after fencing.
    pub fn report_rejoined(&self) {
        self.health.set_rejoined();
    }
}
