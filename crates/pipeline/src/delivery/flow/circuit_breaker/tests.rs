//! Circuit breaker: when it opens, what it lets through, and how calls ramp up again.

use super::*;
use crate::delivery::response::{HttpResponse, Lost, NotSent};

const INTERVAL: Duration = Duration::from_secs(5);
const MS: Duration = Duration::from_millis(1);

/// A breaker that opens at the third failure, and its clock.
struct Scenario {
    breaker: CircuitBreaker,
    now: Instant,
}

impl Scenario {
    fn new() -> Self {
        let settings = BreakerSettings {
            failure_threshold: 3,
            probe_interval: INTERVAL,
        };
        Self {
            breaker: CircuitBreaker::new(settings),
            now: Instant::now(),
        }
    }

    fn send(&mut self) -> Instant {
        self.now += MS;
        self.breaker.request_sent(self.now);
        self.now
    }

    fn respond(&mut self, sent_at: Instant, health: ApiHealth) -> BreakerChange {
        self.now += MS;
        let response = match health {
            ApiHealth::Healthy => Response::Status(HttpResponse::default()),
            ApiHealth::Busy => status(429),
            ApiHealth::Overloaded => status(503),
            ApiHealth::Unhealthy => Response::Lost(Lost::Closed),
            ApiHealth::Unknown => Response::NotSent(NotSent::Withheld),
        };
        self.breaker.responded(sent_at, &response, health, self.now)
    }

    fn request(&mut self, health: ApiHealth) -> BreakerChange {
        let sent_at = self.send();
        self.respond(sent_at, health)
    }

    fn opened() -> Self {
        let mut scenario = Self::new();
        scenario.request(ApiHealth::Unhealthy);
        scenario.request(ApiHealth::Unhealthy);
        assert!(matches!(
            scenario.request(ApiHealth::Overloaded),
            BreakerChange::Failed(_)
        ));
        scenario
    }

    fn room(&self) -> usize {
        self.breaker.room(self.now)
    }
}

fn status(status: u16) -> Response {
    Response::Status(HttpResponse {
        status,
        ..HttpResponse::default()
    })
}

#[test]
fn opens_only_on_failures_in_a_row() {
    let mut scenario = Scenario::new();
    for health in [ApiHealth::Healthy, ApiHealth::Busy] {
        for _ in 0..20 {
            scenario.request(ApiHealth::Unhealthy);
            scenario.request(ApiHealth::Overloaded);
            assert_eq!(scenario.request(health), BreakerChange::None);
        }
    }
    assert_eq!(scenario.breaker.state(), BreakerState::Closed);
    // A withheld request is neither a success nor a failure.
    let sent_at = scenario.now;
    scenario.request(ApiHealth::Unhealthy);
    scenario.request(ApiHealth::Unknown);
    scenario.request(ApiHealth::Unhealthy);
    let BreakerChange::Failed(outage) = scenario.request(ApiHealth::Overloaded) else {
        panic!("it did not open");
    };
    assert_eq!((outage.failures, outage.status), (3, Some(503)));
    assert_eq!(outage.since, sent_at + 2 * MS);
    assert_eq!(scenario.breaker.state(), BreakerState::Open);
    assert_eq!(scenario.room(), 0);
}

#[test]
fn one_probe_per_interval_whatever_the_last_one_does() {
    let mut scenario = Scenario::opened();
    let mut probes = Vec::new();
    for _ in 0..10 {
        let due = scenario.breaker.room_at().expect("a time");
        assert_eq!(scenario.breaker.room(due - MS), 0);
        assert_eq!(scenario.breaker.room(due), 1);
        scenario.now = due;
        probes.push(scenario.send());
        assert_eq!(scenario.breaker.state(), BreakerState::Probing);
        assert_eq!(scenario.room(), 0, "one at a time");
    }
    for (count, probe) in (1..).zip(probes) {
        let change = scenario.respond(probe, ApiHealth::Overloaded);
        assert!(matches!(change, BreakerChange::Failed(outage) if outage.probes_failed == count));
    }
    assert_eq!(scenario.breaker.state(), BreakerState::Open);
}

#[test]
fn healthy_probe_closes_it_and_calls_ramp_up() {
    let mut scenario = Scenario::opened();
    scenario.now += INTERVAL;
    assert_eq!(scenario.request(ApiHealth::Busy), BreakerChange::Closed);
    assert_eq!(scenario.room(), 2);
    let (first, second) = (scenario.send(), scenario.send());
    assert_eq!(scenario.room(), 0);
    scenario.respond(first, ApiHealth::Healthy);
    assert_eq!(scenario.room(), 2);
    scenario.respond(second, ApiHealth::Unhealthy);
    assert_eq!(scenario.room(), 3, "a failure frees its slot and adds none");
    for _ in 0..100 {
        scenario.request(ApiHealth::Healthy);
    }
    assert_eq!(scenario.room(), 103);
}

#[test]
fn late_responses_change_nothing() {
    let mut scenario = Scenario::new();
    let hanging: Vec<Instant> = (0..20).map(|_| scenario.send()).collect();
    for _ in 0..3 {
        scenario.request(ApiHealth::Unhealthy);
    }
    assert!(scenario.breaker.is_open());
    // Neither success nor failure of a request from before changes anything.
    assert_eq!(
        scenario.respond(hanging[0], ApiHealth::Healthy),
        BreakerChange::None
    );
    assert_eq!(
        scenario.respond(hanging[1], ApiHealth::Unhealthy),
        BreakerChange::None
    );
    scenario.now += INTERVAL;
    assert_eq!(scenario.request(ApiHealth::Healthy), BreakerChange::Closed);
    for sent_at in &hanging[2..] {
        assert_eq!(
            scenario.respond(*sent_at, ApiHealth::Overloaded),
            BreakerChange::None
        );
    }
    assert_eq!(scenario.breaker.state(), BreakerState::Closed);
    assert_eq!(scenario.room(), 2, "requests from before take no slot");
}

#[test]
fn healthy_look_up_counts_only_as_the_probe() {
    let mut scenario = Scenario::new();
    let look_up = |scenario: &mut Scenario, health| {
        let (sent_at, response) = (scenario.now, Response::Lost(Lost::Closed));
        scenario.now += MS;
        scenario
            .breaker
            .look_up_responded(sent_at, &response, health, scenario.now)
    };
    scenario.request(ApiHealth::Unhealthy);
    assert_eq!(look_up(&mut scenario, ApiHealth::Healthy), BreakerChange::None);
    scenario.request(ApiHealth::Unhealthy);
    assert!(matches!(
        look_up(&mut scenario, ApiHealth::Unhealthy),
        BreakerChange::Failed(_)
    ));
    // It was sent before the breaker opened.
    let (sent_at, response) = (scenario.now - MS, Response::Status(HttpResponse::default()));
    assert_eq!(
        scenario
            .breaker
            .look_up_responded(sent_at, &response, ApiHealth::Healthy, scenario.now),
        BreakerChange::None
    );
    scenario.now += INTERVAL;
    let sent_at = scenario.send();
    assert_eq!(
        scenario
            .breaker
            .look_up_responded(sent_at, &response, ApiHealth::Healthy, scenario.now),
        BreakerChange::Closed
    );
}

#[test]
fn withheld_probe_is_replaced_at_once() {
    let mut scenario = Scenario::opened();
    scenario.now += INTERVAL;
    assert_eq!(scenario.request(ApiHealth::Unknown), BreakerChange::None);
    assert_eq!(scenario.breaker.state(), BreakerState::Open);
    assert_eq!(scenario.room(), 1, "another goes at once");
}

#[test]
fn threshold_of_zero_never_opens() {
    let mut scenario = Scenario::new();
    scenario.breaker.settings.failure_threshold = 0;
    for _ in 0..100 {
        scenario.request(ApiHealth::Unhealthy);
    }
    assert_eq!(scenario.breaker.state(), BreakerState::Closed);
}
