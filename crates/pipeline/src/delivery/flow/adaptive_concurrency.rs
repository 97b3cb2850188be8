//! Adaptive concurrency: finds the number of calls in flight that the API can take.
//!
//! As in TCP, and in Vector's adaptive request concurrency: the limit grows by one after each window of
//! responses that were as quick as usual, if all slots were taken. It falls to six tenths after a slow
//! window, and at once when the API asks for less (429, 503, 504) or does not respond in time.
//!
//! A window is *slow* if it takes half as long again as the quickest one of the last minute. Only requests
//! sent in a window count for it, so one congestion causes one cut. The cut goes below what the API can take,
//! where it is quick again: each cut measures the baseline again, and an API that has become slower for good
//! is the new baseline after a minute.
//!
//! The library looked at (congestion-limiter 0.1) reads its own clock and is asynchronous.

use std::time::{Duration, Instant};

use super::ApiHealth;

/// Minimum number of responses in a window; otherwise a window has as many as there may be calls in flight.
// Fewer would let one slow response decide.
const WINDOW_MIN: usize = 10;
/// Slack beside the half of the baseline: an API that responds within it is never slow.
// Without it an API that responds within a millisecond would be slow at two.
const SLACK: Duration = Duration::from_millis(5);
/// Length of a baseline period. The baseline is the quickest window of the current period and the one before.
const BASELINE_PERIOD: Duration = Duration::from_secs(30);

/// Adaptive limit of the calls in flight.
#[derive(Debug)]
pub(super) struct AdaptiveConcurrency {
    min: usize,
    max: usize,
    limit: usize,
    window: Window,
    baseline: Baseline,
}

/// Responses to requests sent since the limit changed.
#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    responses: u32,
    /// Sum of the response times.
    took: Duration,
    /// All slots were taken at some time.
    was_at_limit: bool,
}

/// Response time of the quickest recent window.
#[derive(Debug, Default)]
struct Baseline {
    period_start: Option<Instant>,
    current: Option<Duration>,
    previous: Option<Duration>,
}

impl AdaptiveConcurrency {
    /// A limit between `min` and `max`.
    pub(super) fn new(min: usize, max: usize) -> Self {
        Self {
            min,
            max,
            // From below: an API must not be overrun to find out what it can take.
            limit: min,
            window: Window::default(),
            baseline: Baseline::default(),
        }
    }

    /// Maximum number of calls in flight now.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Notes that all slots are taken.
    pub(super) fn at_limit(&mut self) {
        self.window.was_at_limit = true;
    }

    /// Takes in a response.
    pub(super) fn responded(&mut self, sent_at: Instant, health: ApiHealth, now: Instant) {
        // A request from before a cut shows the congestion that caused the cut.
        if self.window.since.is_some_and(|since| sent_at < since) {
            return;
        }
        match health {
            ApiHealth::Busy | ApiHealth::Overloaded => self.cut(now),
            // An API that is down says nothing about how much it can take; that is the breaker's.
            ApiHealth::Unhealthy | ApiHealth::Unknown => {}
            ApiHealth::Healthy => {
                self.window.responses += 1;
                self.window.took += now.saturating_duration_since(sent_at);
                let responses = usize::try_from(self.window.responses);
                if responses.is_ok_and(|responses| responses >= self.limit.max(WINDOW_MIN)) {
                    self.end_window(now);
                }
            }
        }
    }

    fn end_window(&mut self, now: Instant) {
        let took = self.window.took / self.window.responses.max(1);
        let baseline = self.baseline.update(took, now);
        if took > baseline * 3 / 2 + SLACK {
            self.cut(now);
            return;
        }
        // With free slots a quick window does not show that the API can take more.
        if self.window.was_at_limit {
            self.limit = (self.limit + 1).min(self.max);
        }
        // The start stays: requests in flight are as quick as those to come, and count for the next window
        // too.
        self.window = Window {
            since: self.window.since,
            ..Window::default()
        };
    }

    fn cut(&mut self, now: Instant) {
        self.limit = (self.limit * 6 / 10).max(self.min);
        self.window = Window {
            since: Some(now),
            ..Window::default()
        };
    }
}

impl Baseline {
    /// Takes in a window. Returns the baseline.
    fn update(&mut self, took: Duration, now: Instant) -> Duration {
        if (self.period_start).is_none_or(|start| now >= start + BASELINE_PERIOD) {
            // What the period before last measured is forgotten, so a slower API becomes the baseline in
            // time.
            (self.period_start, self.previous, self.current) = (Some(now), self.current, None);
        }
        let quickest = self.current.map_or(took, |quickest| quickest.min(took));
        self.current = Some(quickest);
        self.previous.map_or(quickest, |previous| previous.min(quickest))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const MAX: usize = 64;

    /// An API with a number of workers and a fixed processing time; other requests queue. Its client always
    /// has more.
    struct Api {
        limit: AdaptiveConcurrency,
        workers: usize,
        works_for: Duration,
        now: Instant,
        /// End of the request that each worker processes, and the time it was sent.
        at_work: BTreeSet<(Instant, u32, Instant)>,
        queue: VecDeque<Instant>,
        sent: u32,
    }

    /// Measurements of one run.
    #[derive(Debug)]
    struct Seen {
        responses: u32,
        took: Duration,
        limit_max: usize,
        limit_min: usize,
    }

    impl Api {
        fn new(workers: usize, works_for: Duration) -> Self {
            Self {
                limit: AdaptiveConcurrency::new(1, MAX),
                workers,
                works_for,
                now: Instant::now(),
                at_work: BTreeSet::new(),
                queue: VecDeque::new(),
                sent: 0,
            }
        }

        fn run(&mut self, time: Duration) -> Seen {
            let until = self.now + time;
            let mut seen = Seen {
                responses: 0,
                took: Duration::ZERO,
                limit_max: 0,
                limit_min: MAX,
            };
            while self.now < until {
                while self.at_work.len() + self.queue.len() < self.limit.limit() {
                    self.queue.push_back(self.now);
                }
                self.limit.at_limit();
                while self.at_work.len() < self.workers
                    && let Some(sent_at) = self.queue.pop_front()
                {
                    self.sent += 1;
                    // Some take a little longer than others.
                    let works_for = self.works_for * (90 + self.sent * 7 % 21) / 100;
                    self.at_work.insert((self.now + works_for, self.sent, sent_at));
                }
                let (done, _, sent_at) = self.at_work.pop_first().expect("a worker is busy");
                self.now = done;
                self.limit.responded(sent_at, ApiHealth::Healthy, done);
                seen.responses += 1;
                seen.took += done - sent_at;
                seen.limit_max = seen.limit_max.max(self.limit.limit());
                seen.limit_min = seen.limit_min.min(self.limit.limit());
            }
            seen
        }
    }

    #[test]
    fn limit_settles_at_what_the_api_can_take() {
        let mut api = Api::new(16, 50 * MS);
        api.run(Duration::from_secs(20));
        let seen = api.run(Duration::from_secs(600));
        println!("{seen:?}");
        // 16 workers respond to 320 requests per second, 192,000 in all.
        assert!(seen.responses > 192_000 * 90 / 100, "{seen:?}");
        assert!(seen.took / seen.responses < 50 * MS * 3 / 2, "{seen:?}");
        assert!(seen.limit_max <= 30 && seen.limit_min >= 10, "{seen:?}");
    }

    #[test]
    fn limit_follows_an_api_with_fewer_or_more_workers() {
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
    fn slower_api_is_the_baseline_after_a_minute() {
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
    fn one_congestion_cuts_once_and_only_overload_cuts() {
        let mut limit = AdaptiveConcurrency::new(2, 40);
        let mut now = Instant::now();
        let mut round = |limit: &mut AdaptiveConcurrency, health| {
            let sent_at = now;
            limit.at_limit();
            now += 10 * MS;
            (0..limit.limit().max(WINDOW_MIN)).for_each(|_| limit.responded(sent_at, health, now));
            now += 10 * MS;
        };
        (0..100).for_each(|_| round(&mut limit, ApiHealth::Healthy));
        assert_eq!(limit.limit(), 40, "no more than the largest");
        round(&mut limit, ApiHealth::Busy);
        assert_eq!(limit.limit(), 24);
        round(&mut limit, ApiHealth::Overloaded);
        assert_eq!(limit.limit(), 14);
        round(&mut limit, ApiHealth::Unhealthy);
        round(&mut limit, ApiHealth::Unknown);
        assert_eq!(limit.limit(), 14);
        (0..20).for_each(|_| round(&mut limit, ApiHealth::Busy));
        assert_eq!(limit.limit(), 2, "no less than the smallest");
    }

    #[test]
    fn limit_does_not_grow_with_free_slots() {
        let mut limit = AdaptiveConcurrency::new(3, 40);
        let now = Instant::now();
        (0..1_000).for_each(|_| limit.responded(now, ApiHealth::Healthy, now + MS));
        assert_eq!(limit.limit(), 3);
    }
}
