//! How fast the API is called: not at all while it is ill, no faster than it is to be, no more at once than it bears.
//!
//! `breaker.rs`, `rate.rs` and `adaptive.rs` each know one of these, and `sign.rs` what a report says of the API. Here
//! they are asked together, and what follows for calls: while the breaker is open nothing leaves but its probes, calls
//! whose beginning is noted are taken back, and a call that fails waits for the breaker and not for its own backoff.

use std::time::{Duration, Instant};

use super::adaptive::Adaptive;
use super::answer::Report;
use super::breaker::{Breaker, BreakerSettings, BreakerState, Turn};
use super::call::Stage;
use super::event::Action;
use super::held::held_as;
use super::machine::Delivery;
use super::rate::{Rate, RateSettings};
use super::sign::Sign;

/// How fast the API may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaceSettings {
    /// What is done while the API is ill.
    pub breaker: BreakerSettings,
    /// How many requests may begin in what time; `None`: as many as there are.
    pub rate: Option<RateSettings>,
    /// The least calls in flight if their limit is found out by trying; `None`: the limit is fixed.
    pub calls_in_flight_min: Option<usize>,
}

/// Beginnings are noted for requests that may leave within this time: more would be in doubt for nothing if the
/// process were killed, and fewer would hold up the rate while a commit is under way.
const BEGIN_AHEAD: Duration = Duration::from_millis(100);

/// How fast the API is called.
#[derive(Debug)]
pub(super) struct Pace {
    calls_in_flight_max: usize,
    breaker: Breaker,
    rate: Option<Rate>,
    adaptive: Option<Adaptive>,
}

impl Pace {
    /// As fast as the API answers, with this many calls in flight.
    pub(super) fn unlimited(calls_in_flight_max: usize) -> Self {
        let breaker = BreakerSettings {
            failures_max: 0,
            probe_interval: Duration::ZERO,
        };
        Self {
            calls_in_flight_max,
            breaker: Breaker::new(breaker),
            rate: None,
            adaptive: None,
        }
    }

    fn new(settings: PaceSettings, calls_in_flight_max: usize) -> Self {
        let adaptive = |min: usize| Adaptive::new(min.clamp(1, calls_in_flight_max), calls_in_flight_max);
        Self {
            calls_in_flight_max,
            breaker: Breaker::new(settings.breaker),
            rate: settings.rate.map(Rate::new),
            adaptive: settings.calls_in_flight_min.map(adaptive),
        }
    }

    /// How many requests may be under way.
    pub(super) fn calls_in_flight_max(&self) -> usize {
        self.adaptive
            .as_ref()
            .map_or(self.calls_in_flight_max, Adaptive::limit)
    }

    pub(super) fn breaker_state(&self) -> BreakerState {
        self.breaker.state()
    }

    /// Whether the API is taken to be ill, and calls wait.
    pub(super) fn is_open(&self) -> bool {
        self.breaker.is_open()
    }

    /// Whether one more request may begin.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        self.breaker.room(now) > 0 && self.rate.as_ref().is_none_or(|rate| rate.room(now) > 0)
    }

    /// For how many requests beginnings may be noted.
    pub(super) fn room_ahead(&self, now: Instant) -> usize {
        let rate = self.rate.as_ref().map(|rate| rate.room(now + BEGIN_AHEAD));
        self.breaker.room(now).min(rate.unwrap_or(usize::MAX))
    }

    /// When time alone brings room; `None` if that is not what is waited for.
    fn room_at(&self) -> Option<Instant> {
        let rate = self.rate.as_ref().and_then(Rate::room_at);
        self.breaker.room_at().max(rate)
    }

    /// A call's request begins.
    pub(super) fn begun(&mut self, now: Instant) {
        self.breaker.begun(now);
        if let Some(rate) = &mut self.rate {
            rate.begun(now);
        }
    }

    /// A look-up begins: a request like others, and perhaps the probe.
    pub(super) fn look_up_begun(&mut self, now: Instant) {
        if self.breaker.is_open() {
            self.breaker.begun(now);
        }
        if let Some(rate) = &mut self.rate {
            rate.begun(now);
        }
    }

    /// All places are taken.
    pub(super) fn full(&mut self) {
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.full();
        }
    }

    fn reported(&mut self, began: Instant, report: &Report, sign: Sign, now: Instant) -> Turn {
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.reported(began, sign, now);
        }
        self.breaker.reported(began, report, sign, now)
    }
}

impl<P> Delivery<P> {
    /// The same delivery, which calls the API at this pace.
    #[must_use]
    pub fn paced(mut self, settings: PaceSettings) -> Self {
        self.pace = Pace::new(settings, self.limits.calls_in_flight_max);
        self
    }

    /// The request of a call has come to something: what that says of the API.
    pub(super) fn hear_of_api(&mut self, began: Instant, report: &Report, now: Instant) {
        let sign = Sign::of(report, self.classes.answer(report));
        let turn = self.pace.reported(began, report, sign, now);
        self.turned(turn, now);
    }

    /// A look-up has come to something. Returns whether it failed while the API was taken to be ill anyway.
    pub(super) fn hear_of_look_up(&mut self, began: Instant, report: &Report, now: Instant) -> bool {
        let sign = Sign::of(report, self.verify.answers.answer(report));
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
        let has_calls = || self.has_ready() || !self.unbegun.is_empty() || !self.beginning.is_empty();
        let is_free = !self.pace.is_open() || !has_calls();
        is_free && self.pace.has_room(now)
    }

    /// Calls whose beginning is noted, and that are not to be sent while the API is ill: it is noted that they did not
    /// begin. Otherwise they would be in doubt for nothing if this process were killed during the outage.
    pub(super) fn take_back_begun(&mut self, now: Instant) {
        let mut keep = usize::from(self.pace.has_room(now));
        let mut ready = std::mem::take(&mut self.ready);
        let mut taken_back = Vec::new();
        ready.retain(|id| {
            let Some(held) = held_as(&mut self.held, *id) else {
                return false;
            };
            let Some(call) = held.call(id.offset).filter(|call| call.stage == Stage::Begun) else {
                return true;
            };
            if keep > 0 {
                keep -= 1;
                return true;
            }
            call.enter(Stage::Ready, now);
            held.changed();
            taken_back.push(*id);
            false
        });
        self.ready = ready;
        taken_back
            .into_iter()
            .rev()
            .for_each(|id| self.unbegun.push_front(id));
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
        let may_begin = at > now && !self.unbegun.is_empty();
        (may_send || may_look_up || may_begin).then_some(at)
    }
}
