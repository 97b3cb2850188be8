//! How fast the API is called: not at all while it is ill, no faster than it is to be, no more at once than it bears.
//!
//! `breaker.rs`, `rate.rs` and `adaptive.rs` each know one of these, and `sign.rs` what a report says of the API. Here
//! they are asked together; `pacing.rs` has what follows for calls.

mod adaptive_concurrency;
mod api_health;
mod circuit_breaker;
mod rate_limit;

use std::time::{Duration, Instant};

use crate::delivery::response::Response;

pub use circuit_breaker::{BreakerSettings, BreakerState, Outage};
pub use rate_limit::RateSettings;

pub(super) use api_health::ApiHealth;
pub(super) use circuit_breaker::Turn;

use adaptive_concurrency::Adaptive;
use circuit_breaker::Breaker;
use rate_limit::Rate;

/// How fast the API may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowControlSettings {
    /// What is done while the API is ill.
    pub breaker: BreakerSettings,
    /// How many requests may begin in what time; `None`: as many as there are.
    pub rate: Option<RateSettings>,
    /// The least calls in flight if their limit is found out by trying; `None`: the limit is fixed.
    pub calls_in_flight_min: Option<usize>,
}

/// Beginnings are noted for requests that may leave within this time: more would be in ambiguity for nothing if the
/// process were killed, and fewer would hold up the rate while a commit is under way.
const BEGIN_AHEAD: Duration = Duration::from_millis(100);

/// How fast the API is called.
#[derive(Debug)]
pub(super) struct FlowControl {
    calls_in_flight_max: usize,
    pub(super) breaker: Breaker,
    rate: Option<Rate>,
    adaptive: Option<Adaptive>,
}

impl FlowControl {
    /// As fast as the API answers, with this many calls in flight.
    pub(super) fn unlimited(calls_in_flight_max: usize) -> Self {
        let breaker = BreakerSettings {
            failure_threshold: 0,
            probe_interval: Duration::ZERO,
        };
        Self {
            calls_in_flight_max,
            breaker: Breaker::new(breaker),
            rate: None,
            adaptive: None,
        }
    }

    pub(super) fn new(settings: FlowControlSettings, calls_in_flight_max: usize) -> Self {
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
    pub(super) fn room_at(&self) -> Option<Instant> {
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

    pub(super) fn reported(
        &mut self,
        began: Instant,
        report: &Response,
        sign: ApiHealth,
        now: Instant,
    ) -> Turn {
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.reported(began, sign, now);
        }
        self.breaker.reported(began, report, sign, now)
    }
}
