//! Readiness and liveness of a program.
//!
//! *Readiness* is a set of named conditions; the program is ready when none is unready. *Liveness* is a
//! watchdog: from its first tick on, the run loop must tick again within a limit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Health of one program. Clones share it.
#[derive(Clone, Debug)]
pub struct Health {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    created: Instant,
    tick_interval_max: Duration,
    /// Time of the last tick in milliseconds since `created`, plus one; 0 before the first tick.
    last_tick: AtomicU64,
    unready: Mutex<BTreeMap<&'static str, String>>,
}

/// Condition for which the program is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnreadyCondition {
    /// Name of the condition, the same at all times.
    pub condition: &'static str,
    /// Reason for the operator, with topic, partition and remedy where there are any.
    pub reason: String,
}

/// State of the run loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// No tick yet. A slow start is unready, not dead.
    NotStarted,
    /// The last tick is this old, within the limit.
    Ticking(Duration),
    /// The last tick is this old, over the limit: the run loop hangs.
    Stopped(Duration),
}

impl Health {
    /// Name of the condition that is unready in a new [`Health`], until the program has started.
    pub const STARTED: &'static str = "started";

    /// Creates the health of a program that is starting. `tick_interval_max` is the maximum time from one
    /// tick of the run loop to the next.
    #[must_use]
    pub fn new(tick_interval_max: Duration) -> Self {
        // Without a condition a new program would be ready: a load balancer or a rolling deployment would
        // count on it before it has checked its topics.
        let unready = [(Self::STARTED, "the program is starting".to_owned())].into();
        Self {
            inner: Arc::new(Inner {
                created: Instant::now(),
                tick_interval_max,
                last_tick: AtomicU64::new(0),
                unready: Mutex::new(unready),
            }),
        }
    }

    /// Marks a condition as ready.
    pub fn set_ready(&self, condition: &'static str) {
        self.unready().remove(condition);
    }

    /// Marks a condition as unready, for a reason that replaces an earlier one.
    pub fn set_unready(&self, condition: &'static str, reason: impl Into<String>) {
        self.unready().insert(condition, reason.into());
    }

    /// Returns the unready conditions; the program is ready if there are none.
    #[must_use]
    pub fn unready_conditions(&self) -> Vec<UnreadyCondition> {
        self.unready()
            .iter()
            .map(|(condition, reason)| UnreadyCondition {
                condition,
                reason: reason.clone(),
            })
            .collect()
    }

    /// Records that the run loop works. Cheap enough for each iteration: one clock reading and one atomic
    /// store.
    pub fn tick(&self) {
        self.tick_at(Instant::now());
    }

    /// Returns the liveness of the run loop.
    #[must_use]
    pub fn liveness(&self) -> Liveness {
        self.liveness_at(Instant::now())
    }

    fn tick_at(&self, now: Instant) {
        // Relaxed: no other memory is published with the time of the tick.
        self.inner
            .last_tick
            .store(self.millis(now) + 1, Ordering::Relaxed);
    }

    fn liveness_at(&self, now: Instant) -> Liveness {
        let last_tick = match self.inner.last_tick.load(Ordering::Relaxed) {
            0 => return Liveness::NotStarted,
            last_tick => last_tick - 1,
        };
        // Saturating: the run loop may have ticked after `now` was read.
        let age = Duration::from_millis(self.millis(now).saturating_sub(last_tick));
        if age > self.inner.tick_interval_max {
            Liveness::Stopped(age)
        } else {
            Liveness::Ticking(age)
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.inner.created);
        // One less than the maximum, so that the caller can add one.
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX - 1)
    }

    fn unready(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, String>> {
        // A thread that panicked with the lock leaves the map whole, and health must be reported all the more
        // then.
        self.inner.unready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_ready_without_unready_conditions() {
        let health = Health::new(Duration::from_secs(1));
        assert_eq!(health.unready_conditions()[0].condition, Health::STARTED);
        health.set_unready("partitions", "restoring payment-orders/3");
        health.set_unready("partitions", "restoring payment-orders/4");
        health.set_ready(Health::STARTED);
        let reason = "restoring payment-orders/4".to_owned();
        assert_eq!(
            health.unready_conditions(),
            [UnreadyCondition {
                condition: "partitions",
                reason
            }]
        );
        let same = health.clone();
        same.set_ready("partitions");
        assert_eq!(health.unready_conditions(), []);
    }

    #[test]
    fn run_loop_without_ticks_stops_after_the_limit() {
        let health = Health::new(Duration::from_secs(10));
        let at = |seconds| health.inner.created + Duration::from_secs(seconds);
        assert_eq!(health.liveness_at(at(1000)), Liveness::NotStarted);
        health.tick_at(at(0));
        assert_eq!(
            health.liveness_at(at(10)),
            Liveness::Ticking(Duration::from_secs(10))
        );
        assert_eq!(
            health.liveness_at(at(11)),
            Liveness::Stopped(Duration::from_secs(11))
        );
        health.tick_at(at(12));
        assert_eq!(
            health.liveness_at(at(13)),
            Liveness::Ticking(Duration::from_secs(1))
        );
    }
}
