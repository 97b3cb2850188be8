//! The retention window: for how long the key of an admitted order is remembered, and which orders may be older.
//!
//! An order is recorded at its record's time, or at that of a newer order before it. So recorded times rise with the
//! changelog's offsets, and what is forgotten is its start. If another record with its key comes within the window, the
//! key is recorded again: read once more, that record must not be a new order because the first one is forgotten. No
//! clock decides what is forgotten: a wrong one would have
//! keys forgotten whose orders can come again.

use std::time::Duration;

use records::dead_letter::Reason;
use records::{Forgotten, Offset, Timestamp};

use super::rules::Refusal;

/// Time by which a record may be ahead of the wall clock.
// Kafka's own default of message.timestamp.after.max.ms. A record that is further ahead would move the window, and
// have keys forgotten whose orders are not older than the retention.
const AHEAD_MAX: Duration = Duration::from_secs(3600);

/// Time by which a key's recorded time may be behind a later record with the key, without being recorded again.
// Not more than AHEAD_MAX, by which keys are kept for longer than their orders are accepted.
const LAG_MAX: Duration = AHEAD_MAX;

/// Difference of the recorded times of two marks.
const MARK_INTERVAL: Duration = Duration::from_secs(1200);

/// Recorded time of an order: those behind it are recorded at that time or later.
type Mark = (Offset, Timestamp);

/// Retention window of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Recorded time of the newest admitted order; `None` if there is none.
    newest: Option<Timestamp>,
    /// Recorded time of the order that was admitted last; `None` if none was since the window was restored.
    last_admitted: Option<Timestamp>,
    /// Keys that are forgotten, or that the next transaction notes as forgotten.
    forgotten: Option<Forgotten>,
    /// Set until a transaction has noted what is forgotten.
    is_unnoted: bool,
    /// Recorded times of two orders of the last while, the older one first.
    marks: [Option<Mark>; 2],
}

impl Window {
    /// Creates the window of a partition whose newest order was recorded at this time, and which has forgotten these
    /// keys.
    #[must_use]
    pub const fn new(newest: Option<Timestamp>, forgotten: Option<Forgotten>) -> Self {
        Self {
            newest,
            last_admitted: None,
            forgotten,
            is_unnoted: false,
            marks: [None; 2],
        }
    }

    /// Returns the time to record an order with an unknown key at. `at` is its record's time, `retention` is `None` if
    /// keys are kept for ever.
    ///
    /// # Errors
    /// The order may have been admitted and forgotten, or its time would move the window too far.
    pub fn record(
        &self,
        retention: Option<Duration>,
        at: Option<Timestamp>,
        wall: Timestamp,
    ) -> Result<Timestamp, Refusal> {
        let oldest = self.oldest_accepted(retention);
        let Some(at) = at else {
            return match oldest {
                Some(oldest) => Err(without_time(oldest)),
                None => Ok(self.newest.unwrap_or(wall)),
            };
        };
        if retention.is_some() && at > later(wall, AHEAD_MAX) {
            return Err(from_the_future(at, wall));
        }
        if let Some(oldest) = oldest.filter(|oldest| at < *oldest) {
            return Err(too_old(at, oldest));
        }
        Ok(self.newest.map_or(at, |newest| newest.max(at)))
    }

    /// Takes in an admitted order that was recorded at this time.
    pub fn admitted(&mut self, order: Offset, recorded: Timestamp) {
        self.newest = self.newest.max(Some(recorded));
        self.last_admitted = Some(recorded);
        if self.marks[1].is_none_or(|(_, at)| later(at, MARK_INTERVAL) <= recorded) {
            self.marks = [self.marks[1], Some((order, recorded))];
        }
    }

    /// Returns the time to record a known key at again, whose order is `first`, and which another record has; `None` if
    /// it need not be.
    #[must_use]
    pub fn record_again(
        &self,
        retention: Option<Duration>,
        first: Offset,
        at: Option<Timestamp>,
        wall: Timestamp,
    ) -> Option<Timestamp> {
        retention?;
        // A time from the future would move the window, as that of a new order.
        let at = at.filter(|at| *at <= later(wall, AHEAD_MAX));
        let recorded = at.max(self.newest)?;
        let is_recent = |(mark, at): &Mark| first >= *mark && later(*at, LAG_MAX) >= recorded;
        // Most duplicates follow their order soon, and cost nothing.
        (!self.marks.iter().flatten().any(is_recent)).then_some(recorded)
    }

    /// Takes in a key that was recorded again at this time.
    pub fn seen_again(&mut self, recorded: Timestamp) {
        self.newest = self.newest.max(Some(recorded));
    }

    /// Returns the recorded time of the newest admitted order.
    #[must_use]
    pub const fn newest(&self) -> Option<Timestamp> {
        self.newest
    }

    /// Returns what is wrong with the wall clock if it is so far behind the newest order that it was set back.
    #[must_use]
    pub fn clock_behind(&self, retention: Option<Duration>, wall: Timestamp) -> Option<String> {
        let newest = self.newest.filter(|_| retention.is_some())?;
        // No order was more than this ahead of a clock when it was admitted. Once more, so that clocks which differ a
        // little halt nothing where a producer's is ahead by just that much, as a time zone is.
        (newest > later(wall, 2 * AHEAD_MAX)).then(|| {
            format!(
                "the clock of this machine is at {}, and the newest order that was admitted is of {}: the clock is \
                 wrong, or was wrong by more than an hour when that order was admitted. Orders of the present would be \
                 refused as from the future. Correct the clock, and restart the validator",
                shown(wall),
                shown(newest)
            )
        })
    }

    /// Returns the recorded time before which keys can be forgotten; `None` if none can.
    #[must_use]
    pub fn cutoff(&self, retention: Option<Duration>) -> Option<Timestamp> {
        // Earlier than what is refused: an entry that an earlier version wrote, or the operator's command, is recorded
        // at a wall clock, which its order may have been ahead of.
        let kept = retention?.saturating_add(AHEAD_MAX);
        // By an order and not by a key that was recorded again: the newest order of the outbox stays known, by which a restore
        // sees whether the changelog has lost its end.
        Some(earlier(self.last_admitted?, kept))
    }

    /// Has keys forgotten: the next transaction notes it, and their orders are refused from now on.
    pub fn forget(&mut self, more: Forgotten) {
        let before = self.forgotten;
        let merged = before.map_or(more, |before| Forgotten {
            below: before.below.max(more.below),
            before: before.before.max(more.before),
        });
        self.is_unnoted |= before != Some(merged);
        self.forgotten = Some(merged);
    }

    /// Returns what is forgotten, for the note of the next transaction.
    #[must_use]
    pub const fn forgotten(&self) -> Option<Forgotten> {
        self.forgotten
    }

    /// Returns what can be removed, once a transaction with [`Self::forgotten`] was committed.
    pub fn noted(&mut self) -> Option<Forgotten> {
        self.forgotten.filter(|_| std::mem::take(&mut self.is_unnoted))
    }

    /// Returns the record time before which an unknown order is refused.
    fn oldest_accepted(&self, retention: Option<Duration>) -> Option<Timestamp> {
        let of_window = self
            .newest
            .zip(retention)
            .map(|(newest, retention)| earlier(newest, retention));
        // Also without a window: what was forgotten while there was one stays forgotten.
        self.forgotten.map(|forgotten| forgotten.before).max(of_window)
    }
}

fn too_old(at: Timestamp, oldest: Timestamp) -> Refusal {
    Refusal {
        reason: Reason::TooOld,
        detail: format!(
            "the record is of {}, and keys of orders before {} are forgotten (store.retention): whether an order with \
             this key was admitted is not known here; it causes no call",
            shown(at),
            shown(oldest)
        ),
    }
}

fn without_time(oldest: Timestamp) -> Refusal {
    Refusal {
        reason: Reason::TooOld,
        detail: format!(
            "the record has no timestamp, and keys of orders before {} are forgotten (store.retention): whether an order \
             with this key was admitted is not known here; it causes no call",
            shown(oldest)
        ),
    }
}

fn from_the_future(at: Timestamp, wall: Timestamp) -> Refusal {
    Refusal {
        reason: Reason::FromTheFuture,
        detail: format!(
            "the record is of {}, which is more than {} min ahead of the validator's clock ({}): keys would be forgotten \
             too early if it counted; it causes no call",
            shown(at),
            AHEAD_MAX.as_secs() / 60,
            shown(wall)
        ),
    }
}

/// Returns a time as an operator reads it.
fn shown(Timestamp(ms): Timestamp) -> String {
    // Years that the form has no digits for are those of a wrong clock.
    const MAX_MS: u64 = 253_402_300_799_999;
    match u64::try_from(ms).ok().filter(|ms| *ms <= MAX_MS) {
        Some(ms) => {
            let at = std::time::UNIX_EPOCH + Duration::from_millis(ms);
            humantime::format_rfc3339_millis(at).to_string()
        }
        None => format!("{ms} ms since 1970"),
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn earlier(Timestamp(at): Timestamp, by: Duration) -> Timestamp {
    Timestamp(at.saturating_sub(milliseconds(by)))
}

fn later(Timestamp(at): Timestamp, by: Duration) -> Timestamp {
    Timestamp(at.saturating_add(milliseconds(by)))
}

#[cfg(test)]
mod tests {
    use records::Offset;

    use super::*;

    const HOUR: i64 = 3_600_000;
    const DAY: i64 = 24 * HOUR;
    const NOW: i64 = 20_000 * DAY;
    const RETENTION: Option<Duration> = Some(Duration::from_secs(30 * 24 * 3600));

    fn at(ms: i64) -> Option<Timestamp> {
        Some(Timestamp(ms))
    }

    fn forgotten(below: i64, before: i64) -> Forgotten {
        Forgotten {
            below: Offset(below),
            before: Timestamp(before),
        }
    }

    /// Returns the recorded time of an order, or the reason for which it is refused.
    fn recorded(
        window: &Window,
        retention: Option<Duration>,
        time: Option<Timestamp>,
    ) -> Result<i64, Reason> {
        let recorded = window.record(retention, time, Timestamp(NOW));
        recorded.map(|at| at.0).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn recorded_times_never_fall() {
        let mut window = Window::default();
        for (time, expected) in [(NOW - 5, NOW - 5), (NOW - 9, NOW - 5), (NOW + 3, NOW + 3)] {
            assert_eq!(recorded(&window, RETENTION, at(time)), Ok(expected));
            window.admitted(Offset(0), Timestamp(expected));
        }
        assert_eq!(window.newest(), at(NOW + 3));
    }

    #[test]
    fn order_older_than_the_window_is_refused() {
        let window = Window::new(at(NOW), None);
        let oldest = NOW - 30 * DAY;
        assert_eq!(recorded(&window, RETENTION, at(oldest)), Ok(NOW));
        assert_eq!(recorded(&window, RETENTION, at(oldest - 1)), Err(Reason::TooOld));
        assert_eq!(recorded(&window, None, at(0)), Ok(NOW), "kept for ever");
        // The first order of a partition may have any age: nothing was admitted yet.
        assert_eq!(recorded(&Window::default(), RETENTION, at(0)), Ok(0));
    }

    #[test]
    fn forgotten_orders_stay_refused_in_a_larger_window() {
        let window = Window::new(at(NOW), Some(forgotten(7, NOW - 20 * DAY)));
        for retention in [RETENTION, None] {
            let before = recorded(&window, retention, at(NOW - 20 * DAY - 1));
            assert_eq!(before, Err(Reason::TooOld), "{retention:?}");
            assert_eq!(recorded(&window, retention, at(NOW - 20 * DAY)), Ok(NOW));
        }
    }

    #[test]
    fn order_from_the_future_is_refused() {
        let window = Window::new(at(NOW - DAY), None);
        assert_eq!(recorded(&window, RETENTION, at(NOW + HOUR)), Ok(NOW + HOUR));
        assert_eq!(
            recorded(&window, RETENTION, at(NOW + HOUR + 1)),
            Err(Reason::FromTheFuture)
        );
        assert_eq!(recorded(&window, None, at(NOW + DAY)), Ok(NOW + DAY), "no window");
    }

    #[test]
    fn order_without_a_time_counts_as_too_old() {
        let window = Window::new(at(NOW - 5), None);
        assert_eq!(recorded(&window, RETENTION, None), Err(Reason::TooOld));
        assert_eq!(recorded(&window, None, None), Ok(NOW - 5));
        assert_eq!(recorded(&Window::default(), RETENTION, None), Ok(NOW));
        let had_one = Window::new(None, Some(forgotten(7, 1)));
        assert_eq!(recorded(&had_one, None, None), Err(Reason::TooOld));
    }

    #[test]
    fn clock_that_was_set_back_is_named_with_the_newest_order() {
        let window = Window::new(at(NOW), None);
        assert_eq!(window.clock_behind(RETENTION, Timestamp(NOW - 2 * HOUR)), None);
        let wrong = window.clock_behind(RETENTION, Timestamp(NOW - 365 * DAY));
        let text = wrong.expect("behind");
        assert!(
            text.contains("at 2023-10-05T00:00:00.000Z") && text.contains("of 2024-10-04T00:00:00.000Z"),
            "{text}"
        );
        assert_eq!(window.clock_behind(None, Timestamp(0)), None, "no window");
        assert_eq!(window.clock_behind(RETENTION, Timestamp(NOW + 365 * DAY)), None);
        assert_eq!(Window::default().clock_behind(RETENTION, Timestamp(0)), None);
    }

    #[test]
    fn keys_are_forgotten_later_than_their_orders_are_refused() {
        let mut window = Window::new(at(NOW + DAY), None);
        assert_eq!(window.cutoff(RETENTION), None, "no order since the restore");
        window.admitted(Offset(1), Timestamp(NOW));
        window.seen_again(Timestamp(NOW + 2 * DAY));
        assert_eq!(window.cutoff(RETENTION), at(NOW - 30 * DAY - HOUR));
        assert_eq!(window.cutoff(None), None);
        assert_eq!(Window::default().cutoff(RETENTION), None);
    }

    #[test]
    fn key_is_recorded_again_unless_it_was_a_moment_ago() {
        let mut window = Window::new(at(NOW - DAY), None);
        let again = |window: &Window, first, time| {
            let recorded = window.record_again(RETENTION, Offset(first), at(time), Timestamp(NOW));
            recorded.map(|at| at.0)
        };
        assert_eq!(
            again(&window, 3, NOW - DAY - 5),
            Some(NOW - DAY),
            "recorded at some time before"
        );
        assert_eq!(again(&window, 3, NOW + DAY), Some(NOW - DAY), "from the future");
        for (order, time) in [(10, NOW - HOUR / 2), (11, NOW - HOUR / 2 + 1), (12, NOW)] {
            window.admitted(Offset(order), Timestamp(time));
        }
        assert_eq!(again(&window, 9, NOW), Some(NOW));
        assert_eq!(again(&window, 10, NOW), None);
        assert_eq!(
            again(&window, 10, NOW + HOUR),
            Some(NOW + HOUR),
            "more than an hour later"
        );
        assert_eq!(again(&window, 12, NOW + HOUR), None);
        assert_eq!(
            window.record_again(None, Offset(9), at(NOW), Timestamp(NOW)),
            None
        );
    }

    #[test]
    fn what_is_forgotten_only_grows_and_is_removed_once() {
        let mut window = Window::new(at(NOW), Some(forgotten(7, 70)));
        assert_eq!(window.noted(), None, "restored with it");
        window.forget(forgotten(9, 60));
        assert_eq!(window.forgotten(), Some(forgotten(9, 70)));
        assert_eq!(window.noted(), Some(forgotten(9, 70)));
        window.forget(forgotten(8, 65));
        assert_eq!(window.noted(), None, "nothing new");
    }
}
