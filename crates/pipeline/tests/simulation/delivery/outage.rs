//! The API is down for a while: who hammers it, who takes it to be ill without need, and how soon calls go on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pipeline::delivery::{BreakerSettings, FlowControlSettings, Outage, RateSettings, Response};
use rand::RngExt as _;

use crate::delivery::api::status;
use crate::delivery::caller::LIMITS;
use crate::delivery::checks::Broken;
use crate::delivery::world::{Mutation, Setup, World};

/// A time in which the API is down.
#[derive(Debug)]
pub(crate) struct Down {
    since: Instant,
    pub(crate) until: Instant,
    /// Requests that reached out to it, by caller.
    requests: BTreeMap<u64, u64>,
}

/// What the world knows of one caller's view of the API.
#[derive(Default)]
pub(crate) struct View {
    /// Failures of the API's own in a row that it was told.
    ill_in_a_row: u32,
    /// While it takes the API to be ill: since when no probe has gone.
    no_probe_since: Option<Option<Instant>>,
}

/// What an outage came to, for the stories that are about one.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// How long after its end each caller's calls went on.
    pub(crate) over_after: Vec<Duration>,
    pub(crate) requests: u64,
    pub(crate) held_max: usize,
}

/// How the callers of a world go about it.
pub(crate) fn pace(seed: u64, mutation: Option<Mutation>) -> Option<FlowControlSettings> {
    let ms = Duration::from_millis;
    let breaker = BreakerSettings {
        failure_threshold: 3,
        probe_interval: match mutation {
            Some(Mutation::NeverProbes) => ms(1_000_000_000),
            _ => ms(100),
        },
    };
    let mut pace = FlowControlSettings {
        breaker,
        rate: None,
        calls_in_flight_min: None,
    };
    match (seed / 4) % 4 {
        _ if mutation == Some(Mutation::NoBreaker) => pace.breaker.failure_threshold = 0,
        // The rules that the others take away have nothing to do with it.
        _ if mutation.is_some_and(|mutation| !mutation.is_of_the_pace()) => return None,
        0 => return None,
        1 => {}
        2 => {
            pace.rate = Some(RateSettings {
                requests: 20,
                per: ms(1_000),
            });
        }
        _ => pace.calls_in_flight_min = Some(1),
    }
    Some(pace)
}

impl World {
    pub(crate) fn go_down(&mut self, time: Duration) {
        self.count("outages");
        self.note(|| format!("the API goes down for {time:?}"));
        self.down = Some(Down {
            since: self.now,
            until: self.now + time,
            requests: BTreeMap::new(),
        });
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down.as_ref().is_some_and(|down| self.now < down.until)
    }

    /// A request reaches out while the API is down. What it comes to, and whether the API may have taken it before.
    pub(crate) fn fate_while_down(&mut self, process: u64) -> Response {
        let (now, random) = (self.now, self.random.random_range(0..10));
        if let (Some(down), Some(pace)) = (&mut self.down, self.setup.pace) {
            let requests = down.requests.entry(process).or_default();
            *requests += 1;
            self.seen.requests += 1;
            let intervals =
                now.duration_since(down.since).as_nanos() / pace.breaker.probe_interval.as_nanos();
            // Those that it takes to see it, those under way meanwhile, and the probes; each may be held back once.
            let before =
                u128::from(pace.breaker.failure_threshold.max(3)) + LIMITS.calls_in_flight_max as u128;
            let (requests, allowed) = (u128::from(*requests), before + 2 * (intervals + 1));
            if requests > allowed {
                self.checks.broken(Broken::Hammered, || {
                    format!(
                        "{process} has made {requests} requests in {intervals} probe intervals of an outage"
                    )
                });
            }
        }
        match random {
            0..6 => Response::NotSent(pipeline::delivery::NotSent::NoConnection),
            6..8 => Response::Lost(pipeline::delivery::Lost::Closed),
            _ => status(503, None),
        }
    }

    /// A caller is told of a request.
    pub(crate) fn hears(&mut self, at: usize, report: &Response) {
        let view = &mut self.callers[at].view;
        match report {
            Response::NotSent(pipeline::delivery::NotSent::Withheld) => {
                if let Some(probe) = &mut view.no_probe_since {
                    *probe = None;
                }
            }
            Response::NotSent(_) | Response::Lost(_) => view.ill_in_a_row += 1,
            Response::Status(reply) if reply.status >= 500 => view.ill_in_a_row += 1,
            Response::Status(_) => view.ill_in_a_row = 0,
        }
    }

    /// A caller is told of a look-up: one that is answered proves nothing.
    pub(crate) fn hears_of_look_up(&mut self, at: usize, report: &Response) {
        let is_ill = report.status().is_none_or(|status| status >= 500);
        self.callers[at].view.ill_in_a_row += u32::from(is_ill);
    }

    pub(crate) fn outage(&mut self, at: usize, outage: &Outage) {
        let process = self.callers[at].process;
        self.note(|| format!("{process} takes the API to be ill: {outage:?}"));
        if outage.probes_failed > 0 {
            return;
        }
        self.count("openings");
        let view = &mut self.callers[at].view;
        view.no_probe_since = Some(Some(self.now));
        let (seen, needed) = (
            view.ill_in_a_row,
            self.setup.pace.map_or(1, |p| p.breaker.failure_threshold),
        );
        if seen < needed {
            self.checks.broken(Broken::OpenedWithoutNeed, || {
                format!("{process} after {seen} failures of the API")
            });
        }
    }

    pub(crate) fn outage_over(&mut self, at: usize) {
        let process = self.callers[at].process;
        self.note(|| format!("{process} takes the API to be back"));
        self.callers[at].view.no_probe_since = None;
        if let Some(down) = &self.down
            && self.now >= down.until
        {
            self.seen.over_after.push(self.now - down.until);
        }
    }

    /// A caller asks for a request: while it takes the API to be ill, one for each interval.
    pub(crate) fn asks_the_api(&mut self, at: usize) {
        let (now, process) = (self.now, self.callers[at].process);
        let Some(probe) = &mut self.callers[at].view.no_probe_since else {
            return;
        };
        let interval = self
            .setup
            .pace
            .map_or(Duration::ZERO, |pace| pace.breaker.probe_interval);
        let is_too_soon = probe.is_some_and(|probe| now < probe + interval);
        *probe = Some(now);
        self.count("probes");
        if is_too_soon {
            self.checks.broken(Broken::Hammered, || {
                format!("{process} sends a second probe within an interval")
            });
        }
    }

    /// Whatever happens, no more is held than the limits say.
    pub(crate) fn check_held(&mut self, at: usize) {
        let gauges = self.callers[at].gauges();
        let partitions = gauges.partitions + gauges.partitions_draining;
        self.seen.held_max = self.seen.held_max.max(gauges.calls_open);
        if gauges.calls_open > partitions * LIMITS.calls_open_max
            || gauges.bytes_open > LIMITS.bytes_open_max + crate::delivery::caller::BYTES
        {
            self.checks.broken(Broken::TooMany, || format!("{gauges:?}"));
        }
    }
}

/// The mutation that counts rejected orders as failures of the API: they look like that.
pub(crate) fn mutated(report: Response, setup: &Setup) -> Response {
    match &report {
        Response::Status(reply)
            if setup.mutation == Some(Mutation::CountsRejections) && reply.status == 422 =>
        {
            status(500, None)
        }
        _ => report,
    }
}
