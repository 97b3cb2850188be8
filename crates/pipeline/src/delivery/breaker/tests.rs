//! When the breaker opens, whom it lets through meanwhile, and how calls come back.

use super::super::answer::{Lost, NotSent, Reply};
use super::*;

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
            failures_max: 3,
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

    fn report(&mut self, began: Instant, sign: Sign) -> Turn {
        self.now += MS;
        let report = match sign {
            Sign::Well => Report::Status(Reply::default()),
            Sign::Busy => status(429),
            Sign::Overloaded => status(503),
            Sign::Ill => Report::Lost(Lost::Closed),
            Sign::Nothing => Report::NotSent(NotSent::Withheld),
        };
        self.breaker.reported(began, &report, sign, self.now)
    }

    fn request(&mut self, sign: Sign) -> Turn {
        let began = self.begin();
        self.report(began, sign)
    }

    fn opened() -> Self {
        let mut story = Self::new();
        story.request(Sign::Ill);
        story.request(Sign::Ill);
        assert!(matches!(story.request(Sign::Overloaded), Turn::Ill(_)));
        story
    }

    fn room(&self) -> usize {
        self.breaker.room(self.now)
    }
}

fn status(status: u16) -> Report {
    Report::Status(Reply {
        status,
        ..Reply::default()
    })
}

#[test]
fn it_opens_only_when_nothing_gets_through_between_the_failures() {
    let mut story = Story::new();
    for sign in [Sign::Well, Sign::Busy] {
        for _ in 0..20 {
            story.request(Sign::Ill);
            story.request(Sign::Overloaded);
            assert_eq!(story.request(sign), Turn::None);
        }
    }
    assert_eq!(story.breaker.state(), BreakerState::Closed);
    // What is held back says neither yes nor no.
    let began = story.now;
    story.request(Sign::Ill);
    story.request(Sign::Nothing);
    story.request(Sign::Ill);
    let Turn::Ill(outage) = story.request(Sign::Overloaded) else {
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
        assert!(matches!(story.report(probe, Sign::Overloaded), Turn::Ill(o) if o.probes_failed == count));
    }
    assert_eq!(story.breaker.state(), BreakerState::Open);
}

#[test]
fn the_first_answer_closes_it_and_calls_come_back_one_by_one() {
    let mut story = Story::opened();
    story.now += INTERVAL;
    assert_eq!(story.request(Sign::Busy), Turn::Well);
    assert_eq!(story.room(), 2);
    let (first, second) = (story.begin(), story.begin());
    assert_eq!(story.room(), 0);
    story.report(first, Sign::Well);
    assert_eq!(story.room(), 2);
    story.report(second, Sign::Ill);
    assert_eq!(story.room(), 3, "a failure frees its place and brings none");
    for _ in 0..100 {
        story.request(Sign::Well);
    }
    assert_eq!(story.room(), 103);
}

#[test]
fn what_began_before_says_nothing_of_now() {
    let mut story = Story::new();
    let hanging: Vec<Instant> = (0..20).map(|_| story.begin()).collect();
    for _ in 0..3 {
        story.request(Sign::Ill);
    }
    assert!(story.breaker.is_open());
    // Neither an answer nor a failure of the time before changes anything.
    assert_eq!(story.report(hanging[0], Sign::Well), Turn::None);
    assert_eq!(story.report(hanging[1], Sign::Ill), Turn::None);
    story.now += INTERVAL;
    assert_eq!(story.request(Sign::Well), Turn::Well);
    for began in &hanging[2..] {
        assert_eq!(story.report(*began, Sign::Overloaded), Turn::None);
    }
    assert_eq!(story.breaker.state(), BreakerState::Closed);
    assert_eq!(story.room(), 2, "what hangs since before takes no place");
}

#[test]
fn a_look_up_that_is_answered_proves_nothing_unless_it_was_the_probe() {
    let mut story = Story::new();
    let look_up = |story: &mut Story, sign| {
        let (began, report) = (story.now, Report::Lost(Lost::Closed));
        story.now += MS;
        story.breaker.look_up_reported(began, &report, sign, story.now)
    };
    story.request(Sign::Ill);
    assert_eq!(look_up(&mut story, Sign::Well), Turn::None);
    story.request(Sign::Ill);
    assert!(matches!(look_up(&mut story, Sign::Ill), Turn::Ill(_)));
    // It began before the breaker opened.
    let (began, report) = (story.now - MS, Report::Status(Reply::default()));
    assert_eq!(
        story
            .breaker
            .look_up_reported(began, &report, Sign::Well, story.now),
        Turn::None
    );
    story.now += INTERVAL;
    let began = story.begin();
    assert_eq!(
        story
            .breaker
            .look_up_reported(began, &report, Sign::Well, story.now),
        Turn::Well
    );
}

#[test]
fn a_probe_that_was_held_back_is_none() {
    let mut story = Story::opened();
    story.now += INTERVAL;
    assert_eq!(story.request(Sign::Nothing), Turn::None);
    assert_eq!(story.breaker.state(), BreakerState::Open);
    assert_eq!(story.room(), 1, "another goes at once");
}

#[test]
fn it_can_be_switched_off() {
    let mut story = Story::new();
    story.breaker.settings.failures_max = 0;
    for _ in 0..100 {
        story.request(Sign::Ill);
    }
    assert_eq!(story.breaker.state(), BreakerState::Closed);
}
