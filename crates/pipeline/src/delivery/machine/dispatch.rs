//! Calls are made and come to their ends: sent, answered, tried again, published, finished.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::in_flight::{Known, What};
use crate::delivery::call::Policy;
use crate::delivery::call::{CallState, History, Next};
use crate::delivery::event::{Action, CallId, WaitReason};
use crate::delivery::machine::Delivery;
use crate::delivery::partition::{Phase, owned_in};
use crate::delivery::response::Response;

impl<P> Delivery<P> {
    /// Whether a call is ours and waits for the report of its request.
    #[must_use]
    pub fn awaits(&self, id: CallId) -> bool {
        let held = self.held.get(&id.partition);
        held.is_some_and(|held| held.is_calling(id.offset))
    }

    /// A call is the first of its key that is not final: says what is to be done with it.
    pub(super) fn first_of_key(&mut self, id: CallId, now: Instant) {
        if self.follow_deferred(id, now) {
            return;
        }
        let Some(held) = owned_in(&mut self.held, id) else {
            return;
        };
        let inherited_until = held.inherited_until.unwrap_or(now);
        let Some(call) = held.call(id.offset) else {
            return;
        };
        let inherited_until = call
            .inherited_until
            .map_or(inherited_until, |at| at.max(inherited_until));
        match (call.policy, call.ambiguity) {
            (Policy::Retry, _) => self.ready.push_back(id),
            (Policy::Park | Policy::Verify, None) => self.awaiting_intent.push_back(id),
            (policy @ (Policy::Park | Policy::Verify), Some(_)) => {
                if self.resume(id, now) {
                    return;
                }
                let settle = match policy {
                    Policy::Verify => self.verify.api_processing_max,
                    Policy::Retry | Policy::Park => Duration::ZERO,
                };
                self.settle_until(id, inherited_until + settle, now);
            }
        }
    }

    /// Takes up what this process knows of a call from an earlier assignment. Returns whether it knew
    /// anything.
    pub(super) fn resume(&mut self, id: CallId, now: Instant) -> bool {
        let Some(call) = owned_in(&mut self.held, id).and_then(|held| held.call(id.offset)) else {
            return true;
        };
        let known = match self.requests.is_under_way(id) {
            // Its report will do.
            true => None,
            false => match self.requests.take_known(id, call.key.as_ref()) {
                Some(known) => Some(known),
                None => return false,
            },
        };
        call.enter(CallState::Ready, now);
        call.begin(now);
        match known {
            None => {}
            Some(What::Reported(report, before)) => {
                call.resume(before);
                self.take_report(id, report, now);
            }
            Some(What::Ended) => self.finish(id, now),
        }
        true
    }

    pub(super) fn send_ready(&mut self, now: Instant) {
        while self.requests.count() < self.pace.calls_in_flight_max()
            && self.ownership.may_send(now)
            && self.pace.has_room(now)
        {
            let Some(id) = self.ready.pop_front() else {
                return;
            };
            let Some(held) = owned_in(&mut self.held, id).filter(|held| held.phase == Phase::Active) else {
                continue;
            };
            let Some(call) = held.call(id.offset) else {
                continue;
            };
            match (&call.state, call.policy) {
                (CallState::IntentCommitted, _) => {}
                (CallState::Ready, Policy::Retry) => {
                    if self.resume(id, now) {
                        continue;
                    }
                }
                _ => continue,
            }
            self.send(id, now);
        }
    }

    fn send(&mut self, id: CallId, now: Instant) {
        let Some(held) = owned_in(&mut self.held, id) else {
            return;
        };
        let Some(call) = held.call(id.offset) else {
            return;
        };
        call.begin(now);
        let action = Action::Send {
            call: id,
            attempt: call.history.attempts,
            repeats: call.ambiguity,
            payload: Arc::clone(&call.payload),
        };
        let key = call.key.clone();
        held.changed();
        self.requests.begin(id, key, now);
        self.pace.begun(now);
        if self.requests.count() >= self.pace.calls_in_flight_max() {
            self.pace.full();
        }
        self.actions.push(action);
    }

    pub(super) fn has_ready(&self) -> bool {
        // Those of partitions that are gone or draining are skipped only when they are next in line.
        self.ready.iter().any(|id| {
            self.held
                .get(&id.partition)
                .is_some_and(|held| held.assignment == id.assignment && held.phase == Phase::Active)
        })
    }

    pub(super) fn answered(&mut self, id: CallId, report: Response, now: Instant) {
        let Some((key, began)) = self.requests.end(id) else {
            return;
        };
        self.hear_of_api(began, &report, now);
        self.ended_since_commit += 1;
        // Not by the assignment: the call may be ours again by another one.
        match self.held.get_mut(&id.partition) {
            Some(held) if held.is_calling(id.offset) => {
                let assignment = held.assignment;
                self.take_report(CallId { assignment, ..id }, report, now);
            }
            _ => {
                let what = What::Reported(report, History::default());
                self.requests.keep(id, Known { key, what });
            }
        }
    }

    /// The report of a call that is ours and waits for it.
    fn take_report(&mut self, id: CallId, report: Response, now: Instant) {
        let abandon_after = self.limits.deferral.abandon_after;
        let Some(held) = owned_in(&mut self.held, id) else {
            return;
        };
        let is_draining = held.phase == Phase::Draining;
        let Some(call) = held.call(id.offset) else {
            return;
        };
        // Few are, so only then its report is wanted once more.
        let last = abandon_after
            .is_some_and(|max| call.seen_for(now) >= max)
            .then(|| report.clone());
        let next = call.answered(report, &self.classes, self.verify.api_processing_max, now);
        // While the API is ill it is the breaker that calls wait for.
        let tries = if self.pace.is_open() {
            1
        } else {
            call.history.attempts
        };
        let policy = call.policy;
        if !call.is_ambiguous() {
            // The note tells of a beginning that came to nothing.
            held.changed();
        }
        match next {
            Next::Publish(ending) => {
                self.note_success(&ending, now);
                self.publish(id);
            }
            // There is no time for another attempt; the next owner makes it.
            Next::Wait(_) | Next::Ready | Next::Settle if is_draining => {
                self.bytes_open -= held.release(id.offset);
            }
            Next::Settle => self.settle_until(id, now + self.verify.api_processing_max, now),
            Next::Wait(_) if self.set_aside(id, last, now) => {}
            Next::Wait(at_least) => {
                self.actions.push(Action::Wait {
                    call: id,
                    what: WaitReason::Attempt,
                    tries,
                    at_least,
                });
            }
            Next::Ready => self.ready_again(id, policy),
        }
    }

    /// Before those that were never tried, so that the watermark moves; but behind them while the API seems ill: if
    /// it is only this call that fails, the next probe is another one.
    pub(super) fn ready_again(&mut self, id: CallId, policy: Policy) {
        let calls = match policy.requires_intent() {
            true => &mut self.awaiting_intent,
            false => &mut self.ready,
        };
        match self.pace.is_open() {
            true => calls.push_back(id),
            false => calls.push_front(id),
        }
    }

    pub(super) fn wait_over(&mut self, id: CallId, now: Instant) {
        let Some(call) = owned_in(&mut self.held, id).and_then(|held| held.call(id.offset)) else {
            return;
        };
        match &call.state {
            CallState::BackingOff => {
                call.enter(CallState::Ready, now);
                let policy = call.policy;
                if !self.follow_deferred(id, now) {
                    self.ready_again(id, policy);
                }
            }
            CallState::AwaitingQuiescence(until) if now < *until => {
                let until = *until;
                self.settle_until(id, until, now);
            }
            CallState::AwaitingQuiescence(_) => self.settled(id, now),
            CallState::Unpublished(ending) => {
                let ending = Arc::clone(ending);
                call.enter(CallState::Publishing(ending), now);
                self.publish(id);
            }
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
        let Some(call) = owned_in(&mut self.held, id).and_then(|held| held.call(id.offset)) else {
            return;
        };
        if let CallState::Publishing(ending) = &call.state {
            self.actions.push(Action::Publish {
                call: id,
                ending: Arc::clone(ending),
                history: call.history,
                payload: Arc::clone(&call.payload),
            });
        }
    }

    pub(super) fn published(&mut self, id: CallId, acknowledged: bool, now: Instant) {
        let Some(held) = owned_in(&mut self.held, id) else {
            return;
        };
        let Some(call) = held.call(id.offset) else {
            return;
        };
        let CallState::Publishing(ending) = &call.state else {
            return;
        };
        if acknowledged {
            self.finish(id, now);
        } else {
            let ending = Arc::clone(ending);
            call.publications_failed += 1;
            let tries = call.publications_failed;
            call.enter(CallState::Unpublished(ending), now);
            let (what, at_least) = (WaitReason::Publication, Duration::ZERO);
            self.actions.push(Action::Wait {
                call: id,
                what,
                tries,
                at_least,
            });
        }
    }

    pub(super) fn finish(&mut self, id: CallId, now: Instant) {
        let finished = owned_in(&mut self.held, id).and_then(|held| held.finish(id.offset, now));
        if let Some((bytes, next)) = finished {
            self.bytes_open -= bytes;
            if let Some(offset) = next {
                self.first_of_key(CallId { offset, ..id }, now);
            }
        }
    }
}
