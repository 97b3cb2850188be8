//! Flow control applied to calls: while the circuit breaker is open only its probes are sent, and nothing while
//! an operator has the calls paused; recorded intents are taken back, and calls wait for the breaker instead of
//! their own backoff.

use std::time::Instant;

use super::Delivery;
use crate::delivery::call::{CallState, LookupResponse};
use crate::delivery::event::Action;
use crate::delivery::flow::{ApiHealth, BreakerChange, FlowControl, FlowControlSettings};
use crate::delivery::response::ClassifiedResponse;
use crate::delivery::schedule::Recall;

impl<P> Delivery<P> {
    /// The same delivery, with this flow control.
    #[must_use]
    pub fn with_flow_control(mut self, settings: FlowControlSettings) -> Self {
        self.flow = FlowControl::new(settings, self.limits.calls_in_flight_max);
        self
    }

    /// Pauses the calls, or resumes them. Requests in flight end as usual.
    pub(super) fn set_paused(&mut self, is_paused: bool, now: Instant) {
        self.flow.set_paused(is_paused);
        if is_paused {
            self.take_back_intents(now);
        }
    }

    /// Takes in what the response to a call says of the API's health.
    pub(super) fn observe_response(&mut self, sent_at: Instant, response: &ClassifiedResponse, now: Instant) {
        let health = ApiHealth::of(response.response(), response.class().is_definite());
        let change = self.flow.responded(sent_at, response, health, now);
        self.breaker_changed(change, now);
    }

    /// Takes in what the response to a look-up says of the API's health. Returns `true` if it failed in an
    /// outage.
    pub(super) fn observe_look_up(
        &mut self,
        sent_at: Instant,
        response: &LookupResponse,
        now: Instant,
    ) -> bool {
        let health = ApiHealth::of(response.response(), response.result().is_definite());
        let change = self
            .flow
            .look_up_responded(sent_at, response.response(), health, now);
        self.breaker_changed(change, now);
        self.flow.is_breaker_open() && health.is_unhealthy()
    }

    fn breaker_changed(&mut self, change: BreakerChange, now: Instant) {
        match change {
            BreakerChange::None => {}
            BreakerChange::Failed(outage) => {
                self.actions.push(Action::Outage(outage));
                self.take_back_intents(now);
            }
            BreakerChange::Closed => self.actions.push(Action::OutageOver),
        }
    }

    /// Returns `true` if a look-up may be sent.
    pub(super) fn may_look_up(&self, now: Instant) -> bool {
        let has_calls =
            || self.has_ready() || self.queues.awaiting_intent() > 0 || self.intents.is_recording();
        // A call is the better probe: look-ups may be served while payments are not.
        let is_free = !self.flow.is_breaker_open() || !has_calls();
        is_free && self.flow.has_room(now)
    }

    /// Takes back recorded intents of calls that are not sent while the breaker is open or the calls are paused.
    pub(super) fn take_back_intents(&mut self, now: Instant) {
        // They would be ambiguous for nothing if this process were killed during the outage. One stays if a
        // probe may be sent now.
        let mut keep = usize::from(self.flow.has_room(now));
        let partitions = &mut self.partitions;
        self.queues.take_back(|id| {
            let Some(owned) = partitions.of(id) else {
                return Recall::Forget;
            };
            let call = owned.call(id.offset);
            let Some(call) = call.filter(|call| call.is(&CallState::IntentCommitted)) else {
                return Recall::Keep;
            };
            if keep > 0 {
                keep -= 1;
                return Recall::Keep;
            }
            call.enter(CallState::Ready, now);
            owned.note_changed();
            Recall::TakeBack
        });
    }

    /// Time at which flow control has room for a call or a look-up that waits for nothing else.
    pub(super) fn flow_wake_at(&self, now: Instant) -> Option<Instant> {
        let at = self.flow.room_at()?;
        let may_send = self.has_free_slot() && self.commits_allow(now) && self.has_ready();
        let may_look_up = self.look_ups.has_waiting()
            && self.look_ups.has_free_slot(self.limits.calls_in_flight_max)
            && self.may_look_up(now.max(at));
        // Once the time has come, intents wait for the commit and not for flow control.
        let may_record = at > now && self.queues.awaiting_intent() > 0;
        (may_send || may_look_up || may_record).then_some(at)
    }
}
