//! When the breaker opens, whom it lets through meanwhile, and how calls come back.

use super::*;
use crate::delivery::response::{HttpResponse, Lost, NotSent};

const INTERVAL: Duration = Duration::from_secs(5);
const MS: Duration = Duration::from_millis(1);

/// A breaker that opens at the third failure, and its clock.
struct Story {
    breaker: Breaker,
    now: Instant,
}

impl Story {
    fn new() -> Self {
        let settings = BreakerSettings {
            failure_threshold: 3,
            probe_interval: INTERVAL,
        };
        Self {
            breaker: Breaker::new(settings),
            now: Instant::now(),
        }
    }

    fn begin(&mut self) -> Instant {
        self.now += MS;
        self.breaker.begun(self.now);
        self.now
    }

    fn report(&mut self, began: Instant, sign: ApiHealth) -> Turn {
        self.now += MS;
        let report = match sign {
            ApiHealth::Healthy => Response::Status(HttpResponse::default()),
            ApiHealth::Busy => status(429),
            ApiHealth::Overloaded => status(503),
            ApiHealth::Unhealthy => Response::Lost(Lost::Closed),
            ApiHealth::Nothing => Response::NotSent(NotSent::Withheld),
        };
        self.breaker.reported(began, &report, sign, self.now)
    }

    fn request(&mut self, sign: ApiHealth) -> Turn {
        let began = self.begin();
        self.report(began, sign)
    }

    fn opened() -> Self {
        let mut story = Self::new();
        story.request(ApiHealth::Unhealthy);
        story.request(ApiHealth::Unhealthy);
        assert!(matches!(story.request(ApiHealth::Overloaded), Turn::Ill(_)));
        story
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
fn it_opens_only_when_nothing_gets_through_between_the_failures() {
    let mut story = Story::new();
    for sign in [ApiHealth::Healthy, ApiHealth::Busy] {
        for _ in 0..20 {
            story.request(ApiHealth::Unhealthy);
            story.request(ApiHealth::Overloaded);
            assert_eq!(story.request(sign), Turn::None);
        }
    }
    assert_eq!(story.breaker.state(), BreakerState::Closed);
    // What is held back says neither yes nor no.
    let began = story.now;
    story.request(ApiHealth::Unhealthy);
    story.request(ApiHealth::Nothing);
    story.request(ApiHealth::Unhealthy);
    let Turn::Ill(outage) = story.request(ApiHealth::Overloaded) else {
        panic!("it did not open");
    };
    assert_eq!((outage.failures, outage.status), (3, Some(503)));
    assert_eq!(outage.since, began + 2 * MS);
    assert_eq!(story.breaker.state(), BreakerState::Open);
    assert_eq!(story.room(), 0);
}

#[test]
fn one_probe_goes_per_interval_whether_or_not_the_last_one_is_back() {
    let mut story = Story::opened();
    let mut probes = Vec::new();
    for _ in 0..10 {
        let due = story.breaker.room_at().expect("a time");
        assert_eq!(story.breaker.room(due - MS), 0);
        assert_eq!(story.breaker.room(due), 1);
        story.now = due;
        probes.push(story.begin());
        assert_eq!(story.breaker.state(), BreakerState::Probing);
        assert_eq!(story.room(), 0, "one at a time");
    }
    for (count, probe) in (1..).zip(probes) {
        assert!(
            matches!(story.report(probe, ApiHealth::Overloaded), Turn::Ill(o) if o.probes_failed == count)
        );
    }
    assert_eq!(story.breaker.state(), BreakerState::Open);
}

#[test]
fn the_first_answer_closes_it_and_calls_come_back_one_by_one() {
    let mut story = Story::opened();
    story.now += INTERVAL;
    assert_eq!(story.request(ApiHealth::Busy), Turn::Well);
    assert_eq!(story.room(), 2);
    let (first, second) = (story.begin(), story.begin());
    assert_eq!(story.room(), 0);
    story.report(first, ApiHealth::Healthy);
    assert_eq!(story.room(), 2);
    story.report(second, ApiHealth::Unhealthy);
    assert_eq!(story.room(), 3, "a failure frees its place and brings none");
    for _ in 0..100 {
        story.request(ApiHealth::Healthy);
    }
    assert_eq!(story.room(), 103);
}

#[test]
fn what_began_before_says_nothing_of_now() {
    let mut story = Story::new();
    let hanging: Vec<Instant> = (0..20).map(|_| story.begin()).collect();
    for _ in 0..3 {
        story.request(ApiHealth::Unhealthy);
    }
    assert!(story.breaker.is_open());
    // Neither an answer nor a failure of the time before changes anything.
    assert_eq!(story.report(hanging[0], ApiHealth::Healthy), Turn::None);
    assert_eq!(story.report(hanging[1], ApiHealth::Unhealthy), Turn::None);
    story.now += INTERVAL;
    assert_eq!(story.request(ApiHealth::Healthy), Turn::Well);
    for began in &hanging[2..] {
        assert_eq!(story.report(*began, ApiHealth::Overloaded), Turn::None);
    }
    assert_eq!(story.breaker.state(), BreakerState::Closed);
    assert_eq!(story.room(), 2, "what hangs since before takes no place");
}

#[test]
fn a_look_up_that_is_answered_proves_nothing_unless_it_was_the_probe() {
    let mut story = Story::new();
    let look_up = |story: &mut Story, sign| {
        let (began, report) = (story.now, Response::Lost(Lost::Closed));
        story.now += MS;
        story.breaker.look_up_reported(began, &report, sign, story.now)
    };
    story.request(ApiHealth::Unhealthy);
    assert_eq!(look_up(&mut story, ApiHealth::Healthy), Turn::None);
    story.request(ApiHealth::Unhealthy);
    assert!(matches!(look_up(&mut story, ApiHealth::Unhealthy), Turn::Ill(_)));
    // It began before the breaker opened.
    let (began, report) = (story.now - MS, Response::Status(HttpResponse::default()));
    assert_eq!(
        story
            .breaker
            .look_up_reported(began, &report, ApiHealth::Healthy, story.now),
        Turn::None
    );
    story.now += INTERVAL;
    let began = story.begin();
    assert_eq!(
        story
            .breaker
            .look_up_reported(began, &report, ApiHealth::Healthy, story.now),
        Turn::Well
    );
}

#[test]
fn a_probe_that_was_held_back_is_none() {
    let mut story = Story::opened();
    story.now += INTERVAL;
    assert_eq!(story.request(ApiHealth::Nothing), Turn::None);
    assert_eq!(story.breaker.state(), BreakerState::Open);
    assert_eq!(story.room(), 1, "another goes at once");
}

#[test]
fn it_can_be_switched_off() {
    let mut story = Story::new();
    story.breaker.settings.failure_threshold = 0;
    for _ in 0..100 {
        story.request(ApiHealth::Unhealthy);
    }
    assert_eq!(story.breaker.state(), BreakerState::Closed);
}
