//! The settings of deferral calls: those that fail while others succeed.

use std::time::Duration;

use anyhow::ensure;
use pipeline::delivery::DeferralLimits;
use serde::{Deserialize, Serialize};

/// How long a call that is tried in vain may hold up its partition, or be tried at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DeferralSettings {
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
    pub(crate) abandon_after: Duration,
}

impl Default for DeferralSettings {
    fn default() -> Self {
        Self {
            window_max: 100_000,
            defer_after: Duration::from_secs(300),
            abandon_after: Duration::ZERO,
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

impl DeferralSettings {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the setting that is wrong, and what it must be.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            (WINDOW_MIN..=WINDOW_MAX).contains(&self.window_max),
            "the setting deferral.window_max is {}; it must be from {WINDOW_MIN} to {WINDOW_MAX}",
            self.window_max
        );
        for (name, after) in [
            ("defer_after", self.defer_after),
            ("abandon_after", self.abandon_after),
        ] {
            ensure!(
                after.is_zero() || (AFTER_MIN..=AFTER_MAX).contains(&after),
                "the setting deferral.{name} is {after:?}; it must be 0s, which is never, or from 1s to 365 days"
            );
        }
        ensure!(
            self.abandon_after.is_zero() || self.abandon_after > self.defer_after,
            "the setting deferral.abandon_after is {:?}; it must be longer than deferral.defer_after, {:?}, or no call \
             would ever be deferred",
            self.abandon_after,
            self.defer_after
        );
        Ok(())
    }

    /// What the delivery does by it.
    pub(crate) fn limits(&self) -> DeferralLimits {
        let unless_never = |after: Duration| (!after.is_zero()).then_some(after);
        DeferralLimits {
            window_max: self.window_max,
            defer_after: unless_never(self.defer_after),
            abandon_after: unless_never(self.abandon_after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_setting_is_named() {
        let check = |change: fn(&mut DeferralSettings), names: &str| {
            let mut settings = DeferralSettings::default();
            settings.check().expect("the defaults are sound");
            change(&mut settings);
            let error = settings.check().expect_err(names).to_string();
            assert!(error.contains(names), "{error}");
        };
        check(|s| s.window_max = 999, "deferral.window_max");
        check(
            |s| s.defer_after = Duration::from_millis(999),
            "deferral.defer_after",
        );
        check(
            |s| s.abandon_after = Duration::from_millis(1),
            "deferral.abandon_after",
        );
        check(
            |s| s.abandon_after = Duration::from_secs(300),
            "longer than deferral.defer_after",
        );
    }

    #[test]
    fn zero_is_never() {
        let limits = DeferralSettings::default().limits();
        assert_eq!(limits.defer_after, Some(Duration::from_secs(300)));
        assert_eq!(limits.abandon_after, None);
    }
}
