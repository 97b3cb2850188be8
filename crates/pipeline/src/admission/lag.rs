//! Time by which the decisions lag behind the orders, for the metrics.

use std::time::Duration;

use records::Timestamp;

/// Lag of the decided orders since the last time it was asked for. Cheap: two numbers that each order changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrdersLag {
    /// Largest time from an order's timestamp to its decision, in milliseconds; `None` if none was decided.
    largest_ms: Option<i64>,
    /// Timestamp of the last order that was decided.
    last_at: Option<Timestamp>,
}

impl OrdersLag {
    /// Takes in that an order is decided at `wall`.
    pub fn decided(&mut self, at: Option<Timestamp>, wall: Timestamp) {
        let Some(at) = at else { return };
        self.largest_ms = self.largest_ms.max(Some(wall.0.saturating_sub(at.0)));
        self.last_at = Some(at);
    }

    /// Returns the lag, and starts again: 0 when all is read; else the largest of the orders that were decided since, or
    /// the time since the last one, if none was.
    pub fn take(&mut self, is_behind: bool, wall: Timestamp) -> Duration {
        let largest_ms = self.largest_ms.take();
        if !is_behind {
            // An old order after a quiet time is no lag, and the next one is measured from its own timestamp.
            self.last_at = None;
            return Duration::ZERO;
        }
        let since_last = || self.last_at.map(|at| wall.0.saturating_sub(at.0));
        // A clock behind that of a producer makes it negative.
        let ms = largest_ms.or_else(since_last).unwrap_or_default();
        Duration::from_millis(u64::try_from(ms).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(lag: &mut OrdersLag, is_behind: bool, wall_s: i64) -> u64 {
        lag.take(is_behind, Timestamp(wall_s * 1000)).as_secs()
    }

    fn decided(lag: &mut OrdersLag, at_s: i64, wall_s: i64) {
        lag.decided(Some(Timestamp(at_s * 1000)), Timestamp(wall_s * 1000));
    }

    #[test]
    fn lag_is_the_largest_since_the_last_look() {
        let mut lag = OrdersLag::default();
        decided(&mut lag, 40, 100);
        decided(&mut lag, 90, 101);
        assert_eq!(seconds(&mut lag, true, 105), 60);
        decided(&mut lag, 104, 106);
        assert_eq!(seconds(&mut lag, true, 110), 2);
    }

    #[test]
    fn lag_grows_while_nothing_is_decided() {
        let mut lag = OrdersLag::default();
        assert_eq!(seconds(&mut lag, true, 100), 0, "nothing is known yet");
        decided(&mut lag, 100, 101);
        assert_eq!(seconds(&mut lag, true, 105), 1);
        assert_eq!(seconds(&mut lag, true, 110), 10);
        assert_eq!(seconds(&mut lag, true, 170), 70);
    }

    #[test]
    fn nothing_lags_when_all_is_read() {
        let mut lag = OrdersLag::default();
        decided(&mut lag, 40, 100);
        assert_eq!(seconds(&mut lag, false, 105), 0);
        // The topic was quiet for a day: an order that has just come does not lag by that.
        assert_eq!(seconds(&mut lag, true, 86_500), 0);
    }

    #[test]
    fn order_from_the_future_does_not_lag() {
        let mut lag = OrdersLag::default();
        decided(&mut lag, 200, 100);
        lag.decided(None, Timestamp(100_000));
        assert_eq!(seconds(&mut lag, true, 105), 0);
    }
}
