//! One short function for each action of the pipeline.
//!
//! Those whose result comes back later have files of their own, which tell both ends: `loading.rs`,
//! `publishing.rs`, `committing.rs` and `deferring.rs`; what is told of the API's outages is in `outage.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::{ClientError, Consumer};
use pipeline::delivery::{
    Action, Ambiguity, Assignment, CallId, Event, HaltReason, Rejoin, Response, ResponseSummary, WaitReason,
};
use records::{Offset, Partition};
use service::failpoint::kill_at;

use crate::arrived::Arrived;
use crate::job::Job;
use crate::latch::ExtendLease;
use crate::shell::{Shell, join, numbers};

/// The condition of readiness that refused partitions break.
const PARTITIONS: &str = "partitions";

impl Shell {
    /// Does what the pipeline asks for. Returns what came of it at once.
    ///
    /// # Errors
    /// The program cannot go on.
    pub(crate) fn perform(&mut self, action: Action<Job>) -> anyhow::Result<Option<Event<Job>>> {
        match action {
            Action::Load {
                assignment,
                partitions,
            } => return Ok(self.load(assignment, partitions)),
            Action::Start {
                partition,
                offset,
                is_first,
            } => return Ok(self.start(partition, offset, is_first)),
            Action::Halt { partition, why } => self.refuse(partition, &why),
            Action::Pause(partitions) => self.steer(&partitions, "paused", Consumer::pause),
            Action::Resume(partitions) => self.steer(&partitions, "resumed", Consumer::resume),
            Action::ExtendLease(until) => self.permit(until),
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
            } => return Ok(self.give_up(&partitions, &abandoned)),
            Action::Outage(outage) => self.outage(&outage),
            Action::OutageOver => self.outage_over(),
            Action::Rejoin(why) => self.rejoin(why)?,
            Action::Finish => self.is_finished = true,
        }
        Ok(None)
    }

    /// The next wait that is over.
    pub(crate) fn wait_over(&mut self, now: Instant) -> Option<CallId> {
        let first = self.waits.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// When the next wait is over.
    pub(crate) fn next_wait(&self) -> Option<Instant> {
        self.waits.first_key_value().map(|((at, _), _)| *at)
    }

    fn load(&mut self, assignment: Assignment, partitions: Vec<Partition>) -> Option<Event<Job>> {
        if let Err(error) = self.consumer.accept(&partitions) {
            tracing::warn!(%error, "partitions cannot be accepted");
            return Some(self.client_lost(&error));
        }
        for partition in &partitions {
            let permit = ExtendLease::new(self.epoch);
            // The proof is the membership's, not the partition's. When it is over, nothing is asked to be sent.
            self.permitted_until
                .iter()
                .for_each(|until| permit.extend(*until));
            self.permits.insert(*partition, permit);
            self.admit(*partition);
        }
        if !partitions.is_empty() {
            tracing::info!(partitions = ?numbers(&partitions), "partitions assigned");
        }
        self.load_again(assignment, partitions, Duration::ZERO);
        None
    }

    fn start(&mut self, partition: Partition, offset: Offset, is_first: bool) -> Option<Event<Job>> {
        let topic = &self.config.topics.pending;
        if is_first {
            tracing::warn!(
                topic, %partition, group = self.config.kafka.group_id,
                "the group has no committed offset for the partition; it is called from its beginning"
            );
        }
        match self.consumer.start(partition, offset) {
            Ok(()) => {
                tracing::info!(topic, %partition, %offset, "partition started");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "a partition cannot be started");
                Some(self.client_lost(&error))
            }
        }
    }

    fn refuse(&mut self, partition: Partition, why: &HaltReason) {
        let (topic, group) = (&self.config.topics.pending, &self.config.kafka.group_id);
        tracing::error!(topic, %partition, group, reason = %why, "the partition is left alone until a person acts");
        self.refused
            .insert(partition, format!("{topic}/{partition}: {why}"));
        self.tell_refused();
    }

    /// The partition is no longer refused, or no longer ours.
    fn admit(&mut self, partition: Partition) {
        if self.refused.remove(&partition).is_some() {
            self.tell_refused();
        }
    }

    fn tell_refused(&self) {
        if self.refused.is_empty() {
            self.health.set_ready(PARTITIONS);
        } else {
            let reasons: Vec<&str> = self.refused.values().map(String::as_str).collect();
            self.health.set_unready(PARTITIONS, reasons.join("; "));
        }
    }

    fn steer(
        &self,
        partitions: &[Partition],
        done: &'static str,
        steer: impl Fn(&Consumer, &[Partition]) -> Result<(), ClientError>,
    ) {
        match steer(&self.consumer, partitions) {
            Ok(()) => tracing::debug!(partitions = ?numbers(partitions), "intake {done}"),
            // Then it is no longer ours, and that is about to be told.
            Err(error) => tracing::warn!(%error, "intake was not {done}"),
        }
    }

    fn permit(&mut self, until: Instant) {
        self.permitted_until = Some(until);
        self.permits.values().for_each(|permit| permit.extend(until));
    }

    fn withhold(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            if let Some(permit) = self.permits.remove(partition) {
                permit.withhold();
            }
        }
    }

    fn send(&self, call: CallId, attempt: u32, repeats: Option<Ambiguity>, job: &Arc<Job>) {
        let position = &job.position;
        let (Ok(callable), Some(permit)) = (&job.call, self.permits.get(&call.partition)) else {
            debug_assert!(false, "a call without request or permit is sent: {position}");
            let report = Response::NotSent(pipeline::delivery::NotSent::Withheld);
            let _ = self.inbox.send(Arrived::Answered {
                call,
                report,
                repeats: None,
                took: Duration::ZERO,
            });
            return;
        };
        let key = &callable.key;
        match repeats {
            Some(ambiguity) => tracing::warn!(
                %key, %position, attempt, reason = ambiguity.as_str(),
                "call is repeated: nobody can know whether it was processed before"
            ),
            None => tracing::debug!(%key, %position, attempt, "call is made"),
        }
        let (api, inbox) = (Arc::clone(&self.api), self.inbox.clone());
        let (request, permit) = (callable.request.clone(), permit.clone());
        tokio::spawn(async move {
            let began = Instant::now();
            let report = api.call(request, permit).await;
            let took = began.elapsed();
            // The loop is gone only when the program ends.
            let _ = inbox.send(Arrived::Answered {
                call,
                report,
                repeats,
                took,
            });
        });
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
            WaitReason::Quiescence => at_least,
            WaitReason::Attempt | WaitReason::Publication | WaitReason::LookUp => {
                self.config.retry.wait(tries, at_least)
            }
        };
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        match (what, response) {
            (WaitReason::Attempt, Some(response)) => tracing::warn!(
                position = %self.position(call), attempt = tries, wait_ms, answer = response.class.as_str(),
                kind = response.kind, status = response.status, "call will be made again"
            ),
            (WaitReason::Quiescence, _) => tracing::warn!(
                position = %self.position(call), wait_ms,
                "nobody can know whether the call was processed; waiting until nothing of it can be at work"
            ),
            (WaitReason::Attempt, None) | (WaitReason::Publication | WaitReason::LookUp, _) => {
                tracing::debug!(
                    position = %self.position(call), tries, wait_ms, ?what, "waits"
                );
            }
        }
        self.waits_begun += 1;
        self.waits.insert((Instant::now() + wait, self.waits_begun), call);
    }

    fn give_up(&mut self, partitions: &[Partition], abandoned: &[(Partition, Offset)]) -> Option<Event<Job>> {
        for (partition, offset) in abandoned {
            tracing::warn!(
                position = %self.place(*partition, *offset),
                "a request is still under way while its partition goes; the next owner may repeat the call"
            );
        }
        self.withhold(partitions);
        for partition in partitions {
            self.admit(*partition);
        }
        kill_at!("before-give-up");
        match self.consumer.give_up(partitions) {
            Ok(()) => {
                tracing::info!(partitions = ?numbers(partitions), "partitions given up");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "partitions cannot be given up");
                Some(self.client_lost(&error))
            }
        }
    }

    fn rejoin(&mut self, why: Rejoin) -> anyhow::Result<()> {
        self.metrics.rejoins.inc();
        tracing::warn!(reason = %why, "the group is left and joined anew; nothing is sent meanwhile");
        self.let_all_go();
        // Who joined now would throw the other out.
        if !self.is_fenced {
            self.join_anew()?;
        }
        Ok(())
    }

    fn let_all_go(&mut self) {
        self.permits.values().for_each(ExtendLease::withhold);
        self.permits.clear();
        self.permitted_until = None;
        self.refused.clear();
        self.tell_refused();
        self.commits_sent += 1;
        self.group_metadata = None;
    }

    pub(crate) fn join_anew(&mut self) -> anyhow::Result<()> {
        let (consumer, ready) = join(&self.config)?;
        let old = std::mem::replace(&mut self.consumer, Arc::new(consumer));
        self.ready = ready;
        // Leaving waits for the brokers; the answers to requests under way must not.
        tokio::task::spawn_blocking(move || drop(old));
        Ok(())
    }
}
