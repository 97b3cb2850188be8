//! Outages of the API: requests during the outage, false openings of the circuit breaker, and the time until
//! calls resume.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pipeline::ShareLimit;
use pipeline::delivery::{
    BreakerSettings, CallId, FinalState, FlowControlSettings, Outage, OutageCause, RateSettings, Response,
};
use rand::RngExt as _;

use crate::delivery::api::status;
use crate::delivery::caller::LIMITS;
use crate::delivery::checks::{CallPosition, ViolationKind};
use crate::delivery::simulation::{Mutation, Setup, Simulation};

/// Limit on rejections in the seeds that have one. Small, because a seed has few calls.
pub(crate) const REJECTIONS: ShareLimit = ShareLimit {
    threshold: 4,
    window: 6,
};

/// Status of calls while the API rejects all of them. Rejected orders have another one.
pub(crate) const REJECTS_ALL: u16 = 404;

/// What the API does during an outage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OutageKind {
    /// It fails, or cannot be reached.
    #[default]
    Fails,
    /// It rejects each call, as with a wrong route or an expired account.
    RejectsAll,
}

/// Outage of the API.
#[derive(Debug)]
pub(crate) struct ApiOutage {
    kind: OutageKind,
    since: Instant,
    pub(crate) until: Instant,
    /// Requests during the outage, by caller.
    requests: BTreeMap<u64, u64>,
    /// Calls that became dead letters because the API rejects all, by caller.
    dead_letters: BTreeMap<u64, BTreeSet<CallPosition>>,
}

/// Expected state of one caller's circuit breaker.
#[derive(Default)]
pub(crate) struct BreakerView {
    /// Consecutive failures of the API that the caller has seen.
    consecutive_failures: u32,
    /// Rejections that the caller has seen since its breaker opened for them.
    rejections: usize,
    /// The breaker is open because most calls were rejected.
    is_rejecting: bool,
    /// It was, at some time.
    has_rejected: bool,
    /// Calls whose requests were sent since the breaker last opened or closed.
    sent_since: BTreeSet<CallId>,
    /// While the circuit breaker is open: time of the last probe, if any.
    last_probe: Option<Option<Instant>>,
}

/// Statistics of an outage.
#[derive(Debug, Default)]
pub(crate) struct OutageStats {
    /// Time from the end of the outage until each caller's calls resumed.
    pub(crate) resumed_after: Vec<Duration>,
    pub(crate) requests: u64,
    pub(crate) calls_open_max_seen: usize,
}

/// Draws the flow control settings of a seed.
pub(crate) fn flow_control(seed: u64, mutation: Option<Mutation>) -> Option<FlowControlSettings> {
    let ms = Duration::from_millis;
    let breaker = BreakerSettings {
        failure_threshold: 3,
        rejections: match (mutation, seed / 16 % 3) {
            (None, 1) => REJECTIONS,
            _ => ShareLimit::OFF,
        },
        probe_interval: match mutation {
            Some(Mutation::NoProbes) => ms(1_000_000_000),
            _ => ms(100),
        },
    };
    let mut flow_control = FlowControlSettings {
        breaker,
        rate: None,
        calls_in_flight_min: None,
    };
    match (seed / 4) % 4 {
        _ if mutation == Some(Mutation::NoCircuitBreaker) => flow_control.breaker.failure_threshold = 0,
        // The other mutations do not concern flow control.
        _ if mutation.is_some_and(|mutation| !mutation.is_about_flow_control()) => return None,
        0 => return None,
        1 => {}
        2 => {
            flow_control.rate = Some(RateSettings {
                requests: 20,
                per: ms(1_000),
            });
        }
        _ => flow_control.calls_in_flight_min = Some(1),
    }
    Some(flow_control)
}

impl Simulation {
    pub(crate) fn start_outage(&mut self, kind: OutageKind, time: Duration) {
        self.count("outages");
        self.trace(|| format!("the API goes down for {time:?}: {kind:?}"));
        self.down = Some(ApiOutage {
            kind,
            dead_letters: BTreeMap::new(),
            since: self.now,
            until: self.now + time,
            requests: BTreeMap::new(),
        });
    }

    pub(crate) fn is_api_down(&self) -> bool {
        self.down.as_ref().is_some_and(|down| self.now < down.until)
    }

    /// Draws the kind of an outage.
    pub(crate) fn draw_outage_kind(&mut self) -> OutageKind {
        match self.has_rejection_limit() && self.random.random_ratio(1, 2) {
            true => OutageKind::RejectsAll,
            false => OutageKind::Fails,
        }
    }

    pub(crate) fn has_rejection_limit(&self) -> bool {
        let flow_control = self.setup.flow_control;
        flow_control.is_some_and(|settings| settings.breaker.rejections != ShareLimit::OFF)
    }

    /// Counts a final state that is about to be published: while the API rejects all calls few become dead
    /// letters.
    pub(crate) fn count_dead_letter(&mut self, at: usize, call: CallPosition, state: &FinalState) {
        let process = self.callers[at].process;
        let FinalState::Rejected(http) = state else {
            return;
        };
        if self.has_rejection_limit() {
            self.checks.rejected_for_a_time.insert(self.log[&call].origin);
        }
        let Some(down) = self.down.as_mut().filter(|_| http.status == REJECTS_ALL) else {
            return;
        };
        let dead_letters = down.dead_letters.entry(process).or_default();
        dead_letters.insert(call);
        // Those in flight when the outage began may belong to the last one.
        let allowed = REJECTIONS.threshold - 1 + LIMITS.calls_in_flight_max;
        let count = dead_letters.len();
        if count > allowed {
            self.checks.violation(ViolationKind::TooManyDeadLetters, || {
                format!("{process} makes dead letter {count} while the API rejects all calls")
            });
        }
        self.count("dead letters of mass rejection");
    }

    /// Handles a request during an outage, and returns its response.
    pub(crate) fn response_during_outage(&mut self, process: u64) -> Response {
        let (now, random) = (self.now, self.random.random_range(0..10));
        if let (Some(down), Some(flow_control)) = (&mut self.down, self.setup.flow_control) {
            let requests = down.requests.entry(process).or_default();
            *requests += 1;
            self.outage_stats.requests += 1;
            let intervals =
                now.duration_since(down.since).as_nanos() / flow_control.breaker.probe_interval.as_nanos();
            // The failures that open the circuit breaker, the calls in flight, and the probes. Each may be
            // withheld once.
            let rejections = flow_control.breaker.rejections.threshold as u128;
            let before = u128::from(flow_control.breaker.failure_threshold.max(3))
                + rejections
                + LIMITS.calls_in_flight_max as u128;
            let (requests, allowed) = (u128::from(*requests), before + 2 * (intervals + 1));
            if requests > allowed {
                self.checks.violation(ViolationKind::TooManyProbes, || {
                    format!(
                        "{process} has made {requests} requests in {intervals} probe intervals of an outage"
                    )
                });
            }
        }
        if self
            .down
            .as_ref()
            .is_some_and(|down| down.kind == OutageKind::RejectsAll)
        {
            return status(REJECTS_ALL, None);
        }
        match random {
            0..6 => Response::NotSent(pipeline::delivery::NotSent::NoConnection),
            6..8 => Response::Lost(pipeline::delivery::Lost::Closed),
            _ => status(503, None),
        }
    }

    /// Returns `true` if a rejection of this call may be kept, to be read before the response is handled.
    pub(crate) fn may_keep_rejection(&self, at: usize, call: CallId) -> bool {
        let view = &self.callers[at].breaker_view;
        let reaches_limit = self.has_rejection_limit() && view.rejections + 1 >= REJECTIONS.threshold;
        view.is_rejecting || reaches_limit || view.has_rejected && !view.sent_since.contains(&call)
    }

    /// Counts a response for the circuit breaker.
    pub(crate) fn count_response(&mut self, at: usize, call: CallId, response: &Response) {
        let breaker_view = &mut self.callers[at].breaker_view;
        if matches!(response, Response::Status(http) if matches!(http.status, REJECTS_ALL | 422)) {
            breaker_view.rejections += 1;
        }
        // The success of a request that was sent before the breaker last opened or closed proves nothing.
        let is_late = !breaker_view.sent_since.remove(&call);
        match response {
            Response::NotSent(pipeline::delivery::NotSent::Withheld) => {
                if let Some(probe) = &mut breaker_view.last_probe {
                    *probe = None;
                }
            }
            Response::NotSent(_) | Response::Lost(_) => breaker_view.consecutive_failures += 1,
            Response::Status(http) if http.status >= 500 => breaker_view.consecutive_failures += 1,
            Response::Status(_) if is_late => {}
            Response::Status(_) => breaker_view.consecutive_failures = 0,
        }
    }

    /// Counts a look-up for the circuit breaker. A successful one proves nothing.
    pub(crate) fn count_lookup(&mut self, at: usize, response: &Response) {
        let has_failed = response.status().is_none_or(|status| status >= 500);
        self.callers[at].breaker_view.consecutive_failures += u32::from(has_failed);
    }

    pub(crate) fn outage(&mut self, at: usize, outage: &Outage) {
        let process = self.callers[at].process;
        self.trace(|| format!("{process} opens its circuit breaker: {outage:?}"));
        if outage.probes_failed > 0 {
            return;
        }
        self.count("breaker openings");
        let breaker_view = &mut self.callers[at].breaker_view;
        breaker_view.last_probe = Some(Some(self.now));
        breaker_view.sent_since.clear();
        breaker_view.is_rejecting = matches!(outage.cause, OutageCause::Rejections { .. });
        breaker_view.has_rejected |= breaker_view.is_rejecting;
        let (seen, needed) = match outage.cause {
            OutageCause::Unhealthy => (
                breaker_view.consecutive_failures as usize,
                self.setup
                    .flow_control
                    .map_or(1, |p| p.breaker.failure_threshold as usize),
            ),
            OutageCause::Rejections { .. } => {
                (std::mem::take(&mut breaker_view.rejections), REJECTIONS.threshold)
            }
        };
        if matches!(outage.cause, OutageCause::Rejections { .. }) {
            self.count("openings on rejections");
        }
        if seen < needed {
            self.checks.violation(ViolationKind::OpenedUnnecessarily, || {
                format!("{process} after {seen} failures of the API")
            });
        }
    }

    pub(crate) fn outage_over(&mut self, at: usize) {
        let process = self.callers[at].process;
        self.trace(|| format!("{process} closes its circuit breaker"));
        self.callers[at].breaker_view.last_probe = None;
        self.callers[at].breaker_view.is_rejecting = false;
        self.callers[at].breaker_view.sent_since.clear();
        if let Some(down) = &self.down
            && self.now >= down.until
        {
            self.outage_stats.resumed_after.push(self.now - down.until);
        }
    }

    /// Counts a request: with an open circuit breaker, one for each interval.
    pub(crate) fn count_request(&mut self, at: usize, call: CallId) {
        let (now, process) = (self.now, self.callers[at].process);
        self.callers[at].breaker_view.sent_since.insert(call);
        let Some(probe) = &mut self.callers[at].breaker_view.last_probe else {
            return;
        };
        let interval = self
            .setup
            .flow_control
            .map_or(Duration::ZERO, |flow_control| flow_control.breaker.probe_interval);
        let is_too_soon = probe.is_some_and(|probe| now < probe + interval);
        *probe = Some(now);
        self.count("probes");
        if is_too_soon {
            self.checks.violation(ViolationKind::TooManyProbes, || {
                format!("{process} sends a second probe within an interval")
            });
        }
    }

    /// Checks the limits of open calls and bytes.
    pub(crate) fn check_limits(&mut self, at: usize) {
        let gauges = self.callers[at].gauges();
        let partitions = gauges.partitions + gauges.partitions_draining;
        self.outage_stats.calls_open_max_seen = self.outage_stats.calls_open_max_seen.max(gauges.calls_open);
        if gauges.calls_open > partitions * LIMITS.calls_open_max
            || gauges.bytes_open > LIMITS.bytes_open_max + crate::delivery::caller::BYTES
        {
            self.checks
                .violation(ViolationKind::LimitExceeded, || format!("{gauges:?}"));
        }
    }
}

/// Applies the mutation that counts rejected orders as failures of the API.
pub(crate) fn mutated(response: Response, setup: &Setup) -> Response {
    match &response {
        Response::Status(http)
            if setup.mutation == Some(Mutation::RejectionsAreFailures) && http.status == 422 =>
        {
            status(500, None)
        }
        _ => response,
    }
}
