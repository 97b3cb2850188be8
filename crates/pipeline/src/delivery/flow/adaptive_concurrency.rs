//! The adaptive limit: how many calls in flight the API bears, found out by trying.
//!
//! As in TCP, and in Vector's adaptive request concurrency: one more after each window of answers that were as quick
//! as ever, if all places were taken; six tenths after one that was slow, and at once when the API says that it is
//! too much (429, 503, 504) or does not answer in time.
//!
//! *Slow* is half as long again as the quickest window of the last minute. Only requests that began in a window count
//! for it, so one congestion is answered once. The cut goes below what the API bears, where it is quick again: each
//! cut measures the calm time anew, and an API that has become slower for good is the norm after a minute.
//!
//! It is our own because the library looked at (congestion-limiter 0.1) reads its own clock and is asynchronous.

use std::time::{Duration, Instant};

use crate::delivery::flow::ApiHealth;

/// A window has as many answers as there may be calls in flight, and at least so many.
const WINDOW_MIN: usize = 10;
/// Answers are slow if they take longer than the calm time by this, beside a half of it: quicker APIs are never slow.
const SLACK: Duration = Duration::from_millis(5);
/// The calm time is the quickest window of this time and the one before it.
const CALM_FOR: Duration = Duration::from_secs(30);

/// The adaptive limit of calls in flight.
#[derive(Debug)]
pub(super) struct Adaptive {
    min: usize,
    max: usize,
    limit: usize,
    window: Window,
    calm: Calm,
}

/// The answers to requests that began since a change of the limit.
#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    answers: u32,
    took: Duration,
    /// All places were taken at some time.
    is_full: bool,
}

/// The quickest window of late.
#[derive(Debug, Default)]
struct Calm {
    since: Option<Instant>,
    now: Option<Duration>,
    before: Option<Duration>,
}

impl Adaptive {
    /// A limit from `min` to `max`. It begins with the smallest: what an API bears is not found out by felling it.
    pub(super) fn new(min: usize, max: usize) -> Self {
        Self {
            min,
            max,
            limit: min,
            window: Window::default(),
            calm: Calm::default(),
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// All places are taken.
    pub(super) fn full(&mut self) {
        self.window.is_full = true;
    }

    /// A request that began at `began` has come to something.
    pub(super) fn reported(&mut self, began: Instant, sign: ApiHealth, now: Instant) {
        if self.window.began.is_some_and(|window| began < window) {
            return;
        }
        match sign {
            ApiHealth::Busy | ApiHealth::Overloaded => self.cut(now),
            ApiHealth::Unhealthy | ApiHealth::Nothing => {}
            ApiHealth::Healthy => {
                self.window.answers += 1;
                self.window.took += now.saturating_duration_since(began);
                if usize::try_from(self.window.answers).is_ok_and(|n| n >= self.limit.max(WINDOW_MIN)) {
                    self.judge(now);
                }
            }
        }
    }

    /// The window is over.
    fn judge(&mut self, now: Instant) {
        let took = self.window.took / self.window.answers.max(1);
        let calm = self.calm.with(took, now);
        if took > calm * 3 / 2 + SLACK {
            self.cut(now);
            return;
        }
        if self.window.is_full {
            self.limit = (self.limit + 1).min(self.max);
        }
        // Requests under way are as quick as those to come: they count for the next window too.
        self.window = Window {
            began: self.window.began,
            ..Window::default()
        };
    }

    fn cut(&mut self, now: Instant) {
        self.limit = (self.limit * 6 / 10).max(self.min);
        self.window = Window {
            began: Some(now),
            ..Window::default()
        };
    }
}

impl Calm {
    /// Takes in a window, and returns the calm time.
    fn with(&mut self, took: Duration, now: Instant) -> Duration {
        if self.since.is_none_or(|since| now >= since + CALM_FOR) {
            (self.since, self.before, self.now) = (Some(now), self.now, None);
        }
        let quickest = self.now.map_or(took, |quickest| quickest.min(took));
        self.now = Some(quickest);
        self.before.map_or(quickest, |before| before.min(quickest))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const MAX: usize = 64;

    /// An API that works on so many requests at once, each for so long; the others queue. Its client always has more.
    struct Api {
        limit: Adaptive,
        workers: usize,
        works_for: Duration,
        now: Instant,
        /// When each worker's request is done, and when that request began.
        at_work: BTreeSet<(Instant, u32, Instant)>,
        queue: VecDeque<Instant>,
        begun: u32,
    }

    /// What a while of it came to.
    #[derive(Debug)]
    struct Seen {
        answers: u32,
        took: Duration,
        limit_max: usize,
        limit_min: usize,
    }

    impl Api {
        fn new(workers: usize, works_for: Duration) -> Self {
            Self {
                limit: Adaptive::new(1, MAX),
                workers,
                works_for,
                now: Instant::now(),
                at_work: BTreeSet::new(),
                queue: VecDeque::new(),
                begun: 0,
            }
        }

        fn run(&mut self, time: Duration) -> Seen {
            let until = self.now + time;
            let mut seen = Seen {
                answers: 0,
                took: Duration::ZERO,
                limit_max: 0,
                limit_min: MAX,
            };
            while self.now < until {
                while self.at_work.len() + self.queue.len() < self.limit.limit() {
                    self.queue.push_back(self.now);
                }
                self.limit.full();
                while self.at_work.len() < self.workers
                    && let Some(began) = self.queue.pop_front()
                {
                    self.begun += 1;
                    // Some take a little longer than others.
                    let works_for = self.works_for * (90 + self.begun * 7 % 21) / 100;
                    self.at_work.insert((self.now + works_for, self.begun, began));
                }
                let (done, _, began) = self.at_work.pop_first().expect("somebody works");
                self.now = done;
                self.limit.reported(began, ApiHealth::Healthy, done);
                seen.answers += 1;
                seen.took += done - began;
                seen.limit_max = seen.limit_max.max(self.limit.limit());
                seen.limit_min = seen.limit_min.min(self.limit.limit());
            }
            seen
        }
    }

    #[test]
    fn it_finds_what_an_api_bears_and_stays_there() {
        let mut api = Api::new(16, 50 * MS);
        api.run(Duration::from_secs(20));
        let seen = api.run(Duration::from_secs(600));
        println!("{seen:?}");
        // 16 workers answer 320 requests in a second, 192,000 in all.
        assert!(seen.answers > 192_000 * 90 / 100, "{seen:?}");
        assert!(seen.took / seen.answers < 50 * MS * 3 / 2, "{seen:?}");
        assert!(seen.limit_max <= 30 && seen.limit_min >= 10, "{seen:?}");
    }

    #[test]
    fn it_follows_an_api_that_bears_less_or_more() {
        let mut api = Api::new(32, 50 * MS);
        api.run(Duration::from_secs(60));
        api.workers = 4;
        let seen = api.run(Duration::from_secs(10));
        println!("{seen:?}");
        assert!(api.limit.limit() <= 8, "{}", api.limit.limit());
        api.workers = 32;
        api.run(Duration::from_secs(20));
        assert!(api.limit.limit() >= 28, "{}", api.limit.limit());
    }

    #[test]
    fn an_api_that_is_slower_for_good_is_the_norm_after_a_minute() {
        let mut api = Api::new(MAX, 20 * MS);
        api.run(Duration::from_secs(60));
        assert_eq!(api.limit.limit(), MAX);
        api.works_for = 100 * MS;
        api.run(Duration::from_secs(5));
        assert!(api.limit.limit() < MAX / 4, "{}", api.limit.limit());
        api.run(Duration::from_secs(90));
        assert!(api.limit.limit() > MAX / 2, "{}", api.limit.limit());
    }

    #[test]
    fn one_congestion_is_answered_once_and_only_what_is_too_much_cuts() {
        let mut limit = Adaptive::new(2, 40);
        let mut now = Instant::now();
        let mut round = |limit: &mut Adaptive, sign| {
            let began = now;
            limit.full();
            now += 10 * MS;
            (0..limit.limit().max(WINDOW_MIN)).for_each(|_| limit.reported(began, sign, now));
            now += 10 * MS;
        };
        (0..100).for_each(|_| round(&mut limit, ApiHealth::Healthy));
        assert_eq!(limit.limit(), 40, "no more than the largest");
        round(&mut limit, ApiHealth::Busy);
        assert_eq!(limit.limit(), 24);
        round(&mut limit, ApiHealth::Overloaded);
        assert_eq!(limit.limit(), 14);
        round(&mut limit, ApiHealth::Unhealthy);
        round(&mut limit, ApiHealth::Nothing);
        assert_eq!(limit.limit(), 14);
        (0..20).for_each(|_| round(&mut limit, ApiHealth::Busy));
        assert_eq!(limit.limit(), 2, "no less than the smallest");
    }

    #[test]
    fn it_does_not_grow_while_there_are_free_places() {
        let mut limit = Adaptive::new(3, 40);
        let now = Instant::now();
        (0..1_000).for_each(|_| limit.reported(now, ApiHealth::Healthy, now + MS));
        assert_eq!(limit.limit(), 3);
    }
}
