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
            rejections: ShareLimit {
                threshold: 6,
                window: 10,
            },
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
        let class = match health {
            ApiHealth::Healthy => ResponseClass::Accepted,
            ApiHealth::Busy | ApiHealth::Unknown => ResponseClass::Retryable,
            ApiHealth::Overloaded | ApiHealth::Unhealthy => ResponseClass::Ambiguous,
        };
        let response = ClassifiedResponse::from_parts(class, response);
        self.breaker.responded(sent_at, &response, health, self.now)
    }

    fn reject(&mut self, sent_at: Instant) -> BreakerChange {
        self.now += MS;
        let response = ClassifiedResponse::from_parts(ResponseClass::Rejected, status(404));
        self.breaker
            .responded(sent_at, &response, ApiHealth::Healthy, self.now)
    }

    fn request_rejected(&mut self) -> BreakerChange {
        let sent_at = self.send();
        self.reject(sent_at)
    }

    fn opened_for_rejections() -> Self {
        let mut scenario = Self::new();
        for _ in 0..5 {
            assert_eq!(scenario.request_rejected(), BreakerChange::None);
        }
        assert!(matches!(scenario.request_rejected(), BreakerChange::Failed(_)));
        assert!(scenario.breaker.is_open_for_rejections());
        scenario
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

#[test]
fn opens_on_the_share_of_rejections() {
    let mut scenario = Scenario::new();
    // Half of the orders are rejected, for ever.
    for _ in 0..1_000 {
        assert_eq!(scenario.request_rejected(), BreakerChange::None);
        assert_eq!(scenario.request(ApiHealth::Healthy), BreakerChange::None);
        // These decide no call, so they are not in the share.
        scenario.request(ApiHealth::Busy);
        scenario.request(ApiHealth::Unhealthy);
    }
    assert_eq!(scenario.request_rejected(), BreakerChange::None);
    let BreakerChange::Failed(outage) = scenario.request_rejected() else {
        panic!("it did not open");
    };
    let rejections = OutageCause::Rejections { rejected: 6, of: 10 };
    assert_eq!((outage.cause, outage.status), (rejections, Some(404)));
    assert_eq!((outage.failures, outage.probes_failed), (6, 0));
    assert_eq!(scenario.room(), 0);
    assert_eq!(scenario.breaker.room_at(), Some(scenario.now + INTERVAL));
}

#[test]
fn only_an_accepted_probe_ends_mass_rejection() {
    let mut scenario = Scenario::opened_for_rejections();
    for health in [ApiHealth::Busy, ApiHealth::Unhealthy, ApiHealth::Overloaded] {
        scenario.now += INTERVAL;
        assert!(matches!(scenario.request(health), BreakerChange::Failed(_)));
    }
    scenario.now += INTERVAL;
    let BreakerChange::Failed(outage) = scenario.request_rejected() else {
        panic!("it closed");
    };
    assert_eq!((outage.probes_failed, outage.failures), (4, 10));
    // A withheld probe was none.
    scenario.now += INTERVAL;
    assert_eq!(scenario.request(ApiHealth::Unknown), BreakerChange::None);
    assert_eq!(scenario.room(), 1);
    assert_eq!(scenario.request(ApiHealth::Healthy), BreakerChange::Closed);
    assert_eq!(scenario.room(), 2, "calls ramp up");
    // The share is taken of new calls.
    for _ in 0..5 {
        assert_eq!(scenario.request_rejected(), BreakerChange::None);
    }
    assert!(matches!(scenario.request_rejected(), BreakerChange::Failed(_)));
}

#[test]
fn look_up_says_nothing_of_mass_rejection() {
    let mut scenario = Scenario::opened_for_rejections();
    scenario.now += INTERVAL;
    for (status, health) in [(200, ApiHealth::Healthy), (503, ApiHealth::Overloaded)] {
        let sent_at = scenario.send();
        let response = Response::Status(HttpResponse {
            status,
            ..HttpResponse::default()
        });
        let change = scenario
            .breaker
            .look_up_responded(sent_at, &response, health, scenario.now);
        assert_eq!(change, BreakerChange::None);
        assert_eq!(scenario.breaker.state(), BreakerState::Open);
    }
}

#[test]
fn rejections_of_earlier_requests_are_kept() {
    let mut scenario = Scenario::new();
    let hanging: Vec<Instant> = (0..3).map(|_| scenario.send()).collect();
    assert!(!scenario.breaker.keeps_rejection(hanging[0]));
    for _ in 0..6 {
        scenario.request_rejected();
    }
    // In flight when it opened, and its own probes.
    assert!(scenario.breaker.keeps_rejection(hanging[0]));
    assert_eq!(scenario.reject(hanging[0]), BreakerChange::None);
    scenario.now += INTERVAL;
    let probe = scenario.send();
    assert!(scenario.breaker.keeps_rejection(probe));
    scenario.now += INTERVAL;
    assert_eq!(scenario.request(ApiHealth::Healthy), BreakerChange::Closed);
    // Requests from before it closed; those after it count again.
    assert!(scenario.breaker.keeps_rejection(hanging[1]) && scenario.breaker.keeps_rejection(probe));
    for sent_at in [hanging[1], hanging[2], probe] {
        assert_eq!(scenario.reject(sent_at), BreakerChange::None);
    }
    let after = scenario.send();
    assert!(!scenario.breaker.keeps_rejection(after));
    for _ in 0..4 {
        scenario.request_rejected();
    }
    assert_eq!(
        scenario.reject(after),
        BreakerChange::None,
        "kept ones do not count"
    );
    assert!(matches!(scenario.request_rejected(), BreakerChange::Failed(_)));
}

/// Scenario: the API flaps between failures and rejections. An outage must not start the count again.
#[test]
fn outage_between_rejections_does_not_hide_them() {
    let mut scenario = Scenario::new();
    let hanging = scenario.send();
    for _ in 0..2 {
        scenario.request_rejected();
        scenario.request_rejected();
        for _ in 0..3 {
            scenario.request(ApiHealth::Unhealthy);
        }
        assert!(scenario.breaker.is_open() && !scenario.breaker.is_open_for_rejections());
        scenario.now += INTERVAL;
        scenario.request(ApiHealth::Busy);
    }
    scenario.request_rejected();
    for _ in 0..3 {
        scenario.request(ApiHealth::Unhealthy);
    }
    // The one that reaches the limit belongs to a request from before the outage.
    assert!(matches!(scenario.reject(hanging), BreakerChange::Failed(_)));
    assert!(scenario.breaker.is_open_for_rejections());
}
