//! Circuit breaker: while the API is unhealthy, or rejects most calls, calls wait, and one of them probes now
//! and then whether it is back.
//!
//! ```text
//!        failure_threshold unhealthy responses in a row,
//!        or the rejections among the last calls reach their limit
//!   Closed ───────────────────────────────────────────▶ Open
//!     ▲ calls as the ramp allows               one probe per interval │
//!     └──── first healthy response to a probe; after rejections ◀─────┘
//!           the first probe that is accepted
//! ```
//!
//! * One rejected order is the order's fault. When most are rejected, it is the route, the account or a
//!   setting, and each further call would become a dead letter for nothing. So the call whose rejection opens
//!   the breaker, and each one that is rejected by a request from before it closes, is kept
//!   ([`CircuitBreaker::keeps_rejection`]).
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
use crate::delivery::response::{ClassifiedResponse, Response, ResponseClass};
use crate::sliding_count::{ShareLimit, SlidingCount};

/// Settings of the circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row after which it opens; 0: never.
    pub failure_threshold: u32,
    /// Rejections among the last accepted and rejected calls at which it opens.
    pub rejections: ShareLimit,
    /// Interval between two probes.
    pub probe_interval: Duration,
}

/// Cause of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutageCause {
    /// The API was unhealthy.
    Unhealthy,
    /// The API rejected this many of the last calls.
    Rejections {
        /// Number of rejected calls.
        rejected: usize,
        /// Number of calls that were accepted or rejected.
        of: usize,
    },
}

/// An outage of the API, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Reason why the breaker opened.
    pub cause: OutageCause,
    /// Time of the first failure, or rejection, of those that opened the breaker.
    pub since: Instant,
    /// Number of failures, or rejections, since then, with those of probes.
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

impl Outage {
    /// Counts a failed probe. Returns the outage as it is then.
    fn probe_failed(&mut self, response: &Response, now: Instant) -> Self {
        self.failures = self.failures.saturating_add(1);
        self.probes_failed = self.probes_failed.saturating_add(1);
        (self.kind, self.status) = (response.kind(), response.status());
        self.failed_at = now;
        *self
    }
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
    /// Rejections among the last calls that the API decided.
    rejections: SlidingCount,
    /// Time at which the last outage with rejections ended.
    rejections_until: Option<Instant>,
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
            rejections: SlidingCount::new(settings.rejections),
            rejections_until: None,
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

    /// Returns `true` while it is open because most calls were rejected.
    fn is_open_for_rejections(&self) -> bool {
        let cause = self.outage.map(|outage| outage.cause);
        matches!(cause, Some(OutageCause::Rejections { .. }))
    }

    /// Returns `true` if a call whose request was sent then, and is rejected now, is kept and tried again.
    pub(super) fn keeps_rejection(&self, sent_at: Instant) -> bool {
        // Also after it closed: that request left while the API still rejected most calls.
        self.is_open_for_rejections() || self.rejections_until.is_some_and(|until| sent_at < until)
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
        response: &ClassifiedResponse,
        health: ApiHealth,
        now: Instant,
    ) -> BreakerChange {
        let is_late = self.is_late(sent_at);
        if !is_late {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        // Also of late responses: each rejection that is not kept makes a dead letter.
        if response.class().is_definite() && !self.keeps_rejection(sent_at) {
            let is_rejected = response.class() == ResponseClass::Rejected;
            self.rejections.push(is_rejected, now);
            if is_rejected && self.rejections.is_at_limit() {
                return self.open_for_rejections(response.response(), now);
            }
        }
        match self.outage.map(|outage| outage.cause) {
            _ if is_late => BreakerChange::None,
            Some(OutageCause::Rejections { .. }) => self.judge_after_rejections(response, health, now),
            Some(OutageCause::Unhealthy) | None => self.judge(response.response(), health, now),
        }
    }

    /// Takes in the response to a look-up.
    pub(super) fn look_up_responded(
        &mut self,
        sent_at: Instant,
        response: &Response,
        health: ApiHealth,
        now: Instant,
    ) -> BreakerChange {
        if self.is_open_for_rejections() {
            // It says nothing of whether the API accepts calls.
            if !self.is_late(sent_at) {
                self.in_flight = self.in_flight.saturating_sub(1);
            }
            return BreakerChange::None;
        }
        match self.is_open() {
            _ if self.is_late(sent_at) => BreakerChange::None,
            // It was the probe, for want of a call.
            true => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.judge(response, health, now)
            }
            false if health.is_unhealthy() => self.judge(response, health, now),
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
                    cause: OutageCause::Unhealthy,
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
                BreakerChange::Failed(outage.probe_failed(response, now))
            }
            (Some(outage), ApiHealth::Unknown) => {
                // The probe was never sent, so another one may go at once.
                outage.probe_at = now;
                BreakerChange::None
            }
            (None, ApiHealth::Unknown) => BreakerChange::None,
        }
    }

    /// Opens it at the limit of rejections, also while it is open because the API was unhealthy.
    fn open_for_rejections(&mut self, response: &Response, now: Instant) -> BreakerChange {
        let (rejected, of) = self.rejections.counts();
        let outage = Outage {
            cause: OutageCause::Rejections { rejected, of },
            since: self.rejections.since().unwrap_or(now),
            failures: u32::try_from(rejected).unwrap_or(u32::MAX),
            probes_failed: 0,
            kind: response.kind(),
            status: response.status(),
            failed_at: now,
            probe_at: now + self.settings.probe_interval,
        };
        // After it closes, the share is taken of new calls.
        self.rejections.clear();
        self.turn(Some(outage), now);
        BreakerChange::Failed(outage)
    }

    /// Takes in the response to a probe after most calls were rejected.
    fn judge_after_rejections(
        &mut self,
        response: &ClassifiedResponse,
        health: ApiHealth,
        now: Instant,
    ) -> BreakerChange {
        let Some(outage) = &mut self.outage else {
            return BreakerChange::None;
        };
        match response.class() {
            ResponseClass::Accepted => {
                self.rejections_until = Some(now);
                self.turn(None, now);
                self.ramp = 2;
                BreakerChange::Closed
            }
            // The probe was never sent, so another one may go at once.
            _ if health == ApiHealth::Unknown => {
                outage.probe_at = now;
                BreakerChange::None
            }
            // Healthy or not: only an accepted call shows that calls are accepted again.
            ResponseClass::Rejected | ResponseClass::Retryable | ResponseClass::Ambiguous => {
                BreakerChange::Failed(outage.probe_failed(response.response(), now))
            }
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
