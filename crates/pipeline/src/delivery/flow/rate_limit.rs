//! The rate limit: so many requests in such a time, evenly.
//!
//! The generic cell rate algorithm: each request moves a time on by its share of the rate, and may begin if that time
//! is not too far ahead. *Too far* allows for a loop that wakes up late: what was missed within the last
//! [`LATENESS_MAX`] is made up for. In any time T no more than `T + LATENESS_MAX` worth of requests begin, and one.
//!
//! It is two lines of arithmetic and therefore our own: governor (0.10) can be given a clock that is set from outside,
//! but does not tell how many requests the next moments have room for without taking their room, and beginnings are
//! noted ahead by just that number.

use std::time::{Duration, Instant};

/// How many requests may begin in what time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateSettings {
    /// So many requests; at least 1.
    pub requests: u32,
    /// In this time.
    pub per: Duration,
}

/// So much of what a late loop has missed is made up for.
const LATENESS_MAX: Duration = Duration::from_millis(100);

/// The rate limit.
#[derive(Debug)]
pub(super) struct Rate {
    /// The share of one request.
    share: Duration,
    /// When the next request would be due, if all had begun on time.
    due: Option<Instant>,
}

impl Rate {
    pub(super) fn new(settings: RateSettings) -> Self {
        Self {
            share: settings.per / settings.requests.max(1),
            due: None,
        }
    }

    /// How many requests may begin until then.
    pub(super) fn room(&self, until: Instant) -> usize {
        match self.due {
            // Nothing was missed when nothing was asked for.
            None => 1,
            Some(due) if until < due => 0,
            Some(due) => {
                let missed = until.duration_since(due).min(LATENESS_MAX);
                let more = missed.as_nanos() / self.share.as_nanos().max(1);
                usize::try_from(more).unwrap_or(usize::MAX).saturating_add(1)
            }
        }
    }

    /// When there is room again.
    pub(super) fn room_at(&self) -> Option<Instant> {
        self.due
    }

    /// A request begins.
    pub(super) fn begun(&mut self, now: Instant) {
        let missed = |due: Instant| now.saturating_duration_since(due) > LATENESS_MAX;
        let due = match self.due {
            None => now,
            Some(due) if missed(due) => now.checked_sub(LATENESS_MAX).unwrap_or(now),
            Some(due) => due,
        };
        self.due = Some(due + self.share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn rate(requests: u32, per: Duration) -> Rate {
        Rate::new(RateSettings { requests, per })
    }

    /// Plays a loop that wakes up each `step` and begins what it may. Returns the times of the requests.
    fn play(rate: &mut Rate, from: Instant, steps: u32, step: Duration) -> Vec<Instant> {
        let mut begun = Vec::new();
        for at in (0..steps).map(|turn| from + step * turn) {
            while rate.room(at) > 0 {
                rate.begun(at);
                begun.push(at);
            }
        }
        begun
    }

    #[test]
    fn no_time_sees_more_than_its_share_and_none_is_wasted() {
        let start = Instant::now();
        for (requests, per) in [
            (1, Duration::from_secs(60)),
            (100, Duration::from_secs(60)),
            (50, Duration::from_secs(1)),
            (5_000, Duration::from_secs(1)),
        ] {
            // Wakes up late, by 7 ms.
            let begun = play(&mut rate(requests, per), start, 60_000, 7 * MS);
            let in_time = |time: Duration| time.as_secs_f64() * f64::from(requests) / per.as_secs_f64();
            let expected = in_time(7 * MS * 60_000);
            let count = u32::try_from(begun.len()).map_or(f64::MAX, f64::from);
            assert!(
                (count - expected).abs() <= expected / 100.0 + 1.0,
                "{count} of {expected}"
            );
            for window in [10 * MS, 1_000 * MS, 60_000 * MS] {
                let mut first = 0;
                for last in 0..begun.len() {
                    while begun[last].duration_since(begun[first]) > window {
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
    fn rest_saves_up_no_more_than_a_moments_worth() {
        let start = Instant::now();
        let mut rate = rate(100, Duration::from_secs(1));
        rate.begun(start);
        assert_eq!(rate.room(start), 0);
        assert_eq!(rate.room_at(), Some(start + 10 * MS));
        let later = start + Duration::from_secs(3_600);
        assert_eq!(rate.room(later), 11);
        assert_eq!(play(&mut rate, later, 1, MS).len(), 11);
        assert_eq!(rate.room(later + 100 * MS), 10);
    }
}
