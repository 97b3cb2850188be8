//! Conversion of monotonic instants to wall-clock timestamps.

use std::time::Instant;

use records::Timestamp;

/// One moment at start-up, read from both clocks: records carry timestamps, the loop measures instants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WallClock {
    started: Instant,
    started_at: Timestamp,
}

impl WallClock {
    /// Reads the wall clock. `started` is the monotonic time of the same moment.
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            started_at: Timestamp::now(),
        }
    }

    /// Returns the timestamp of an instant, or of start-up if there is none.
    pub(crate) fn at(self, instant: Option<Instant>) -> Timestamp {
        // Counted from one reading, so that timestamps of a call keep their order when the system clock is
        // set back.
        let since = instant.map(|instant| instant.saturating_duration_since(self.started));
        let ms = since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        Timestamp(self.started_at.0.saturating_add(ms))
    }
}
