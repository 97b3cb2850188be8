//! Rate limit: a number of requests per period, evenly spread.
//!
//! The generic cell rate algorithm: each request moves a due time on by its share of the period. A request
//! may be sent once the due time has come. A loop that wakes up late may catch up on what it missed within
//! the last [`LATENESS_MAX`]. So in any time T at most one request more than `T + LATENESS_MAX` is worth is
//! sent.
//!
//! governor (0.10) takes a clock from outside, but does not say how many requests the next moments have room
//! for without taking that room, and intents are recorded ahead by just that number.

use std::time::{Duration, Instant};

/// Settings of the rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateSettings {
    /// Number of requests per period, at least 1.
    pub requests: u32,
    /// Length of the period.
    pub per: Duration,
}

/// Maximum delay of the loop that is made up for.
// Longer, and a burst would follow each pause; shorter, and a loop that wakes up late would not reach the
// rate.
const LATENESS_MAX: Duration = Duration::from_millis(100);

/// Rate limit of the requests to the API.
#[derive(Debug)]
pub(super) struct RateLimit {
    /// Share of the period that one request takes.
    share: Duration,
    /// Time at which the next request is due, if all were sent on time.
    due: Option<Instant>,
}

impl RateLimit {
    pub(super) fn new(settings: RateSettings) -> Self {
        Self {
            // A setting of 0 is refused earlier; here it must not divide by zero.
            share: settings.per / settings.requests.max(1),
            due: None,
        }
    }

    /// Number of requests that may be sent until then.
    pub(super) fn room(&self, until: Instant) -> usize {
        match self.due {
            // Before the first request nothing was missed, so nothing is made up for.
            None => 1,
            Some(due) if until < due => 0,
            Some(due) => {
                let missed = until.duration_since(due).min(LATENESS_MAX);
                let more = missed.as_nanos() / self.share.as_nanos().max(1);
                usize::try_from(more).unwrap_or(usize::MAX).saturating_add(1)
            }
        }
    }

    /// Time at which there is room again.
    pub(super) fn room_at(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn request_sent(&mut self, now: Instant) {
        let is_late = |due: Instant| now.saturating_duration_since(due) > LATENESS_MAX;
        let due = match self.due {
            None => now,
            // Rest does not save up requests beyond what a late loop may make up for.
            Some(due) if is_late(due) => now.checked_sub(LATENESS_MAX).unwrap_or(now),
            Some(due) => due,
        };
        self.due = Some(due + self.share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn rate(requests: u32, per: Duration) -> RateLimit {
        RateLimit::new(RateSettings { requests, per })
    }

    /// Runs a loop that wakes up every `step` and sends what it may. Returns the times of the requests.
    fn play(rate: &mut RateLimit, from: Instant, steps: u32, step: Duration) -> Vec<Instant> {
        let mut sent = Vec::new();
        for at in (0..steps).map(|turn| from + step * turn) {
            while rate.room(at) > 0 {
                rate.request_sent(at);
                sent.push(at);
            }
        }
        sent
    }

    #[test]
    fn every_window_keeps_the_rate_and_wastes_none() {
        let start = Instant::now();
        for (requests, per) in [
            (1, Duration::from_secs(60)),
            (100, Duration::from_secs(60)),
            (50, Duration::from_secs(1)),
            (5_000, Duration::from_secs(1)),
        ] {
            // Wakes up late, by 7 ms.
            let sent = play(&mut rate(requests, per), start, 60_000, 7 * MS);
            let in_time = |time: Duration| time.as_secs_f64() * f64::from(requests) / per.as_secs_f64();
            let expected = in_time(7 * MS * 60_000);
            let count = u32::try_from(sent.len()).map_or(f64::MAX, f64::from);
            assert!(
                (count - expected).abs() <= expected / 100.0 + 1.0,
                "{count} of {expected}"
            );
            for window in [10 * MS, 1_000 * MS, 60_000 * MS] {
                let mut first = 0;
                for last in 0..sent.len() {
                    while sent[last].duration_since(sent[first]) > window {
                        first += 1;
                    }
                    let seen = u32::try_from(last - first + 1).map_or(f64::MAX, f64::from);
                    let allowed = in_time(window + LATENESS_MAX) + 1.0;
                    assert!(
                        seen <= allowed,
                        "{requests} per {per:?}: {seen} within {window:?}, {allowed}"
                    );
                }
            }
        }
    }

    #[test]
    fn rest_saves_up_no_more_than_the_lateness() {
        let start = Instant::now();
        let mut rate = rate(100, Duration::from_secs(1));
        rate.request_sent(start);
        assert_eq!(rate.room(start), 0);
        assert_eq!(rate.room_at(), Some(start + 10 * MS));
        let later = start + Duration::from_secs(3_600);
        assert_eq!(rate.room(later), 11);
        assert_eq!(play(&mut rate, later, 1, MS).len(), 11);
        assert_eq!(rate.room(later + 100 * MS), 10);
    }
}
