//! The delivery: its parts, and the order in which things follow from an event.

mod assign;
mod backpressure;
mod commit;
mod defer;
mod dispatch;
mod intake;
mod resolve_ambiguous;
mod respond;
mod retry_limits;
mod revoke;
#[cfg(test)]
mod tests;
mod write_ahead;

use std::time::Instant;

use records::Partition;

use super::bound::{Bound, Facts};
use super::call::{Call, CallState, LookupResponse, Verify};
use super::event::{Action, CallId, Event, Rejoin};
use super::flow::FlowControl;
use super::gauges::Gauges;
use super::limits::Limits;
use super::partition::{OwnedPartitions, OwnershipLease, Phase};
use super::response::{ClassifiedResponse, Response, ResponseClassifier};
use super::schedule::{CommitSchedule, DeferralQueue, Drains, IntentWindow, LookUps, Requests, SendQueues};

/// Stage two's decisions about all partitions that this process owns. `P` is what the program needs to make a
/// call.
#[derive(Debug)]
pub struct Delivery<P> {
    limits: Limits,
    classifier: ResponseClassifier,
    verify: Verify,
    partitions: OwnedPartitions<P>,
    lease: OwnershipLease,
    flow: FlowControl,
    requests: Requests,
    look_ups: LookUps,
    queues: SendQueues,
    intents: IntentWindow,
    deferrals: DeferralQueue,
    commits: CommitSchedule,
    drains: Drains,
    /// Actions that the current event has led to so far.
    actions: Vec<Action<P>>,
}

impl<P> Delivery<P> {
    /// A delivery without partitions, and without flow control ([`Delivery::with_flow_control`]).
    #[must_use]
    pub fn new(limits: Limits, classifier: ResponseClassifier, verify: Verify) -> Self {
        Self {
            limits,
            classifier,
            verify,
            partitions: OwnedPartitions::new(),
            lease: OwnershipLease::new(limits.ownership_lease),
            flow: FlowControl::unlimited(limits.calls_in_flight_max),
            requests: Requests::default(),
            look_ups: LookUps::default(),
            queues: SendQueues::default(),
            intents: IntentWindow::default(),
            deferrals: DeferralQueue::default(),
            commits: CommitSchedule::default(),
            drains: Drains::default(),
            actions: Vec::new(),
        }
    }

    /// Takes an event in. Returns the actions that follow, to be done in this order.
    pub fn on(&mut self, event: Event<P>, now: Instant) -> Vec<Action<P>> {
        match event {
            Event::Assigned(partitions) => self.assigned(partitions),
            Event::NotesLoaded {
                assignment,
                partition,
                loaded,
            } => self.notes_loaded(assignment, partition, &loaded, now),
            Event::Pending(pending) => self.pending(pending, now),
            Event::ReachedEnd { partition, next } => self.reached_end(partition, next),
            Event::ResponseReceived { call, response } => self.response_received(call, response, now),
            Event::LookedUp { call, response } => self.looked_up(call, response, now),
            Event::WaitElapsed(call) => self.wait_elapsed(call, now),
            Event::Published { call, acknowledged } => self.published(call, acknowledged, now),
            Event::Committed(result) => self.committed(result, now),
            Event::Revoked(partitions) => self.revoked(partitions, now),
            Event::Lost(partitions) => self.lost(partitions, now),
            Event::ClientLost => self.rejoin(Rejoin::ClientLost),
            Event::Paused(is_paused) => self.set_paused(is_paused, now),
            Event::Stop => self.shut_down(now),
            // Only time has passed. What is due follows below.
            Event::Tick => {}
        }
        self.follow_up(now);
        std::mem::take(&mut self.actions)
    }

    /// Does everything that is due, in the one order that holds for all events.
    fn follow_up(&mut self, now: Instant) {
        // Deadlines first: what they release is not sent any more, and the commit below records it.
        self.expire_commit(now);
        self.expire_drains(now);
        self.send_ready(now);
        self.look_up_ready(now);
        self.defer_if_due(now);
        // After sending, so that the commit records what was just sent.
        self.commit_if_due(now);
        self.release_drained(now);
        self.finish_if_drained(now);
        // Last: only now is it known how much is still open.
        self.update_intake();
    }

    /// Time at which [`Event::Tick`] is due, unless another event comes before.
    #[must_use]
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        let commit_max = self.limits.commit_max;
        // Nothing is committed or deferred while a commit is in flight, so only its timeout counts then.
        let commit = match self.commits.times_out_at(commit_max) {
            Some(timeout) => Some(timeout),
            None => {
                let deferral = self.deferrals.due_at(&self.commits, now);
                self.commit_due_at(now).into_iter().chain(deferral).min()
            }
        };
        let drains = self.drains.wake_at(commit_max);
        let flow = self.flow_wake_at(now);
        drains.into_iter().chain(commit).chain(flow).min()
    }

    /// Open calls, partition by partition, in the order of the outbox.
    pub fn calls(&self) -> impl Iterator<Item = (CallId, &Call<P>)> {
        self.partitions.calls()
    }

    /// Owned partitions, in their order, each with its phase.
    pub fn partitions(&self) -> impl Iterator<Item = (Partition, Phase)> {
        self.partitions
            .iter()
            .map(|(partition, owned)| (partition, owned.phase()))
    }

    /// Gauges of the current state.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        // Counted each time, in a pass over the open calls: counters that are kept could drift from them.
        let in_phase = |phase| {
            let owned = self.partitions.iter();
            owned.filter(|(_, owned)| owned.phase() == phase).count()
        };
        let awaits_quiescence = |call: &Call<P>| {
            matches!(
                call.state().0,
                CallState::AwaitingQuiescence(_) | CallState::LookingUp
            )
        };
        let open = self.partitions.iter().map(|(_, owned)| owned.calls_open());
        let calls = self.partitions.iter().flat_map(|(_, owned)| owned.calls());
        Gauges {
            partitions: in_phase(Phase::Active),
            partitions_loading: in_phase(Phase::Loading),
            partitions_halted: in_phase(Phase::Halted),
            partitions_draining: in_phase(Phase::Draining),
            calls_open: open.sum(),
            calls_in_flight: self.requests.in_flight(),
            calls_in_flight_limit: self.flow.limit(),
            breaker: self.flow.breaker_state(),
            is_paused: self.flow.is_paused(),
            calls_awaiting_quiescence: calls.filter(|(_, call)| awaits_quiescence(call)).count(),
            bytes_open: self.partitions.bytes_open(),
        }
    }

    /// What bounds the number of calls per second.
    #[must_use]
    pub fn bound(&self, now: Instant) -> Bound {
        let has_ready = self.has_ready();
        let awaits_intent = self.queues.awaiting_intent() > 0 || self.intents.is_recording();
        Bound::of(Facts {
            has_active_partition: self.has_active_partition(),
            is_paused: self.flow.is_paused(),
            is_breaker_open: self.flow.is_breaker_open(),
            has_ready,
            awaits_commit: awaits_intent || (has_ready && !self.commits_allow(now)),
            has_free_slot: self.has_free_slot() && self.flow.breaker_has_room(now),
            rate_has_room: self.flow.rate_has_room(now),
        })
    }

    /// Classifies the response to a call, for [`Event::ResponseReceived`].
    #[must_use]
    pub fn classify(&self, response: Response) -> ClassifiedResponse {
        self.classifier.classify(response)
    }

    /// Classifies the response to a look-up, for [`Event::LookedUp`].
    #[must_use]
    pub fn classify_look_up(&self, response: Response) -> LookupResponse {
        self.verify.classify(response)
    }

    fn has_active_partition(&self) -> bool {
        self.partitions.iter().any(|(_, owned)| owned.is_active())
    }
}
