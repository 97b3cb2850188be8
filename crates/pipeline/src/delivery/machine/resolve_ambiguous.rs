//! What nobody can know is settled: once no earlier request can be at work any more, the call is parked, or
//! the API is asked for the order.
//!
//! Requests of an earlier owner may leave as long as the last commit that it made before we read its notes
//! proves its ownership; requests of our own have left when their report is here. From then on the API may
//! be at work for its longest processing time. A look-up before that could miss the order.

use std::sync::Arc;
use std::time::Instant;

use crate::delivery::call::Policy;
use crate::delivery::call::{CallState, Next};
use crate::delivery::event::{Action, CallId, WaitReason};
use crate::delivery::machine::Delivery;
use crate::delivery::partition::{Phase, owned_in};
use crate::delivery::response::Response;

impl<P> Delivery<P> {
    /// A call waits until no earlier request of it can be at work.
    pub(super) fn settle_until(&mut self, id: CallId, until: Instant, now: Instant) {
        let Some(call) = owned_in(&mut self.held, id).and_then(|held| held.call(id.offset)) else {
            return;
        };
        call.enter(CallState::AwaitingQuiescence(until), now);
        self.actions.push(Action::Wait {
            call: id,
            what: WaitReason::Quiescence,
            tries: call.lookups,
            at_least: until.saturating_duration_since(now),
        });
    }

    /// No earlier request of a call can be at work.
    pub(super) fn settled(&mut self, id: CallId, now: Instant) {
        let Some(call) = owned_in(&mut self.held, id).and_then(|held| held.call(id.offset)) else {
            return;
        };
        match call.policy {
            Policy::Verify => {
                call.enter(CallState::LookingUp, now);
                self.lookups.push_back(id);
            }
            Policy::Park => {
                let ending = call.parked();
                call.enter(CallState::Publishing(ending), now);
                self.publish(id);
            }
            Policy::Retry => {
                call.enter(CallState::Ready, now);
                self.ready.push_back(id);
            }
        }
    }

    /// Look-ups have as many places as requests, and take none from them.
    pub(super) fn look_up_ready(&mut self, now: Instant) {
        while self.lookups_under_way.len() < self.limits.calls_in_flight_max && self.may_look_up(now) {
            let Some(id) = self.lookups.pop_front() else {
                return;
            };
            let held = owned_in(&mut self.held, id).filter(|held| held.phase == Phase::Active);
            let Some(call) = held.and_then(|held| held.call(id.offset)) else {
                continue;
            };
            if call.state == CallState::LookingUp {
                self.lookups_under_way.insert(id, now);
                self.pace.look_up_begun(now);
                self.actions.push(Action::LookUp {
                    call: id,
                    payload: Arc::clone(&call.payload),
                });
            }
        }
    }

    pub(super) fn looked_up(&mut self, id: CallId, report: Response, now: Instant) {
        let Some(began) = self.lookups_under_way.remove(&id) else {
            return;
        };
        let is_ill = self.hear_of_look_up(began, &report, now);
        let Some(held) = owned_in(&mut self.held, id) else {
            return;
        };
        let Some(call) = held
            .call(id.offset)
            .filter(|call| call.state == CallState::LookingUp)
        else {
            return;
        };
        let next = call.looked_up(report, &self.classes, &self.verify, is_ill, now);
        let (tries, policy) = (call.lookups, call.policy);
        if !call.is_ambiguous() {
            held.changed();
        }
        match next {
            Next::Publish(_) => self.publish(id),
            Next::Ready | Next::Wait(_) if self.set_aside(id, None, now) => {}
            Next::Ready => self.ready_again(id, policy),
            Next::Wait(at_least) => self.actions.push(Action::Wait {
                call: id,
                what: WaitReason::LookUp,
                tries,
                at_least,
            }),
            Next::Settle => self.settle_until(id, now, now),
        }
    }
}
