//! Ambiguous calls under `park` and `verify`: once no earlier request can be sent or processed, the call is
//! parked, or looked up.
//!
//! An earlier owner may send requests until the lease ends that its last commit gave it. Our own requests
//! have left when their response is here. From then on the API may process them for its longest processing
//! time. A look-up before that could miss the order, and the call would be made twice.

use std::time::Instant;

use super::Delivery;
use crate::delivery::call::{CallState, LookupResponse, Next, Policy};
use crate::delivery::event::{Action, CallId, WaitReason};
use crate::delivery::schedule::End;

impl<P> Delivery<P> {
    /// Has a call wait until no earlier request of it can be sent or processed.
    pub(super) fn await_quiescence(&mut self, id: CallId, until: Instant, now: Instant) {
        let Some(call) = self.partitions.call(id) else {
            return;
        };
        call.enter(CallState::AwaitingQuiescence(until), now);
        let tries = call.lookups();
        self.wait(
            id,
            WaitReason::Quiescence,
            tries,
            until.saturating_duration_since(now),
        );
    }

    /// Decides on a call of which no earlier request can be sent or processed.
    pub(super) fn quiescent(&mut self, id: CallId, now: Instant) {
        let Some(call) = self.partitions.call(id) else {
            return;
        };
        match call.policy() {
            Policy::Verify => {
                call.enter(CallState::LookingUp, now);
                self.look_ups.push(id);
            }
            Policy::Park => {
                let final_state = call.parked();
                call.enter(CallState::Publishing(final_state), now);
                self.publish(id);
            }
            // No call waits for quiescence under `retry`. Should one, it is simply sent.
            policy @ Policy::Retry => {
                call.enter(CallState::Ready, now);
                self.queues.push(id, policy, End::Back);
            }
        }
    }

    /// Sends look-ups while there are slots and flow control allows it.
    pub(super) fn look_up_ready(&mut self, now: Instant) {
        // They need no lease: a look-up changes nothing, whoever owns the partition by now.
        while self.look_ups.has_free_slot(self.limits.calls_in_flight_max) && self.may_look_up(now) {
            let Some(id) = self.look_ups.pop() else {
                return;
            };
            let owned = self.partitions.active(id);
            let Some(call) = owned.and_then(|owned| owned.call(id.offset)) else {
                continue;
            };
            // A stale entry otherwise: the call has moved on.
            if call.is(&CallState::LookingUp) {
                let payload = call.payload();
                self.look_ups.sent(id, now);
                self.flow.look_up_sent(now);
                self.actions.push(Action::LookUp { call: id, payload });
            }
        }
    }

    pub(super) fn looked_up(&mut self, id: CallId, response: LookupResponse, now: Instant) {
        let Some(sent_at) = self.look_ups.end(id) else {
            return;
        };
        let is_outage = self.observe_look_up(sent_at, &response, now);
        let Some(owned) = self.partitions.of(id) else {
            return;
        };
        let call = owned.call(id.offset);
        let Some(call) = call.filter(|call| call.is(&CallState::LookingUp)) else {
            return;
        };
        let next = call.looked_up(response, &self.verify, is_outage, now);
        let (tries, policy) = (call.lookups(), call.policy());
        // The API never saw the order, so the note need not name the call any more.
        if !call.is_ambiguous() {
            owned.note_changed();
        }
        match next {
            Next::Publish(_) => self.publish(id),
            Next::Ready | Next::Wait(_) if self.apply_retry_limits(id, None, now) => {}
            // As after a backoff: its deferral behind an earlier call of its key may have been aborted.
            Next::Ready if self.follow_deferred(id, now) => {}
            Next::Ready => self.retry(id, policy),
            Next::Wait(at_least) => self.wait(id, WaitReason::LookUp, tries, at_least),
            Next::AwaitQuiescence => self.await_quiescence(id, now, now),
        }
    }
}
