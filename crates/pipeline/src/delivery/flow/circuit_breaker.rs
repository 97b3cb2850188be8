//! The circuit breaker: while the API is ill calls wait, and now and then one of them probes whether it is back.
//!
//! ```text
//!           so many ill reports in a row, and not a good one between
//!   Closed ──────────────────────────────────────────────────────────▶ Open
//!     ▲ calls as its ramp allows                    one probe each interval │
//!     └────────────────────── the first probe that is answered ◀────────────┘
//! ```
//!
//! * A probe is an ordinary call. One goes per interval, whether or not the last one is back: an API that hangs until
//!   the time-out and then recovers is found out within one interval all the same.
//! * A report counts only for the time in which its request began. What hangs since before an outage, and times out
//!   after it, says nothing of now.
//! * After an outage calls come back like those of a fresh connection: one more may be under way for each that was
//!   answered. An API that comes back weak is not felled by all at once, and if it fails again, few calls are in ambiguity.
//!
//! It is our own because the libraries looked at (failsafe 1.3, recloser 1.4) read a clock of their own, say yes or no
//! and not *when* the next probe is due, and cannot tell a late report from a new one. Here time comes in with events.

use std::time::{Duration, Instant};

use crate::delivery::flow::ApiHealth;
use crate::delivery::response::Response;

/// When the breaker opens, and how often it probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// So many requests in a row must have failed for reasons that are the API's; 0: it never opens.
    pub failure_threshold: u32,
    /// The time from one probe to the next.
    pub probe_interval: Duration,
}

/// The API is ill: what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the first of the requests failed that opened the breaker.
    pub since: Instant,
    /// Requests that have failed since, probes among them.
    pub failures: u32,
    /// The probes among them.
    pub probes_failed: u32,
    /// How the last one failed, as [`Response::kind`] says it.
    pub kind: &'static str,
    /// Its status, if there was one.
    pub status: Option<u16>,
    /// When it failed.
    pub failed_at: Instant,
    /// When the next probe may go.
    pub probe_at: Instant,
}

/// What the breaker does with calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls are made.
    #[default]
    Closed,
    /// Calls wait.
    Open,
    /// Calls wait, and a probe is under way.
    Probing,
}

impl BreakerState {
    /// All states, so that each has its metric from the start.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::Probing];

    /// The state as it stands in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Probing => "probing",
        }
    }
}

/// How a report turned the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Not at all.
    None,
    /// It opened, or a probe has failed.
    Ill(Outage),
    /// It closed.
    Well,
}

/// The circuit breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    settings: BreakerSettings,
    /// Since when it is open or closed; reports of requests that began before do not count.
    since: Option<Instant>,
    /// Requests that began since then, and are under way.
    under_way: usize,
    /// So many may be under way while it is closed.
    ramp: usize,
    /// Failures in a row, and when the first of them was reported.
    failures: u32,
    failing_since: Option<Instant>,
    outage: Option<Outage>,
}

impl Breaker {
    pub(crate) fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            since: None,
            under_way: 0,
            ramp: usize::MAX,
            failures: 0,
            failing_since: None,
            outage: None,
        }
    }

    /// How many more requests may begin now.
    pub(crate) fn room(&self, now: Instant) -> usize {
        match &self.outage {
            Some(outage) => usize::from(now >= outage.probe_at),
            None => self.ramp.saturating_sub(self.under_way),
        }
    }

    /// When there is room again, if time alone brings it.
    pub(crate) fn room_at(&self) -> Option<Instant> {
        self.outage.map(|outage| outage.probe_at)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.outage.is_some()
    }

    pub(crate) fn state(&self) -> BreakerState {
        match (self.outage, self.under_way) {
            (None, _) => BreakerState::Closed,
            (Some(_), 0) => BreakerState::Open,
            (Some(_), _) => BreakerState::Probing,
        }
    }

    /// A call's request begins, or a look-up that is the probe.
    pub(crate) fn begun(&mut self, now: Instant) {
        self.under_way += 1;
        if let Some(outage) = &mut self.outage {
            outage.probe_at = now + self.settings.probe_interval;
        }
    }

    /// A call's request that began at `began` has come to something.
    pub(crate) fn reported(
        &mut self,
        began: Instant,
        report: &Response,
        sign: ApiHealth,
        now: Instant,
    ) -> Turn {
        if self.is_late(began) {
            return Turn::None;
        }
        self.under_way = self.under_way.saturating_sub(1);
        self.judge(report, sign, now)
    }

    /// A look-up that began at `began` has come to something. Look-ups may be served while payments are not: so one
    /// that is answered proves nothing unless it was the probe, for want of calls. One that fails is a sign like others.
    pub(crate) fn look_up_reported(
        &mut self,
        began: Instant,
        report: &Response,
        sign: ApiHealth,
        now: Instant,
    ) -> Turn {
        match self.is_open() {
            true => self.reported(began, report, sign, now),
            false if sign.is_ill() && !self.is_late(began) => self.judge(report, sign, now),
            false => Turn::None,
        }
    }

    fn is_late(&self, began: Instant) -> bool {
        self.since.is_some_and(|since| began < since)
    }

    fn judge(&mut self, report: &Response, sign: ApiHealth, now: Instant) -> Turn {
        match (&mut self.outage, sign) {
            (None, ApiHealth::Healthy | ApiHealth::Busy) => {
                (self.failures, self.failing_since) = (0, None);
                self.ramp = self.ramp.saturating_add(1);
                Turn::None
            }
            (None, ApiHealth::Overloaded | ApiHealth::Unhealthy) => {
                self.failures = self.failures.saturating_add(1);
                let since = *self.failing_since.get_or_insert(now);
                if self.settings.failure_threshold == 0 || self.failures < self.settings.failure_threshold {
                    return Turn::None;
                }
                let outage = Outage {
                    since,
                    failures: self.failures,
                    probes_failed: 0,
                    kind: report.kind(),
                    status: report.status(),
                    failed_at: now,
                    probe_at: now + self.settings.probe_interval,
                };
                self.turn(Some(outage), now);
                Turn::Ill(outage)
            }
            (Some(_), ApiHealth::Healthy | ApiHealth::Busy) => {
                self.turn(None, now);
                // The probe's own place, and one more.
                self.ramp = 2;
                Turn::Well
            }
            (Some(outage), ApiHealth::Overloaded | ApiHealth::Unhealthy) => {
                outage.failures = outage.failures.saturating_add(1);
                outage.probes_failed = outage.probes_failed.saturating_add(1);
                (outage.kind, outage.status) = (report.kind(), report.status());
                outage.failed_at = now;
                Turn::Ill(*outage)
            }
            // It was no probe, so another may go at once.
            (Some(outage), ApiHealth::Nothing) => {
                outage.probe_at = now;
                Turn::None
            }
            (None, ApiHealth::Nothing) => Turn::None,
        }
    }

    fn turn(&mut self, outage: Option<Outage>, now: Instant) {
        self.outage = outage;
        self.since = Some(now);
        self.under_way = 0;
        (self.failures, self.failing_since) = (0, None);
    }
}

#[cfg(test)]
mod tests;
