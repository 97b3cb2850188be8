//! Circuit breaker: while the API is unhealthy calls wait, and one of them probes now and then whether it is
//! back.
//!
//! ```text
//!        failure_threshold unhealthy responses in a row
//!   Closed ───────────────────────────────────────────▶ Open
//!     ▲ calls as the ramp allows               one probe per interval │
//!     └────────────── first healthy response to a probe ◀─────────────┘
//! ```
//!
//! * A probe is an ordinary call. One is sent per interval, even if the last one has no response yet: an API
//!   that hangs until the timeout and then recovers is found within one interval all the same.
//! * A response counts only for the period in which its request was sent. A request that hangs since before
//!   an outage and times out after it says nothing about now.
//! * After an outage the number of calls in flight ramps up as on a fresh connection: one more for each
//!   healthy response. An API that comes back weak is not overrun, and if it fails again, few calls are
//!   ambiguous.
//!
//! The libraries looked at (failsafe 1.3, recloser 1.4) read a clock of their own, do not say *when* the next
//! probe is due, and cannot tell a late response from a new one. Here time comes in with events.

use std::time::{Duration, Instant};

use super::ApiHealth;
use crate::delivery::response::Response;

/// Settings of the circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row after which it opens; 0: never.
    pub failure_threshold: u32,
    /// Interval between two probes.
    pub probe_interval: Duration,
}

/// An outage of the API, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Time of the first failure of those that opened the breaker.
    pub since: Instant,
    /// Number of failures since then, with those of probes.
    pub failures: u32,
    /// Number of failed probes.
    pub probes_failed: u32,
    /// Kind of the last failure, as in [`Response::kind`].
    pub kind: &'static str,
    /// HTTP status of the last failure, if there was one.
    pub status: Option<u16>,
    /// Time of the last failure.
    pub failed_at: Instant,
    /// Time of the next probe.
    pub probe_at: Instant,
}

/// State of the circuit breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls are sent as usual.
    #[default]
    Closed,
    /// Calls wait for a probe.
    Open,
    /// Calls wait, and a probe is in flight.
    Probing,
}

impl BreakerState {
    /// All states, so that each has its metric from the start.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::Probing];

    /// Name of the state in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Probing => "probing",
        }
    }
}

/// Change that a response makes to the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BreakerChange {
    /// The breaker stays as it is.
    None,
    /// The breaker opened, or a probe failed.
    Failed(Outage),
    /// A probe succeeded, and the breaker closed.
    Closed,
}

/// Circuit breaker of the API.
#[derive(Debug)]
pub(super) struct CircuitBreaker {
    settings: BreakerSettings,
    /// Time of the last opening or closing. Responses to requests sent before it do not count.
    since: Option<Instant>,
    /// Requests sent since then that have no response yet.
    in_flight: usize,
    /// Maximum number of requests in flight while it is closed.
    ramp: usize,
    /// Failures in a row.
    failures: u32,
    /// Time of the first of these failures.
    failing_since: Option<Instant>,
    /// Present while it is open.
    outage: Option<Outage>,
}

impl CircuitBreaker {
    pub(super) fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            since: None,
            in_flight: 0,
            // Nothing has failed yet, so the first start needs no ramp.
            ramp: usize::MAX,
            failures: 0,
            failing_since: None,
            outage: None,
        }
    }

    /// Number of requests that may be sent now.
    pub(super) fn room(&self, now: Instant) -> usize {
        match &self.outage {
            Some(outage) => usize::from(now >= outage.probe_at),
            None => self.ramp.saturating_sub(self.in_flight),
        }
    }

    /// Time at which there is room again, if time alone brings it.
    pub(super) fn room_at(&self) -> Option<Instant> {
        self.outage.map(|outage| outage.probe_at)
    }

    pub(super) fn is_open(&self) -> bool {
        self.outage.is_some()
    }

    pub(super) fn state(&self) -> BreakerState {
        match (self.outage, self.in_flight) {
            (None, _) => BreakerState::Closed,
            (Some(_), 0) => BreakerState::Open,
            (Some(_), _) => BreakerState::Probing,
        }
    }

    /// Counts the request of a call that is sent, or a look-up that is the probe.
    pub(super) fn request_sent(&mut self, now: Instant) {
        self.in_flight += 1;
        if let Some(outage) = &mut self.outage {
            // Counts from the sending: a probe that hangs must not stop the probing.
            outage.probe_at = now + self.settings.probe_interval;
        }
    }

    /// Takes in the response to a call.
    pub(super) fn responded(
        &mut self,
        sent_at: Instant,
        response: &Response,
        health: ApiHealth,
        now: Instant,
    ) -> BreakerChange {
        if self.is_late(sent_at) {
            return BreakerChange::None;
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        self.judge(response, health, now)
    }

    /// Takes in the response to a look-up.
    pub(super) fn look_up_responded(
        &mut self,
        sent_at: Instant,
        response: &Response,
        health: ApiHealth,
        now: Instant,
    ) -> BreakerChange {
        match self.is_open() {
            // It was the probe, for want of a call.
            true => self.responded(sent_at, response, health, now),
            false if health.is_unhealthy() && !self.is_late(sent_at) => self.judge(response, health, now),
            // Look-ups may be served while payments are not: a healthy one must not reset the failures in a
            // row.
            false => BreakerChange::None,
        }
    }

    fn is_late(&self, sent_at: Instant) -> bool {
        self.since.is_some_and(|since| sent_at < since)
    }

    fn judge(&mut self, response: &Response, health: ApiHealth, now: Instant) -> BreakerChange {
        match (&mut self.outage, health) {
            // 429 comes from a live API, and slowing down is the adaptive limit's task.
            (None, ApiHealth::Healthy | ApiHealth::Busy) => {
                (self.failures, self.failing_since) = (0, None);
                self.ramp = self.ramp.saturating_add(1);
                BreakerChange::None
            }
            (None, ApiHealth::Overloaded | ApiHealth::Unhealthy) => {
                self.failures = self.failures.saturating_add(1);
                let since = *self.failing_since.get_or_insert(now);
                let threshold = self.settings.failure_threshold;
                if threshold == 0 || self.failures < threshold {
                    return BreakerChange::None;
                }
                let outage = Outage {
                    since,
                    failures: self.failures,
                    probes_failed: 0,
                    kind: response.kind(),
                    status: response.status(),
                    failed_at: now,
                    probe_at: now + self.settings.probe_interval,
                };
                self.turn(Some(outage), now);
                BreakerChange::Failed(outage)
            }
            (Some(_), ApiHealth::Healthy | ApiHealth::Busy) => {
                self.turn(None, now);
                // The probe's own slot, and one more for its healthy response.
                self.ramp = 2;
                BreakerChange::Closed
            }
            (Some(outage), ApiHealth::Overloaded | ApiHealth::Unhealthy) => {
                outage.failures = outage.failures.saturating_add(1);
                outage.probes_failed = outage.probes_failed.saturating_add(1);
                (outage.kind, outage.status) = (response.kind(), response.status());
                outage.failed_at = now;
                BreakerChange::Failed(*outage)
            }
            (Some(outage), ApiHealth::Unknown) => {
                // The probe was never sent, so another one may go at once.
                outage.probe_at = now;
                BreakerChange::None
            }
            (None, ApiHealth::Unknown) => BreakerChange::None,
        }
    }

    fn turn(&mut self, outage: Option<Outage>, now: Instant) {
        self.outage = outage;
        self.since = Some(now);
        // Requests of the period before are late from now on, and take no slot.
        self.in_flight = 0;
        (self.failures, self.failing_since) = (0, None);
    }
}

#[cfg(test)]
mod tests;
