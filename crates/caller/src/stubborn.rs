//! The settings of stubborn calls: those that fail while others succeed.

use std::time::Duration;

use anyhow::ensure;
use pipeline::delivery::Stubborn;
use serde::{Deserialize, Serialize};

/// How long a call that is tried in vain may hold up its partition, or be tried at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StubbornSettings {
    /// So many offsets a partition is read ahead of its first call that is not final. They are read again, and
    /// skipped, after a restart: a few seconds' work.
    pub(crate) window_max: u64,
    /// A call that was tried in vain for so long, while others succeed or its partition has no room left, is
    /// deferred: it goes on as a copy at the outbox's end. Sooner, if both hold. `0s`: none ever is. Long enough
    /// for a restart of what stands behind the API, short beside the outbox's retention.
    #[serde(with = "humantime_serde")]
    pub(crate) defer_after: Duration,
    /// A call that fails so long after a caller has first seen it is given up: a dead letter if it was surely
    /// not processed, parked otherwise. `0s`, the default: none ever is, since only people know when a payment
    /// is no longer wanted.
    #[serde(with = "humantime_serde")]
    pub(crate) give_up_after: Duration,
}

impl Default for StubbornSettings {
    fn default() -> Self {
        Self {
            window_max: 100_000,
            defer_after: Duration::from_secs(300),
            give_up_after: Duration::ZERO,
        }
    }
}

/// Below this a partition would be paused for the gaps that transactions leave in it.
const WINDOW_MIN: u64 = 1_000;
const WINDOW_MAX: u64 = 10_000_000;
/// Deferring a call costs a transaction, so trying it again for a while comes first.
const AFTER_MIN: Duration = Duration::from_secs(1);
/// Longer than any outbox is kept.
const AFTER_MAX: Duration = Duration::from_secs(365 * 86_400);

impl StubbornSettings {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the setting that is wrong, and what it must be.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            (WINDOW_MIN..=WINDOW_MAX).contains(&self.window_max),
            "the setting stubborn.window_max is {}; it must be from {WINDOW_MIN} to {WINDOW_MAX}",
            self.window_max
        );
        for (name, after) in [
            ("defer_after", self.defer_after),
            ("give_up_after", self.give_up_after),
        ] {
            ensure!(
                after.is_zero() || (AFTER_MIN..=AFTER_MAX).contains(&after),
                "the setting stubborn.{name} is {after:?}; it must be 0s, which is never, or from 1s to 365 days"
            );
        }
        ensure!(
            self.give_up_after.is_zero() || self.give_up_after > self.defer_after,
            "the setting stubborn.give_up_after is {:?}; it must be longer than stubborn.defer_after, {:?}, or no call \
             would ever be deferred",
            self.give_up_after,
            self.defer_after
        );
        Ok(())
    }

    /// What the delivery does by it.
    pub(crate) fn limits(&self) -> Stubborn {
        let unless_never = |after: Duration| (!after.is_zero()).then_some(after);
        Stubborn {
            window_max: self.window_max,
            defer_after: unless_never(self.defer_after),
            give_up_after: unless_never(self.give_up_after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_setting_is_named() {
        let check = |change: fn(&mut StubbornSettings), names: &str| {
            let mut settings = StubbornSettings::default();
            settings.check().expect("the defaults are sound");
            change(&mut settings);
            let error = settings.check().expect_err(names).to_string();
            assert!(error.contains(names), "{error}");
        };
        check(|s| s.window_max = 999, "stubborn.window_max");
        check(
            |s| s.defer_after = Duration::from_millis(999),
            "stubborn.defer_after",
        );
        check(
            |s| s.give_up_after = Duration::from_millis(1),
            "stubborn.give_up_after",
        );
        check(
            |s| s.give_up_after = Duration::from_secs(300),
            "longer than stubborn.defer_after",
        );
    }

    #[test]
    fn zero_is_never() {
        let limits = StubbornSettings::default().limits();
        assert_eq!(limits.defer_after, Some(Duration::from_secs(300)));
        assert_eq!(limits.give_up_after, None);
    }
}
