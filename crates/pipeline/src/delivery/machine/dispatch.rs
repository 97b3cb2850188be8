//! Dispatch: sends the requests of calls.

use std::time::{Duration, Instant};

use super::Delivery;
use crate::delivery::call::{CallState, Policy};
use crate::delivery::event::{Action, CallId};
use crate::delivery::schedule::{End, KnownResult};

/// Minimum of the limit on final calls without an acknowledged commit, which is the limit on calls in flight: when the
/// broker dies that coordinates the group, the commits of as many are lost at most, and under `retry` they are made again.
/// Without it, as many as are made within the ownership lease. Commits follow each other within some 20 ms, so that a few
/// calls in flight to a fast API need not wait for them.
const FINALS_UNCOMMITTED_MIN: usize = 32;

impl<P> Delivery<P> {
    /// Queues a call that is the first of its key, by its policy and by what is known of it.
    pub(super) fn first_of_key(&mut self, id: CallId, now: Instant) {
        if self.follow_deferred(id, now) {
            return;
        }
        let Some(owned) = self.partitions.of(id) else {
            return;
        };
        let of_partition = owned.inherited_until().unwrap_or(now);
        let Some(call) = owned.call(id.offset) else {
            return;
        };
        // Requests of the last owner, and of an owner before the deferral: the later one counts.
        let inherited_until = call
            .inherited_until()
            .map_or(of_partition, |at| at.max(of_partition));
        match (call.policy(), call.ambiguity()) {
            (policy @ Policy::Retry, _) | (policy @ (Policy::Park | Policy::Verify), None) => {
                self.queues.push(id, policy, End::Back);
            }
            (policy @ (Policy::Park | Policy::Verify), Some(_)) => {
                if self.resume(id, now) {
                    return;
                }
                // Parking needs that no request can be sent any more; a look-up also that none is still on its
                // way or processed, or it could miss the order.
                let quiescence = match policy {
                    Policy::Verify => self.verify.quiescence(),
                    Policy::Retry | Policy::Park => Duration::ZERO,
                };
                self.await_quiescence(id, inherited_until + quiescence, now);
            }
        }
    }

    /// Continues a call that an earlier assignment has sent. Returns `false` if none has.
    pub(super) fn resume(&mut self, id: CallId, now: Instant) -> bool {
        let Some(call) = self.partitions.call(id) else {
            return true;
        };
        // This process may have sent it before the partition was lost and came back.
        let known = match self.requests.is_in_flight(id) {
            // The response to that request is the call's, so it is not sent again.
            true => None,
            false => match self.requests.take_known(id, call.key()) {
                Some(known) => Some(known),
                None => return false,
            },
        };
        call.enter(CallState::Ready, now);
        call.start_attempt(now);
        match known {
            None => {}
            Some(KnownResult::Response(response, before)) => {
                call.resume(before);
                self.take_response(id, response, now);
            }
            Some(KnownResult::Final) => self.finish(id, now),
        }
        true
    }

    /// Sends calls while there are slots, the lease lasts, commits follow, and flow control allows it.
    pub(super) fn send_ready(&mut self, now: Instant) {
        while self.has_free_slot() && self.commits_allow(now) && self.flow.has_room(now) {
            let Some(id) = self.queues.pop_ready() else {
                return;
            };
            let Some(call) = self.partitions.active(id).and_then(|owned| owned.call(id.offset)) else {
                continue;
            };
            match (call.state().0, call.policy()) {
                (CallState::IntentCommitted, _) => {}
                (CallState::Ready, Policy::Retry) => {
                    if self.resume(id, now) {
                        continue;
                    }
                }
                // A stale entry: the call has moved on.
                _ => continue,
            }
            self.send(id, now);
        }
    }

    /// Returns `true` if a request may be sent now as far as commits are concerned: the lease lasts, and few enough final
    /// calls await theirs. Only an acknowledged commit ends such a wait, not time.
    pub(super) fn commits_allow(&self, now: Instant) -> bool {
        let finals_max = self.limits.calls_in_flight_max.max(FINALS_UNCOMMITTED_MIN);
        self.lease.may_send(now) && self.finals_uncommitted() < finals_max
    }

    /// Number of final calls that another owner would make again, if the group lost its coordinator now. Partitions that
    /// commit nothing do not count.
    fn finals_uncommitted(&self) -> usize {
        let active = self.partitions.iter().filter(|(_, owned)| owned.is_active());
        active.map(|(_, owned)| owned.finals_uncommitted()).sum()
    }

    pub(super) fn has_free_slot(&self) -> bool {
        self.requests.in_flight() < self.flow.limit()
    }

    fn send(&mut self, id: CallId, now: Instant) {
        let Some(owned) = self.partitions.of(id) else {
            return;
        };
        let Some(call) = owned.call(id.offset) else {
            return;
        };
        call.start_attempt(now);
        let action = Action::Send {
            call: id,
            attempt: call.history().attempts,
            repeats: call.ambiguity(),
            payload: call.payload(),
        };
        let key = call.key().cloned();
        // Under `retry` no intent precedes the request. The next commit names it all the same, so that the
        // next owner can say which calls it repeats.
        owned.note_changed();
        self.requests.sent(id, key, now);
        self.flow.request_sent(now);
        if !self.has_free_slot() {
            self.flow.at_limit();
        }
        self.actions.push(action);
    }

    /// Returns `true` if a call may be sent as soon as there is a slot.
    pub(super) fn has_ready(&self) -> bool {
        // Stale entries are skipped here too: they stay in the queue until they are next in line.
        self.queues.ready().any(|id| self.partitions.is_active(id))
    }

    /// Returns `true` if a call is ours and waits for the response to its request.
    #[must_use]
    pub fn awaits(&self, id: CallId) -> bool {
        let owned = self.partitions.get(id.partition);
        owned.is_some_and(|owned| owned.is_in_flight(id.offset))
    }
}
