//! Write-ahead: under `park` and `verify` a request is sent only once its intent is committed, so that the
//! next owner knows of it.

use std::time::Instant;

use super::Delivery;
use crate::delivery::call::CallState;
use crate::delivery::schedule::Slots;

impl<P> Delivery<P> {
    /// Number of calls whose intent may be recorded now.
    fn intent_room(&self, now: Instant) -> usize {
        let awaiting = self.queues.awaiting_intent();
        // The usual case under `retry`; it is asked on each event, so it comes first.
        if awaiting == 0 {
            return 0;
        }
        let room = self.intents.room(Slots {
            free: self.flow.limit().saturating_sub(self.requests.in_flight()),
            ahead_max: self.limits.intents_ahead_max,
            flow: self.flow.room_ahead(now),
            ready: self.queues.ready().len(),
        });
        room.min(awaiting)
    }

    /// Returns `true` if a commit would record an intent that a call waits for.
    pub(super) fn has_intents(&self, now: Instant) -> bool {
        self.intents.is_recording() || self.intent_room(now) > 0
    }

    /// Adds intents to the commit that is about to be sent.
    pub(super) fn record_intents(&mut self, now: Instant) {
        // A commit that was rejected recorded nothing: its intents go with this one, if the calls are still
        // ours.
        for id in self.intents.take() {
            let call = self.partitions.call(id);
            if call.is_some_and(|call| call.is(&CallState::RecordingIntent)) {
                self.intents.push(id);
            }
        }
        for _ in 0..self.intent_room(now) {
            let Some(id) = self.queues.pop_awaiting_intent() else {
                return;
            };
            let call = self.partitions.active(id).and_then(|owned| owned.call(id.offset));
            if call.is_none_or(|call| !call.is(&CallState::Ready)) {
                continue;
            }
            // An earlier assignment may have sent it already.
            if self.resume(id, now) {
                continue;
            }
            let Some(owned) = self.partitions.of(id) else {
                continue;
            };
            if let Some(call) = owned.call(id.offset) {
                call.enter(CallState::RecordingIntent, now);
            }
            owned.note_changed();
            self.intents.push(id);
        }
    }

    /// Releases the calls whose intents were in a commit that is acknowledged.
    pub(super) fn intents_committed(&mut self, now: Instant) {
        for id in self.intents.take() {
            if let Some(call) = self.partitions.call(id)
                && call.is(&CallState::RecordingIntent)
            {
                call.enter(CallState::IntentCommitted, now);
                self.queues.push_ready(id);
            }
        }
        if self.flow.is_breaker_open() || self.flow.is_paused() {
            // The breaker opened, or the calls were paused, while the commit was in flight.
            self.take_back_intents(now);
        }
    }
}
