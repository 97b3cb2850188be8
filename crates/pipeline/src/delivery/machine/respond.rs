//! From a response to the acknowledged final state: retries, waits and publications.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Delivery;
use crate::delivery::call::{CallState, FinalState, History, Next, Policy};
use crate::delivery::event::{Action, CallId, WaitReason};
use crate::delivery::partition::Phase;
use crate::delivery::response::ClassifiedResponse;
use crate::delivery::schedule::{End, Known, KnownResult};

impl<P> Delivery<P> {
    pub(super) fn response_received(&mut self, id: CallId, response: ClassifiedResponse, now: Instant) {
        let Some((key, sent_at)) = self.requests.end(id) else {
            return;
        };
        self.observe_response(sent_at, &response, now);
        let response = match self.flow.keeps_rejection(sent_at) {
            true => response.kept(),
            false => response,
        };
        self.intents.request_ended();
        match self.partitions.get(id.partition) {
            // Whatever the assignment: the call may be ours again by a later one, and waits for this
            // response.
            Some(owned) if owned.is_in_flight(id.offset) => {
                let assignment = owned.assignment();
                self.take_response(CallId { assignment, ..id }, response, now);
            }
            Some(_) | None => {
                let result = KnownResult::Response(response, History::default());
                self.requests.remember(id, Known { key, result });
            }
        }
    }

    /// Takes in the response of a call that is ours and waits for it.
    pub(super) fn take_response(&mut self, id: CallId, response: ClassifiedResponse, now: Instant) {
        let abandon_after = self.limits.deferral.abandon_after;
        let Some(owned) = self.partitions.of(id) else {
            return;
        };
        let is_draining = owned.phase() == Phase::Draining;
        let Some(call) = owned.call(id.offset) else {
            return;
        };
        // A copy of the body is made only for a call that may be abandoned now, which few are.
        let last = abandon_after
            .is_some_and(|max| call.age(now) >= max)
            .then(|| response.clone());
        let (summary, is_kept) = (response.summary(), response.is_kept());
        let quiescence = self.verify.quiescence();
        let next = call.responded(response, quiescence, self.limits.ambiguous_attempts_max, now);
        // While the breaker is open it is what calls wait for. Their own backoff would only delay the
        // recovery.
        let tries = match self.flow.is_breaker_open() {
            true => 1,
            false => call.history().attempts,
        };
        let policy = call.policy();
        if !call.is_ambiguous() {
            // The note may still name the intent of this request, which is void now.
            owned.note_changed();
        }
        match next {
            Next::Publish(final_state) => {
                if matches!(*final_state, FinalState::Accepted(_) | FinalState::Rejected(_)) {
                    self.deferrals.api_succeeded(now);
                }
                self.publish(id);
            }
            // A drain leaves no time for another attempt: the next owner makes it.
            Next::Wait(_) | Next::Ready | Next::AwaitQuiescence if is_draining => {
                self.partitions.release(id);
            }
            Next::AwaitQuiescence => {
                self.await_quiescence(id, now + quiescence, now);
            }
            // A call that was rejected with most others is neither worse than they are nor too old.
            Next::Wait(_) if !is_kept && self.apply_retry_limits(id, last, now) => {}
            Next::Wait(at_least) => self.actions.push(Action::Wait {
                call: id,
                what: WaitReason::Attempt,
                tries,
                at_least,
                response: Some(summary),
            }),
            Next::Ready => self.retry(id, policy),
        }
    }

    /// Asks for a wait that no response to a request has led to.
    pub(super) fn wait(&mut self, call: CallId, what: WaitReason, tries: u32, at_least: Duration) {
        self.actions.push(Action::Wait {
            call,
            what,
            tries,
            at_least,
            response: None,
        });
    }

    /// Queues a call for its next attempt.
    pub(super) fn retry(&mut self, id: CallId, policy: Policy) {
        // In front, because an old call holds up the commit position. While the breaker is open at the back:
        // if only this call fails, the next probe must be another one.
        let end = match self.flow.is_breaker_open() {
            true => End::Back,
            false => End::Front,
        };
        self.queues.push(id, policy, end);
    }

    pub(super) fn wait_elapsed(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.partitions.call(id) else {
            return;
        };
        match call.state().0 {
            CallState::BackingOff => {
                call.enter(CallState::Ready, now);
                let policy = call.policy();
                if !self.follow_deferred(id, now) {
                    self.retry(id, policy);
                }
            }
            CallState::AwaitingQuiescence(until) if now < *until => {
                let until = *until;
                self.await_quiescence(id, until, now);
            }
            CallState::AwaitingQuiescence(_) => self.quiescent(id, now),
            CallState::Unpublished(final_state) => {
                let final_state = Arc::clone(final_state);
                call.enter(CallState::Publishing(final_state), now);
                self.publish(id);
            }
            // A late wait of an earlier state.
            CallState::BlockedByKey
            | CallState::Ready
            | CallState::RecordingIntent
            | CallState::IntentCommitted
            | CallState::InFlight
            | CallState::LookingUp
            | CallState::AwaitingDeferral
            | CallState::Deferring
            | CallState::Publishing(_) => {}
        }
    }

    pub(super) fn publish(&mut self, id: CallId) {
        let Some(call) = self.partitions.call(id) else {
            return;
        };
        if let CallState::Publishing(final_state) = call.state().0 {
            self.actions.push(Action::Publish {
                call: id,
                final_state: Arc::clone(final_state),
                history: call.published_history(final_state),
                payload: call.payload(),
            });
        }
    }

    pub(super) fn published(&mut self, id: CallId, acknowledged: bool, now: Instant) {
        let Some(call) = self.partitions.call(id) else {
            return;
        };
        let CallState::Publishing(final_state) = call.state().0 else {
            return;
        };
        if acknowledged {
            self.finish(id, now);
        } else {
            // The record may be in Kafka all the same. A second one is harmless; a call that is final without
            // a record would be lost.
            let final_state = Arc::clone(final_state);
            let tries = call.record_failed_publication();
            call.enter(CallState::Unpublished(final_state), now);
            self.wait(id, WaitReason::Publication, tries, Duration::ZERO);
        }
    }

    /// Makes a call final, and queues the next one of its key.
    pub(super) fn finish(&mut self, id: CallId, now: Instant) {
        if let Some(next) = self.partitions.finish(id, now) {
            self.first_of_key(next, now);
        }
    }
}
