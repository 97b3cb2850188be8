//! Is the program ready for work, and does its run loop still turn?
//!
//! *Ready* is a list of named conditions, each with the reason it is not met; a program is ready when none
//! is left. *Alive* is a watchdog: from its first tick on, the run loop must tick again within a limit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// The health of one program; clones are the same health.
#[derive(Clone, Debug)]
pub struct Health {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    created: Instant,
    tick_wait_max: Duration,
    /// Milliseconds since `created`, plus one; 0 is "never".
    ticked: AtomicU64,
    unmet: Mutex<BTreeMap<&'static str, String>>,
}

/// A condition that is not met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unmet {
    /// The condition's name.
    pub condition: &'static str,
    /// Why, for a person.
    pub reason: String,
}

/// What the watchdog saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// The run loop has not begun; whether the program gets that far is a question of readiness.
    NotStarted,
    /// It ticked this long ago.
    Ticking(Duration),
    /// It has not ticked for this long, which is over the limit.
    Stopped(Duration),
}

impl Health {
    /// The condition that a new [`Health`] begins with, so that nothing is ready before it says so.
    pub const STARTED: &'static str = "started";

    /// A program that is starting: [`Self::STARTED`] is not met. `tick_wait_max` is the longest time that
    /// a sound run loop may take from one tick to the next.
    #[must_use]
    pub fn new(tick_wait_max: Duration) -> Self {
        let unmet = [(Self::STARTED, "the program is starting".to_owned())].into();
        Self {
            inner: Arc::new(Inner {
                created: Instant::now(),
                tick_wait_max,
                ticked: AtomicU64::new(0),
                unmet: Mutex::new(unmet),
            }),
        }
    }

    /// The condition is met.
    pub fn set_ready(&self, condition: &'static str) {
        self.unmet().remove(condition);
    }

    /// The condition is not met, for this reason; takes the place of an earlier reason.
    pub fn set_unready(&self, condition: &'static str, reason: impl Into<String>) {
        self.unmet().insert(condition, reason.into());
    }

    /// All conditions that are not met; the program is ready if there is none.
    #[must_use]
    pub fn reasons(&self) -> Vec<Unmet> {
        self.unmet()
            .iter()
            .map(|(condition, reason)| Unmet {
                condition,
                reason: reason.clone(),
            })
            .collect()
    }

    /// The run loop turns. Cheap enough for each turn: one clock reading and one store.
    pub fn tick(&self) {
        self.tick_at(Instant::now());
    }

    /// Whether the run loop still turns.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse_at(Instant::now())
    }

    fn tick_at(&self, now: Instant) {
        self.inner.ticked.store(self.millis(now) + 1, Ordering::Relaxed);
    }

    fn pulse_at(&self, now: Instant) -> Pulse {
        let ticked = match self.inner.ticked.load(Ordering::Relaxed) {
            0 => return Pulse::NotStarted,
            ticked => ticked - 1,
        };
        let silent = Duration::from_millis(self.millis(now).saturating_sub(ticked));
        if silent > self.inner.tick_wait_max {
            Pulse::Stopped(silent)
        } else {
            Pulse::Ticking(silent)
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.inner.created);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX - 1)
    }

    fn unmet(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.inner.unmet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_no_reason_is_left() {
        let health = Health::new(Duration::from_secs(1));
        assert_eq!(health.reasons()[0].condition, Health::STARTED);
        health.set_unready("partitions", "restoring payment-orders/3");
        health.set_unready("partitions", "restoring payment-orders/4");
        health.set_ready(Health::STARTED);
        let reason = "restoring payment-orders/4".to_owned();
        assert_eq!(
            health.reasons(),
            [Unmet {
                condition: "partitions",
                reason
            }]
        );
        let same = health.clone();
        same.set_ready("partitions");
        assert_eq!(health.reasons(), []);
    }

    #[test]
    fn a_run_loop_that_stops_ticking_is_seen_after_the_limit() {
        let health = Health::new(Duration::from_secs(10));
        let at = |seconds| health.inner.created + Duration::from_secs(seconds);
        assert_eq!(health.pulse_at(at(1000)), Pulse::NotStarted);
        health.tick_at(at(0));
        assert_eq!(health.pulse_at(at(10)), Pulse::Ticking(Duration::from_secs(10)));
        assert_eq!(health.pulse_at(at(11)), Pulse::Stopped(Duration::from_secs(11)));
        health.tick_at(at(12));
        assert_eq!(health.pulse_at(at(13)), Pulse::Ticking(Duration::from_secs(1)));
    }
}
