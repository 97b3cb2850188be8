//! Beginnings are noted: under `park` and `verify` a request leaves only once the next owner would know of it.
//!
//! Calls wait for a commit, and one commit takes many of them. While it is in flight others are sent that
//! were begun ahead, and those that it notes are sent during the next one: so as many are begun ahead as places
//! come free in the time of two commits, and no more, because each one that is begun and not sent when this
//! process is killed is parked, or looked up, for nothing.

use std::time::Instant;

use crate::delivery::call::CallState;
use crate::delivery::machine::Delivery;
use crate::delivery::partition::{Phase, owned_in};

impl<P> Delivery<P> {
    /// How many calls may have their beginning noted now.
    pub(super) fn may_begin(&self, now: Instant) -> usize {
        if self.awaiting_intent.is_empty() {
            return 0;
        }
        let free = (self.pace.calls_in_flight_max()).saturating_sub(self.requests.count());
        let ahead = (self.freed_by_commit * 2).min(self.limits.intents_ahead_max);
        let may = (free + ahead).min(self.pace.room_ahead(now));
        let may = may.saturating_sub(self.ready.len() + self.beginning.len());
        may.min(self.awaiting_intent.len())
    }

    /// A commit is about to be made: it takes as many beginnings as there may be.
    pub(super) fn begin_ready(&mut self, now: Instant) {
        let mut beginning = std::mem::take(&mut self.beginning);
        // Those that a commit did not note are noted by this one, if they are still ours.
        beginning.retain(|id| {
            let call = owned_in(&mut self.held, *id).and_then(|held| held.call(id.offset));
            call.is_some_and(|call| call.state == CallState::RecordingIntent)
        });
        self.beginning = beginning;
        for _ in 0..self.may_begin(now) {
            let Some(id) = self.awaiting_intent.pop_front() else {
                return;
            };
            let Some(held) = owned_in(&mut self.held, id).filter(|held| held.phase == Phase::Active) else {
                continue;
            };
            if held
                .call(id.offset)
                .is_none_or(|call| call.state != CallState::Ready)
            {
                continue;
            }
            // An earlier assignment may have asked already.
            if self.resume(id, now) {
                continue;
            }
            let Some(held) = owned_in(&mut self.held, id) else {
                continue;
            };
            if let Some(call) = held.call(id.offset) {
                call.enter(CallState::RecordingIntent, now);
            }
            held.changed();
            self.beginning.push(id);
        }
    }

    /// The commit with the beginnings was acknowledged: the next owner would know.
    pub(super) fn begun(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.beginning) {
            if let Some(call) = owned_in(&mut self.held, id).and_then(|held| held.call(id.offset))
                && call.state == CallState::RecordingIntent
            {
                call.enter(CallState::IntentCommitted, now);
                self.ready.push_back(id);
            }
        }
        if self.pace.is_open() {
            self.take_back_begun(now);
        }
    }
}
