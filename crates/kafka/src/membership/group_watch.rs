//! A thread that observes the own group, and triggers a rebalance for partitions that would stay unassigned
//! for ever.
//!
//! `unassigned_partitions.rs` decides when that is the case, and `trigger_rebalance.rs` makes the rebalance.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::static_members::FormerMembers;
use super::trigger_rebalance::trigger_rebalance;
use super::unassigned_partitions::{UnassignedPartitions, UnassignedRule};
use crate::admin::Admin;
use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;

/// Group to watch, and the means to do so.
pub struct WatchedGroup {
    /// Client that describes the group.
    pub admin: Arc<Admin>,
    /// Connection settings, with the group's id.
    pub settings: KafkaSettings,
    /// Name of this instance in the brokers' logs.
    pub client_id: String,
    /// Topic that the group reads.
    pub topic: String,
    /// A topic that the group does not read, and that this user may describe.
    pub unused_topic: String,
    /// Session timeout of the members.
    pub session_timeout: Duration,
    /// Maximum time that a member takes to release revoked partitions.
    pub revoke_timeout: Duration,
    /// Members that the group no longer has, kept up to date by each observation.
    pub former_members: FormerMembers,
}

/// State of the group that the program is notified of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupStatus {
    /// Number of unassigned partitions, and the reason for readiness and logs.
    UnassignedPartitions(usize, String),
    /// No partition is unassigned (any longer), or a rebalance is in progress.
    AllAssigned,
    /// This member has triggered a rebalance.
    RebalanceTriggered,
}

/// Id of this program's current membership, shared with the watch.
#[derive(Clone, Debug, Default)]
pub struct MemberId(Arc<Mutex<String>>);

impl MemberId {
    /// Sets the member id of the last assignment. Only a member of the group triggers rebalances.
    pub fn set(&self, member_id: &str) {
        member_id.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Watches the group until the process ends. `notify` is called on a thread of its own.
///
/// # Errors
/// No thread could be started.
pub fn watch(
    watched: WatchedGroup,
    member_id: &MemberId,
    notify: impl FnMut(GroupStatus) + Send + 'static,
) -> std::io::Result<()> {
    let watch = Watch {
        rule: UnassignedRule::new(watched.revoke_timeout + ROUND_MARGIN),
        watched,
        member_id: member_id.clone(),
        notify,
        has_reported: false,
        is_member: false,
        failures: 0,
    };
    std::thread::Builder::new()
        .name("group-watch".into())
        .spawn(move || watch.run())
        .map(drop)
}

struct Watch<F> {
    watched: WatchedGroup,
    rule: UnassignedRule,
    member_id: MemberId,
    notify: F,
    /// Set while unassigned partitions are reported.
    has_reported: bool,
    /// Set if the last observation found this program in the group.
    is_member: bool,
    /// Number of consecutive observations that failed.
    failures: u32,
}

impl<F: FnMut(GroupStatus)> Watch<F> {
    fn run(mut self) {
        loop {
            match self.observe() {
                Ok(found) => {
                    self.failures = 0;
                    self.report(found);
                }
                Err(error) => self.observation_failed(&error),
            }
            let is_stable = self.failures == 0 && self.is_member && !self.rule.is_suspicious();
            std::thread::sleep(if is_stable { STABLE_INTERVAL } else { INTERVAL });
        }
    }

    fn observe(&mut self) -> Result<Option<UnassignedPartitions>, ClientError> {
        let WatchedGroup {
            admin,
            settings,
            topic,
            former_members,
            ..
        } = &self.watched;
        let member_id = self.member_id.get();
        let group = admin.group(&settings.group_id, topic, RESPONSE_TIMEOUT)?;
        self.is_member = group.members.contains_key(&member_id);
        former_members.observe(&group);
        // We were a member, so the group exists: it is hidden from this user, or moves to another broker.
        if group.members.is_empty() && !member_id.is_empty() {
            let attempted = format!(
                "finding the group {:?} among those that the brokers report",
                settings.group_id
            );
            return Err(ClientError::unavailable(attempted));
        }
        let topics = admin.identities(&[topic], RESPONSE_TIMEOUT)?;
        // A topic that is being deleted is missing; it has no partitions to assign.
        let partitions = topics.get(topic).map_or(0, |topic| topic.partitions);
        Ok(self.rule.observe(&group, partitions, &member_id, Instant::now()))
    }

    fn report(&mut self, found: Option<UnassignedPartitions>) {
        let (group, topic) = (&self.watched.settings.group_id, &self.watched.topic);
        let Some(unassigned) = found else {
            if self.has_reported {
                tracing::info!(
                    group,
                    topic,
                    "all partitions are assigned, or a rebalance is in progress"
                );
                self.has_reported = false;
                (self.notify)(GroupStatus::AllAssigned);
            }
            return;
        };
        let partitions: Vec<i32> = unassigned
            .partitions
            .iter()
            .map(|partition| partition.0)
            .collect();
        let lasting_s = unassigned.lasting.as_secs();
        // Logged once; the status is repeated with the current duration.
        if !self.has_reported {
            tracing::warn!(
                group,
                topic,
                ?partitions,
                lasting_s,
                "partitions are assigned to no member of the group, and no rebalance is in progress; the \
                 member with the fewest partitions triggers one"
            );
            self.has_reported = true;
        }
        let reason = format!(
            "partitions {partitions:?} of {topic} have been assigned to no member of group {group} for \
             {lasting_s} s; a rebalance is being triggered"
        );
        (self.notify)(GroupStatus::UnassignedPartitions(partitions.len(), reason));
        if unassigned.should_trigger_rebalance {
            self.trigger_rebalance(&partitions);
        }
    }

    fn trigger_rebalance(&mut self, partitions: &[i32]) {
        let WatchedGroup {
            settings,
            client_id,
            unused_topic,
            session_timeout,
            ..
        } = &self.watched;
        let group = &settings.group_id;
        match trigger_rebalance(
            settings,
            client_id,
            unused_topic,
            *session_timeout,
            REBALANCE_TIMEOUT,
        ) {
            Ok(()) => {
                tracing::warn!(group, ?partitions, "rebalance triggered to assign the partitions");
                (self.notify)(GroupStatus::RebalanceTriggered);
            }
            // The rule asks for a rebalance again, of this member or another one.
            Err(error) => {
                tracing::warn!(group, ?partitions, %error, "no rebalance triggered yet, trying again");
            }
        }
    }

    fn observation_failed(&mut self, error: &ClientError) {
        self.failures = self.failures.saturating_add(1);
        // Harmless for orders and calls: without this watch, unassigned partitions wait for the next
        // rebalance.
        if self.failures == FAILURES_REPORTED {
            tracing::warn!(
                %error, group = self.watched.settings.group_id,
                "group cannot be observed, which needs the permission DESCRIBE on it; unassigned partitions \
                 would go unnoticed"
            );
        }
    }
}

/// Interval between two observations of the group.
const INTERVAL: Duration = Duration::from_secs(2);
/// Interval between two observations while the group is stable and complete.
// Each broker is asked for all its groups, which may be many.
const STABLE_INTERVAL: Duration = Duration::from_secs(10);
/// Timeout of each request.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Duration of a rebalance round beyond the release of partitions: a heartbeat until each member learns of
/// it, and two requests of each.
const ROUND_MARGIN: Duration = Duration::from_secs(5);
/// Timeout for a triggered rebalance. The group waits for all its members before it starts a generation.
const REBALANCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of consecutive failures that are logged as a warning.
// A broker that has just stopped causes some by itself.
const FAILURES_REPORTED: u32 = 5;
