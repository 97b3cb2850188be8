//! What follows for calls from how the API is, and how fast it may be called: while the breaker is open nothing leaves
//! but its probes, calls whose beginning is noted are taken back, and a call that fails waits for the breaker and not
//! for its own backoff.

use std::time::Instant;

use crate::delivery::call::CallState;
use crate::delivery::event::Action;
use crate::delivery::flow::ApiHealth;
use crate::delivery::flow::Turn;
use crate::delivery::flow::{FlowControl, FlowControlSettings};
use crate::delivery::machine::Delivery;
use crate::delivery::partition::owned_in;
use crate::delivery::response::Response;

impl<P> Delivery<P> {
    /// The same delivery, which calls the API at this pace.
    #[must_use]
    pub fn with_flow_control(mut self, settings: FlowControlSettings) -> Self {
        self.pace = FlowControl::new(settings, self.limits.calls_in_flight_max);
        self
    }

    /// The request of a call has come to something: what that says of the API.
    pub(super) fn hear_of_api(&mut self, began: Instant, report: &Response, now: Instant) {
        let sign = ApiHealth::of(report, self.classes.answer(report));
        let turn = self.pace.reported(began, report, sign, now);
        self.turned(turn, now);
    }

    /// A look-up has come to something. Returns whether it failed while the API was taken to be ill anyway.
    pub(super) fn hear_of_look_up(&mut self, began: Instant, report: &Response, now: Instant) -> bool {
        let sign = ApiHealth::of(report, self.verify.answers.answer(report));
        let turn = self.pace.breaker.look_up_reported(began, report, sign, now);
        self.turned(turn, now);
        self.pace.is_open() && sign.is_ill()
    }

    fn turned(&mut self, turn: Turn, now: Instant) {
        match turn {
            Turn::None => {}
            Turn::Ill(outage) => {
                self.actions.push(Action::Outage(outage));
                self.take_back_begun(now);
            }
            Turn::Well => self.actions.push(Action::OutageOver),
        }
    }

    /// Whether a look-up may begin. While the breaker is open a look-up is a probe only if there is no call for it.
    pub(super) fn may_look_up(&self, now: Instant) -> bool {
        let has_calls = || self.has_ready() || !self.awaiting_intent.is_empty() || !self.beginning.is_empty();
        let is_free = !self.pace.is_open() || !has_calls();
        is_free && self.pace.has_room(now)
    }

    /// Calls whose beginning is noted, and that are not to be sent while the API is ill: it is noted that they did not
    /// begin. Otherwise they would be in ambiguity for nothing if this process were killed during the outage.
    pub(super) fn take_back_begun(&mut self, now: Instant) {
        let mut keep = usize::from(self.pace.has_room(now));
        let mut ready = std::mem::take(&mut self.ready);
        let mut taken_back = Vec::new();
        ready.retain(|id| {
            let Some(held) = owned_in(&mut self.held, *id) else {
                return false;
            };
            let Some(call) = held
                .call(id.offset)
                .filter(|call| call.state == CallState::IntentCommitted)
            else {
                return true;
            };
            if keep > 0 {
                keep -= 1;
                return true;
            }
            call.enter(CallState::Ready, now);
            held.changed();
            taken_back.push(*id);
            false
        });
        self.ready = ready;
        taken_back
            .into_iter()
            .rev()
            .for_each(|id| self.awaiting_intent.push_front(id));
    }

    /// When the pace lets something go on that waits for it.
    pub(super) fn pace_at(&self, now: Instant) -> Option<Instant> {
        let at = self.pace.room_at()?;
        let may_send = self.requests.count() < self.pace.calls_in_flight_max()
            && self.ownership.may_send(now)
            && self.has_ready();
        let may_look_up = !self.lookups.is_empty()
            && self.lookups_under_way.len() < self.limits.calls_in_flight_max
            && self.may_look_up(now.max(at));
        // Once the time has come, it is the commit that they wait for.
        let may_begin = at > now && !self.awaiting_intent.is_empty();
        (may_send || may_look_up || may_begin).then_some(at)
    }
}
