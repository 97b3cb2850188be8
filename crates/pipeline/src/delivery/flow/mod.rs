//! Flow control: whether the API is called at all, how fast, and how many calls are in flight.
//!
//! `circuit_breaker`, `rate_limit` and `adaptive_concurrency` each decide one of these, and `api_health` says
//! what a response means for them. Here they decide together; `machine/backpressure.rs` applies it to calls.

mod adaptive_concurrency;
mod api_health;
mod circuit_breaker;
mod rate_limit;

use std::time::{Duration, Instant};

use super::response::{ClassifiedResponse, Response};
use crate::sliding_count::ShareLimit;

pub use circuit_breaker::{BreakerSettings, BreakerState, Outage, OutageCause};
pub use rate_limit::RateSettings;

pub(super) use api_health::ApiHealth;
pub(super) use circuit_breaker::BreakerChange;

use adaptive_concurrency::AdaptiveConcurrency;
use circuit_breaker::CircuitBreaker;
use rate_limit::RateLimit;

/// Settings of the flow control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowControlSettings {
    /// Settings of the circuit breaker.
    pub breaker: BreakerSettings,
    /// Rate limit; `None`: unlimited.
    pub rate: Option<RateSettings>,
    /// Minimum number of calls in flight under the adaptive limit; `None`: the limit is fixed.
    pub calls_in_flight_min: Option<usize>,
}

/// Time ahead for which intents are recorded.
// Intents of requests that leave later than this would be ambiguous for nothing if the process were killed;
// with fewer, the rate would not be reached while a commit is in flight.
const INTENTS_AHEAD: Duration = Duration::from_millis(100);

/// Flow control of the requests to the API.
#[derive(Debug)]
pub(super) struct FlowControl {
    calls_in_flight_max: usize,
    breaker: CircuitBreaker,
    rate: Option<RateLimit>,
    adaptive: Option<AdaptiveConcurrency>,
    /// An operator has paused the calls.
    is_paused: bool,
}

impl FlowControl {
    /// Flow control with a fixed number of calls in flight, and nothing else.
    pub(super) fn unlimited(calls_in_flight_max: usize) -> Self {
        let never_opens = BreakerSettings {
            failure_threshold: 0,
            rejections: ShareLimit::OFF,
            probe_interval: Duration::ZERO,
        };
        Self {
            calls_in_flight_max,
            breaker: CircuitBreaker::new(never_opens),
            rate: None,
            adaptive: None,
            is_paused: false,
        }
    }

    pub(super) fn new(settings: FlowControlSettings, calls_in_flight_max: usize) -> Self {
        // At least one, or nothing would be sent and nothing measured.
        let adaptive =
            |min: usize| AdaptiveConcurrency::new(min.clamp(1, calls_in_flight_max), calls_in_flight_max);
        Self {
            calls_in_flight_max,
            breaker: CircuitBreaker::new(settings.breaker),
            rate: settings.rate.map(RateLimit::new),
            adaptive: settings.calls_in_flight_min.map(adaptive),
            is_paused: false,
        }
    }

    /// Maximum number of requests in flight.
    pub(super) fn limit(&self) -> usize {
        let adaptive = self.adaptive.as_ref().map(AdaptiveConcurrency::limit);
        adaptive.unwrap_or(self.calls_in_flight_max)
    }

    pub(super) fn breaker_state(&self) -> BreakerState {
        self.breaker.state()
    }

    pub(super) fn is_breaker_open(&self) -> bool {
        self.breaker.is_open()
    }

    pub(super) fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Returns `true` if a call whose request was sent then, and is rejected now, is kept and tried again.
    pub(super) fn keeps_rejection(&self, sent_at: Instant) -> bool {
        self.breaker.keeps_rejection(sent_at)
    }

    /// Returns `true` if one more request may be sent now.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        !self.is_paused && self.breaker_has_room(now) && self.rate_has_room(now)
    }

    /// Returns `true` if the breaker lets one more request go now.
    pub(super) fn breaker_has_room(&self, now: Instant) -> bool {
        self.breaker.room(now) > 0
    }

    /// Returns `true` if the rate limit lets one more request go now.
    pub(super) fn rate_has_room(&self, now: Instant) -> bool {
        self.rate.as_ref().is_none_or(|rate| rate.room(now) > 0)
    }

    /// Number of requests that may be sent soon, and whose intents may therefore be recorded now.
    pub(super) fn room_ahead(&self, now: Instant) -> usize {
        if self.is_paused {
            return 0;
        }
        let rate = self.rate.as_ref().map(|rate| rate.room(now + INTENTS_AHEAD));
        self.breaker.room(now).min(rate.unwrap_or(usize::MAX))
    }

    /// Time at which there is room again; `None` if time alone does not bring it.
    pub(super) fn room_at(&self) -> Option<Instant> {
        if self.is_paused {
            return None;
        }
        let rate = self.rate.as_ref().and_then(RateLimit::room_at);
        // Both must have room, so the later time counts.
        self.breaker.room_at().max(rate)
    }

    /// Counts the request of a call that is sent.
    pub(super) fn request_sent(&mut self, now: Instant) {
        self.breaker.request_sent(now);
        if let Some(rate) = &mut self.rate {
            rate.request_sent(now);
        }
    }

    /// Counts a look-up that is sent.
    pub(super) fn look_up_sent(&mut self, now: Instant) {
        // While the breaker is closed look-ups take no slot of its ramp, because their responses do not widen
        // it.
        if self.breaker.is_open() {
            self.breaker.request_sent(now);
        }
        if let Some(rate) = &mut self.rate {
            rate.request_sent(now);
        }
    }

    /// Notes that all slots are taken.
    pub(super) fn at_limit(&mut self) {
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.at_limit();
        }
    }

    /// Takes in the response to a call.
    pub(super) fn responded(
        &mut self,
        sent_at: Instant,
        response: &ClassifiedResponse,
        health: ApiHealth,
        now: Instant,
    ) -> BreakerChange {
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.responded(sent_at, health, now);
        }
        // The adaptive limit measures each response, also those that are late for the breaker.
        self.breaker.responded(sent_at, response, health, now)
    }

    /// Takes in the response to a look-up. It does not count for the adaptive limit, which measures calls.
    pub(super) fn look_up_responded(
        &mut self,
        sent_at: Instant,
        response: &Response,
        health: ApiHealth,
        now: Instant,
    ) -> BreakerChange {
        self.breaker.look_up_responded(sent_at, response, health, now)
    }
}
