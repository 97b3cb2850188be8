//! Retry limits: a call that keeps failing while others succeed is deferred, or abandoned.
//!
//! Such a call keeps the commit position where it is, and with it the window of offsets that the partition
//! may be read ahead; a few hundred of them fill the partition. So it is deferred: its copy goes to the
//! outbox's tail, and the call is final at its old offset (`defer.rs`). After each failed attempt or look-up,
//! two conditions make it due:
//!
//! * Its partition is full, and the API gave another call a definite response since this one failed last.
//! * It was tried for as long as the setting says, and one of these two holds.
//!
//! So an outage, in which all calls fail, defers none as long as there is room. Where a partition is full of
//! failing calls, they make room one after the other.
//!
//! Ambiguity is never lost: under `park` an ambiguous call is parked and not deferred, and under `verify` and
//! `retry` the copy carries it.

use std::time::Instant;

use super::Delivery;
use crate::delivery::call::{CallState, Policy};
use crate::delivery::event::CallId;
use crate::delivery::limits::DeferralLimits;
use crate::delivery::response::ClassifiedResponse;

impl<P> Delivery<P> {
    /// Applies the limits to a call whose attempt or look-up has failed. Returns `true` if it is not retried
    /// here, because it is deferred or abandoned.
    pub(super) fn apply_retry_limits(
        &mut self,
        id: CallId,
        last: Option<ClassifiedResponse>,
        now: Instant,
    ) -> bool {
        let Some(owned) = self.partitions.of(id) else {
            return false;
        };
        let is_full = owned.is_full();
        let Some(call) = owned.call(id.offset) else {
            return false;
        };
        let failed_before = call.record_failure(now);
        let others_succeed = failed_before.is_some_and(|at| self.deferrals.has_success_since(at));
        let DeferralLimits {
            defer_after,
            abandon_after,
            ..
        } = self.limits.deferral;
        // Look-ups have limits of their own.
        let is_looked_up = call.policy() == Policy::Verify && call.ambiguity().is_some();
        if abandon_after.is_some_and(|max| call.age(now) >= max) && !is_looked_up {
            let final_state = call.abandoned(last);
            call.enter(CallState::Publishing(final_state), now);
            owned.note_changed();
            self.publish(id);
            return true;
        }
        let has_tried = defer_after.is_some_and(|after| call.tried_for(now) >= after);
        let is_due = match (is_full, others_succeed) {
            (true, true) => true,
            (true, false) | (false, true) => has_tried,
            (false, false) => false,
        };
        // While the breaker is open no call is worse than another, and while the calls are paused none is tried.
        is_due && !self.flow.is_breaker_open() && !self.flow.is_paused() && self.queue_deferral(id, now)
    }

    /// Defers a call whose key has an earlier call that was deferred, to keep their order. Returns `true` if
    /// it is.
    pub(super) fn follow_deferred(&mut self, id: CallId, now: Instant) -> bool {
        let owned = self.partitions.of(id);
        let must_follow = owned.is_some_and(|owned| owned.must_follow_deferred(id.offset));
        must_follow && self.queue_deferral(id, now)
    }

    /// Has a call deferred with the next transaction. Returns `false` if it may not be.
    fn queue_deferral(&mut self, id: CallId, now: Instant) -> bool {
        if !self.may_defer(id) {
            return false;
        }
        let Some(call) = self.partitions.call(id) else {
            return false;
        };
        call.enter(CallState::AwaitingDeferral, now);
        self.deferrals.push(id);
        true
    }

    /// Returns `true` if a call may be deferred with all that is known of it.
    pub(super) fn may_defer(&mut self, id: CallId) -> bool {
        // With a request of an earlier assignment in flight, or its response remembered here, a copy would be
        // sent beside it.
        if self.limits.deferral.defer_after.is_none() || self.requests.knows(id) {
            return false;
        }
        let Some(owned) = self.partitions.active(id).filter(|owned| owned.has_copy_room()) else {
            return false;
        };
        owned.call(id.offset).is_some_and(|call| {
            call.key().is_some() && (call.ambiguity().is_none() || call.policy() != Policy::Park)
        })
    }
}
