//! Dispatch of the delivery's actions, and those that are done at once: partitions, waits, membership.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::{ClientError, Consumer};
use pipeline::delivery::{
    Action, Assignment, CallId, Event, HaltReason, Rejoin, ResponseSummary, WaitReason,
};
use records::{LeaderEpoch, Offset, Partition};
use service::failpoint::kill_at;

use crate::effects::{Shell, join, numbers};
use crate::http::SendPermit;
use crate::outbox::pending_call::PendingCall;

/// Readiness condition that partitions which are halted or cannot be loaded break, and the first assignment until it is
/// loaded.
const PARTITIONS: &str = "partitions";

impl Shell {
    /// Performs an action. Returns the event that follows from it at once, if any.
    ///
    /// # Errors
    /// The program cannot continue.
    pub(crate) fn perform(
        &mut self,
        action: Action<PendingCall>,
    ) -> anyhow::Result<Option<Event<PendingCall>>> {
        match action {
            Action::Load {
                assignment,
                partitions,
            } => return Ok(self.load(assignment, partitions)),
            Action::Start {
                partition,
                offset,
                leader_epoch,
                is_first,
            } => return Ok(self.start((partition, offset), leader_epoch, is_first)),
            Action::Halt { partition, why } => self.halt(partition, &why),
            Action::Pause(partitions) => {
                self.intake_paused.extend(&partitions);
                self.control_intake(&partitions, "paused", Consumer::pause);
            }
            Action::Resume(mut partitions) => {
                self.intake_paused
                    .retain(|partition| !partitions.contains(partition));
                // Those go on with the registry's answer.
                partitions.retain(|partition| !self.awaits_schema(*partition));
                self.control_intake(&partitions, "resumed", Consumer::resume);
            }
            Action::ExtendLease(until) => self.extend_lease(until),
            Action::Skip(call) => self.skip(call),
            Action::Withhold(partitions) => self.withhold(&partitions),
            Action::Send {
                call,
                attempt,
                repeats,
                payload,
            } => self.send(call, attempt, repeats, &payload),
            Action::LookUp { call, payload } => self.look_up(call, &payload),
            Action::Wait {
                call,
                what,
                tries,
                at_least,
                response,
            } => self.wait(call, what, tries, at_least, response),
            Action::Publish {
                call,
                final_state,
                history,
                payload,
            } => {
                return Ok(self.publish(call, &final_state, &history, &payload));
            }
            Action::Commit(commits) => self.commit(&commits),
            Action::Defer { copies, commits } => self.defer(copies, &commits),
            Action::Release {
                partitions,
                abandoned,
            } => return Ok(self.release(&partitions, &abandoned)),
            Action::Outage(outage) => self.outage(&outage),
            Action::OutageOver => self.outage_over(),
            Action::Rejoin(why) => self.rejoin(why)?,
            Action::Finish => self.is_finished = true,
        }
        Ok(None)
    }

    /// Removes and returns the next call whose wait has elapsed.
    pub(crate) fn pop_elapsed_wait(&mut self, now: Instant) -> Option<CallId> {
        let first = self.waits.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// Returns the end of the next wait.
    pub(crate) fn next_wait(&self) -> Option<Instant> {
        self.waits.first_key_value().map(|((at, _), _)| *at)
    }

    fn load(&mut self, assignment: Assignment, partitions: Vec<Partition>) -> Option<Event<PendingCall>> {
        if let Err(error) = self.consumer.accept(&partitions) {
            tracing::warn!(%error, "partitions not accepted, membership lost");
            return Some(self.client_lost(&error));
        }
        for partition in &partitions {
            let permit = SendPermit::new(self.epoch);
            // The last acknowledged commit proves the whole membership, so its lease covers new partitions
            // too. An elapsed lease does no harm: the permit lets nothing pass.
            self.lease_until.iter().for_each(|until| permit.extend(*until));
            self.send_permits.insert(*partition, permit);
        }
        self.assigned.assign(&partitions);
        self.update_readiness();
        if !partitions.is_empty() {
            tracing::info!(partitions = ?numbers(&partitions), "partitions assigned");
        }
        self.load_after(assignment, partitions, Duration::ZERO);
        None
    }

    fn start(
        &mut self,
        (partition, offset): (Partition, Offset),
        leader_epoch: Option<LeaderEpoch>,
        is_first: bool,
    ) -> Option<Event<PendingCall>> {
        self.assigned.start(partition);
        self.update_readiness();
        self.forget_schema_waits(|waiting| waiting == partition);
        let topic = &self.config.topics.pending;
        if is_first {
            tracing::info!(
                topic, %partition, group = self.config.kafka.group_id,
                "no committed offset and an empty partition, starting at its beginning"
            );
        }
        match self.consumer.start(partition, offset, leader_epoch) {
            Ok(()) => {
                tracing::info!(topic, %partition, %offset, "partition started");
                None
            }
            Err(error) => {
                tracing::warn!(topic, %partition, %error, "partition not started, membership lost");
                Some(self.client_lost(&error))
            }
        }
    }

    fn halt(&mut self, partition: Partition, why: &HaltReason) {
        let (topic, group) = (&self.config.topics.pending, &self.config.kafka.group_id);
        // The other partitions go on; the program is not ready until this one is repaired or released.
        let repair = why.repair(group, topic, partition);
        tracing::error!(
            topic, %partition, group, reason = %why, repair,
            "partition halted, operator action required"
        );
        let told = format!("{topic}/{partition} in group {group}: {why}. {repair}");
        self.assigned.halt(partition, told);
        self.update_readiness();
    }

    pub(crate) fn update_readiness(&self) {
        match self.assigned.unready() {
            Some(reason) => self.health.set_unready(PARTITIONS, reason),
            None => self.health.set_ready(PARTITIONS),
        }
    }

    pub(super) fn control_intake(
        &self,
        partitions: &[Partition],
        done: &'static str,
        control: impl Fn(&Consumer, &[Partition]) -> Result<(), ClientError>,
    ) {
        let numbers = numbers(partitions);
        match control(&self.consumer, partitions) {
            Ok(()) => tracing::debug!(partitions = ?numbers, "partitions {done}"),
            // librdkafka has already taken the partition away; its revocation or loss follows as an event.
            Err(error) => {
                tracing::warn!(partitions = ?numbers, %error, "partitions not {done}, awaiting their revocation");
            }
        }
    }

    fn skip(&self, call: CallId) {
        self.metrics.of_other_groups.inc();
        tracing::debug!(
            position = %self.position(call),
            "copy of another group's call skipped, its own callers make the call"
        );
    }

    fn wait(
        &mut self,
        call: CallId,
        what: WaitReason,
        tries: u32,
        at_least: Duration,
        response: Option<ResponseSummary>,
    ) {
        let wait = match what {
            // Exact: a shorter wait could overlap an earlier request, and a longer one only delays the order.
            WaitReason::Quiescence => at_least,
            WaitReason::Attempt | WaitReason::Publication | WaitReason::LookUp => {
                self.config.retry.wait(tries, at_least)
            }
        };
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        match (what, response) {
            (WaitReason::Attempt, Some(response)) => tracing::warn!(
                position = %self.position(call), attempt = tries, wait_ms, class = response.class.as_str(),
                kind = response.kind, status = response.status, "call will be retried"
            ),
            (WaitReason::Quiescence, _) => tracing::warn!(
                position = %self.position(call), wait_ms,
                "call outcome unknown, waiting until no earlier request can still be processed"
            ),
            (WaitReason::Attempt, None) | (WaitReason::Publication | WaitReason::LookUp, _) => {
                tracing::debug!(position = %self.position(call), tries, wait_ms, ?what, "call waits");
            }
        }
        // A map by time instead of a timer per call: the loop sleeps until the first entry.
        self.waits_started += 1;
        self.waits
            .insert((Instant::now() + wait, self.waits_started), call);
    }

    fn release(
        &mut self,
        partitions: &[Partition],
        abandoned: &[(Partition, Offset)],
    ) -> Option<Event<PendingCall>> {
        for (partition, offset) in abandoned {
            tracing::warn!(
                position = %self.position_at(*partition, *offset),
                "partition released with a request in flight, the next owner may repeat the call"
            );
        }
        // Before the release: the next owner may send as soon as it has the partition.
        self.withhold(partitions);
        self.assigned.release(partitions);
        self.update_readiness();
        self.forget_schema_waits(|partition| partitions.contains(&partition));
        kill_at!("before-revoke");
        // After the last commit: the consumer refuses commits of partitions that it has released.
        match self.consumer.release(partitions) {
            Ok(()) => {
                tracing::info!(partitions = ?numbers(partitions), "partitions released");
                None
            }
            Err(error) => {
                tracing::warn!(
                    partitions = ?numbers(partitions), %error,
                    "partitions not released, membership lost"
                );
                Some(self.client_lost(&error))
            }
        }
    }

    fn rejoin(&mut self, why: Rejoin) -> anyhow::Result<()> {
        self.metrics.rejoins.inc();
        tracing::warn!(reason = %why, "leaving and rejoining the group, nothing is sent meanwhile");
        self.drop_membership();
        // While fenced, joining would fence the other member in turn. `Loop::on_instance_id_resolved` joins
        // later.
        if !self.is_fenced {
            self.join_again()?;
        }
        Ok(())
    }

    fn drop_membership(&mut self) {
        self.send_permits.values().for_each(SendPermit::withhold);
        self.send_permits.clear();
        self.lease_until = None;
        self.assigned.clear();
        self.forget_schema_waits(|_| true);
        self.update_readiness();
        // The result of a commit still in flight now has an old number, so that it is ignored.
        self.commits_sent += 1;
        self.group_metadata = None;
    }

    /// Replaces the consumer by a new member of the group.
    pub(crate) fn join_again(&mut self) -> anyhow::Result<()> {
        let (consumer, ready) = join(&self.config)?;
        let old = std::mem::replace(&mut self.consumer, Arc::new(consumer));
        self.consumer_ready = ready;
        // Dropping it leaves the group and blocks on the brokers; responses to requests in flight must not
        // wait.
        tokio::task::spawn_blocking(move || drop(old));
        Ok(())
    }
}
