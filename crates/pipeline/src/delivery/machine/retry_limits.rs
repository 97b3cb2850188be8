//! A deferral call, which fails while others succeed, does not hold up its partition.
//!
//! It keeps the watermark where it is, and with it the window of offsets that the partition may be ahead; a
//! few hundred of them take all the places. So it is deferred: its copy goes to the outbox's tail, and the
//! call is final at its old place (`deferring.rs`). Two things tell that it is time, each
//! looked at when an attempt, or a look-up, has failed:
//!
//! * Its partition is full, and the API has clearly answered another call since this one failed last.
//! * It has been tried for as long as the settings say, and one of these two holds.
//!
//! So an outage alone, in which all calls fail, moves none as long as there is room; and where a partition is
//! full of deferral calls, they make room one after the other.
//!
//! What may have been processed stays so: under `park` such a call is never deferred but parked, and under
//! `verify` and `retry` the copy says it.

use std::time::{Duration, Instant};

use crate::delivery::call::Policy;
use crate::delivery::call::{Call, CallState, FinalState};
use crate::delivery::event::CallId;
use crate::delivery::limits::DeferralLimits;
use crate::delivery::machine::Delivery;
use crate::delivery::partition::{Phase, owned_in};
use crate::delivery::response::Response;

/// So many copies of a partition may lie between the consumer and the outbox's tail. Beyond this, which takes
/// as many deferral calls at once, no more are deferred until some have arrived.
const AWAY_MAX: usize = 10_000;

impl<P> Delivery<P> {
    /// An attempt or a look-up has failed, and another one would follow. Returns whether it does not follow
    /// here, because the call is deferred or given up.
    pub(super) fn set_aside(&mut self, id: CallId, last: Option<Response>, now: Instant) -> bool {
        let Some(held) = owned_in(&mut self.held, id) else {
            return false;
        };
        let is_full = held.is_full;
        let Some(call) = held.call(id.offset) else {
            return false;
        };
        let failed_before = call.failed_at.replace(now);
        let others_succeed = failed_before.is_some_and(|at| self.others_succeeded_at > Some(at));
        let DeferralLimits {
            defer_after,
            abandon_after,
            ..
        } = self.limits.deferral;
        // What is being looked up has limits of its own.
        let is_looked_up = call.policy == Policy::Verify && call.ambiguity.is_some();
        if abandon_after.is_some_and(|max| call.seen_for(now) >= max) && !is_looked_up {
            let ending = call.given_up(last);
            call.enter(CallState::Publishing(ending), now);
            held.changed();
            self.publish(id);
            return true;
        }
        let has_tried = defer_after.is_some_and(|after| call.tried_for(now) >= after);
        let is_due = match (is_full, others_succeed) {
            (true, true) => true,
            (true, false) | (false, true) => has_tried,
            (false, false) => false,
        };
        // While the API is ill no call is worse than another.
        is_due && !self.pace.is_open() && self.defer(id, now)
    }

    /// A call, the first of its key here, goes behind an earlier one that was deferred. Returns whether it
    /// does.
    pub(super) fn follow_deferred(&mut self, id: CallId, now: Instant) -> bool {
        let must = owned_in(&mut self.held, id).is_some_and(|held| held.must_follow(id.offset));
        must && self.defer(id, now)
    }

    /// Has a call deferred with the next transaction, if it may be. Returns whether it may.
    fn defer(&mut self, id: CallId, now: Instant) -> bool {
        if !self.may_defer(id) {
            return false;
        }
        let Some(call) = owned_in(&mut self.held, id).and_then(|held| held.call(id.offset)) else {
            return false;
        };
        call.enter(CallState::AwaitingDeferral, now);
        self.deferral.push_back(id);
        true
    }

    /// Whether a call may be deferred with all that is known of it.
    pub(super) fn may_defer(&mut self, id: CallId) -> bool {
        if self.limits.deferral.defer_after.is_none() || self.requests.knows(id) {
            // A request of an earlier assignment is under way, or has come to something.
            return false;
        }
        let Some(held) = owned_in(&mut self.held, id).filter(|held| held.phase == Phase::Active) else {
            return false;
        };
        if held.away.len() >= AWAY_MAX {
            return false;
        }
        held.call(id.offset).is_some_and(|call| {
            call.key.is_some() && (call.ambiguity.is_none() || call.policy != Policy::Park)
        })
    }

    /// An ending says that the API answers.
    pub(super) fn note_success(&mut self, ending: &FinalState, now: Instant) {
        if matches!(ending, FinalState::Accepted(_) | FinalState::Rejected(_)) {
            self.others_succeeded_at = Some(now);
        }
    }
}

impl<P> Call<P> {
    /// How long it has been tried, in this place.
    fn tried_for(&self, now: Instant) -> Duration {
        let since = self.history.first_attempt_at.or(self.looked_up_first_at);
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// How long ago it was first seen, in any place.
    pub(super) fn seen_for(&self, now: Instant) -> Duration {
        self.seen_before + now.saturating_duration_since(self.taken_at)
    }
}
