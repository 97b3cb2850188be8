//! A thread that looks at the own group every now and then, and sees to it that no partition belongs to nobody for
//! ever; `unowned.rs` says when one does, and `guest.rs` how that is mended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::admin::Admin;
use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;
use crate::membership::trigger_rebalance;
use crate::membership::unassigned_partitions::{Rule, UnassignedPartitions};

/// What is watched.
pub struct Watched {
    /// The group is asked for through this.
    pub admin: Arc<Admin>,
    /// The cluster, and the group.
    pub settings: KafkaSettings,
    /// The name of this instance, for the brokers' logs.
    pub client_id: String,
    /// The topic that the group reads.
    pub topic: String,
    /// A topic that the group does not read, and this user may describe.
    pub unused_topic: String,
    /// The members' session time-out.
    pub session_timeout: Duration,
    /// How long a member may take to give partitions up.
    pub revoke_timeout: Duration,
}

/// What the program is told of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupStatus {
    /// Partitions belong to nobody, so many; and the reason that a person reads.
    UnassignedPartitions(usize, String),
    /// Nothing of that kind (any longer).
    AtRest,
    /// The partitions are being handed out anew, because of this member.
    Rebalanced,
}

/// Who the program is in its group.
#[derive(Clone, Debug, Default)]
pub struct MemberId(Arc<Mutex<String>>);

impl MemberId {
    /// The member id as of the last assignment. Only a member of the group acts on it.
    pub fn is(&self, member_id: &str) {
        member_id.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn member_id(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Watches until the process ends; `tell` is called from a thread of its own.
///
/// # Errors
/// There is no thread left.
pub fn watch(
    watched: Watched,
    myself: &MemberId,
    tell: impl FnMut(GroupStatus) + Send + 'static,
) -> std::io::Result<()> {
    let watch = Watch {
        rule: Rule::new(watched.revoke_timeout + ROUND_MAX),
        watched,
        myself: myself.clone(),
        tell,
        is_told: false,
        is_member: false,
        failed: 0,
    };
    std::thread::Builder::new()
        .name("group-watch".into())
        .spawn(move || watch.look_for_ever())
        .map(drop)
}

struct Watch<F> {
    watched: Watched,
    rule: Rule,
    myself: MemberId,
    tell: F,
    is_told: bool,
    /// Whether the last look has found this program in the group.
    is_member: bool,
    /// So many looks in a row.
    failed: u32,
}

impl<F: FnMut(GroupStatus)> Watch<F> {
    fn look_for_ever(mut self) {
        loop {
            match self.look() {
                Ok(found) => {
                    self.failed = 0;
                    self.found(found);
                }
                Err(fault) => self.look_failed(&fault),
            }
            let is_at_rest = self.failed == 0 && self.is_member && !self.rule.suspects();
            std::thread::sleep(if is_at_rest { EVERY_AT_REST } else { EVERY });
        }
    }

    fn look(&mut self) -> Result<Option<UnassignedPartitions>, ClientError> {
        let Watched {
            admin,
            settings,
            topic,
            ..
        } = &self.watched;
        let me = self.myself.member_id();
        let group = admin.group(&settings.group_id, topic, ANSWER_MAX)?;
        self.is_member = group.members.contains_key(&me);
        if group.members.is_empty() && !me.is_empty() {
            let what = format!(
                "finding the group {:?} among those that the brokers tell of",
                settings.group_id
            );
            return Err(ClientError::unavailable(what));
        }
        let known = admin.identities(&[topic], ANSWER_MAX)?;
        // One that is being deleted has none.
        let partitions = known.get(topic).map_or(0, |topic| topic.partitions);
        Ok(self.rule.look(&group, partitions, &me, Instant::now()))
    }

    fn found(&mut self, found: Option<UnassignedPartitions>) {
        let (group, topic) = (&self.watched.settings.group_id, &self.watched.topic);
        let Some(unowned) = found else {
            if self.is_told {
                tracing::info!(
                    group,
                    topic,
                    "each partition belongs to somebody again, or is about to"
                );
                self.is_told = false;
                (self.tell)(GroupStatus::AtRest);
            }
            return;
        };
        let partitions: Vec<i32> = unowned.partitions.iter().map(|partition| partition.0).collect();
        let lasting_s = unowned.lasting.as_secs();
        if !self.is_told {
            tracing::warn!(
                group,
                topic,
                ?partitions,
                lasting_s,
                "partitions belong to no member of the group, and no rebalance is under way; the member with the fewest \
                 partitions makes one"
            );
            self.is_told = true;
        }
        let reason = format!(
            "partitions {partitions:?} of {topic} have belonged to no member of group {group} for {lasting_s} s; a \
             rebalance is being made"
        );
        (self.tell)(GroupStatus::UnassignedPartitions(partitions.len(), reason));
        if unowned.should_trigger_rebalance {
            self.mend(&partitions);
        }
    }

    fn mend(&mut self, partitions: &[i32]) {
        let Watched {
            settings,
            client_id,
            unused_topic,
            session_timeout,
            ..
        } = &self.watched;
        let group = &settings.group_id;
        match trigger_rebalance::visit(settings, client_id, unused_topic, *session_timeout, GUEST_MAX) {
            Ok(()) => {
                tracing::warn!(
                    group,
                    ?partitions,
                    "a rebalance was made, so that they are handed out"
                );
                (self.tell)(GroupStatus::Rebalanced);
            }
            Err(fault) => tracing::warn!(group, ?partitions, error = %fault, "no rebalance was made yet"),
        }
    }

    /// It does no harm; without it, such partitions wait for the next rebalance.
    fn look_failed(&mut self, fault: &ClientError) {
        self.failed = self.failed.saturating_add(1);
        if self.failed == FAILED_TOLD {
            tracing::warn!(
                error = %fault, group = self.watched.settings.group_id,
                "the group cannot be looked at, which needs the right DESCRIBE of it; partitions that belong to nobody \
                 would not be noticed"
            );
        }
    }
}

const EVERY: Duration = Duration::from_secs(2);
/// While nothing is amiss: each broker is asked for all its groups, which may be many.
const EVERY_AT_REST: Duration = Duration::from_secs(10);
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How long the rest of a round takes: a heartbeat until a member hears of it, two requests of each.
const ROUND_MAX: Duration = Duration::from_secs(5);
/// The group waits for all its members before it begins a generation.
const GUEST_MAX: Duration = Duration::from_secs(60);
/// A broker that has just gone is no reason yet.
const FAILED_TOLD: u32 = 5;
