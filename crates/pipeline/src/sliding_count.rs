//! Count of one kind of event among the last ones.

use std::collections::VecDeque;
use std::time::Instant;

/// Settings of a limit on one kind of event: a share, and with it a minimum number.
// Two numbers and no share: a share of the first three events would be reached by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareLimit {
    /// Number of events of the kind at which the limit is reached; 0: never.
    pub threshold: usize,
    /// Number of last events among which they are counted.
    pub window: usize,
}

impl ShareLimit {
    /// A limit that is never reached.
    pub const OFF: Self = Self {
        threshold: 0,
        window: 0,
    };
}

/// Last events, and which of them are of the kind that is counted.
#[derive(Clone, Debug)]
pub(crate) struct SlidingCount {
    limit: ShareLimit,
    /// Times of those that count, in the order of the events.
    events: VecDeque<Option<Instant>>,
    counted: usize,
}

impl SlidingCount {
    pub(crate) fn new(limit: ShareLimit) -> Self {
        Self {
            limit,
            events: VecDeque::new(),
            counted: 0,
        }
    }

    /// Adds an event. The oldest one leaves a full window.
    pub(crate) fn push(&mut self, counts: bool, now: Instant) {
        if self.limit.threshold == 0 {
            return;
        }
        if self.events.len() >= self.limit.window
            && let Some(Some(_)) = self.events.pop_front()
        {
            self.counted -= 1;
        }
        self.events.push_back(counts.then_some(now));
        self.counted += usize::from(counts);
    }

    pub(crate) fn is_at_limit(&self) -> bool {
        self.limit.threshold > 0 && self.counted >= self.limit.threshold
    }

    /// Number of events that count, and of all.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.counted, self.events.len())
    }

    /// Time of the first event that counts.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.events.iter().find_map(|event| *event)
    }

    pub(crate) fn clear(&mut self) {
        self.events.clear();
        self.counted = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMIT: ShareLimit = ShareLimit {
        threshold: 6,
        window: 10,
    };

    #[test]
    fn limit_needs_a_share_and_a_minimum_number() {
        let now = Instant::now();
        let mut count = SlidingCount::new(LIMIT);
        // Half of the events, for ever.
        for turn in 0..1_000 {
            count.push(turn % 2 == 0, now);
            assert!(!count.is_at_limit(), "{turn}");
        }
        assert_eq!(count.counts(), (5, 10));
        count.clear();
        // All of them, but few.
        (0..5).for_each(|_| count.push(true, now));
        assert!(!count.is_at_limit());
        count.push(true, now);
        assert!(count.is_at_limit());
    }

    #[test]
    fn old_events_leave_the_window() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut count = SlidingCount::new(LIMIT);
        (0..6).for_each(|second| count.push(true, at(second)));
        (6..10).for_each(|second| count.push(false, at(second)));
        assert!(count.is_at_limit());
        assert_eq!(count.since(), Some(at(0)));
        count.push(false, at(10));
        assert!(!count.is_at_limit());
        assert_eq!((count.counts(), count.since()), ((5, 10), Some(at(1))));
    }

    #[test]
    fn threshold_of_zero_counts_nothing() {
        let mut count = SlidingCount::new(ShareLimit::OFF);
        (0..1_000).for_each(|_| count.push(true, Instant::now()));
        assert!(!count.is_at_limit());
        assert_eq!(count.counts(), (0, 0));
    }
}
