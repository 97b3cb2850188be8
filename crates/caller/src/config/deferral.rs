//! Settings of the deferral: moving a failing call to the tail of the outbox, so that it does not block
//! others.

use std::time::Duration;

use anyhow::ensure;
use pipeline::delivery::DeferralLimits;
use serde::{Deserialize, Serialize};

/// Settings of the deferral: `[deferral]`. They bound how long a failing call may hold back its partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DeferralSettings {
    /// Maximum distance, in offsets, between the commit position and the read position of a partition. At the
    /// limit the partition is paused. After a restart these offsets are read again and skipped.
    pub(crate) window_max: u64,
    /// Time after which a failing call is deferred, if other calls succeed or its partition is full. If both
    /// hold, it is deferred at once. Its copy at the tail of the outbox continues the call. `0s`: never.
    #[serde(with = "humantime_serde")]
    pub(crate) defer_after: Duration,
    /// Time since a caller first read the call, after which a failing call is abandoned: as a dead letter if
    /// it was surely not processed, otherwise as a parked call. Look-ups end by `verify.park_after` instead.
    /// `0s`: never.
    #[serde(with = "humantime_serde")]
    pub(crate) abandon_after: Duration,
}

impl Default for DeferralSettings {
    fn default() -> Self {
        Self {
            // A few seconds of reading after a restart.
            window_max: 100_000,
            // Longer than a restart of the systems behind the API, short against the outbox's retention.
            defer_after: Duration::from_secs(300),
            // Never: only people know when a payment is no longer wanted.
            abandon_after: Duration::ZERO,
        }
    }
}

/// Minimum window in offsets. Transaction markers take offsets too, and a smaller window could consist of
/// them.
const WINDOW_MIN: u64 = 1_000;
/// Maximum window in offsets: minutes of reading after a restart.
const WINDOW_MAX: u64 = 10_000_000;
/// Minimum of `defer_after` and `abandon_after`. A deferral costs a transaction, so a few attempts come
/// first.
const AFTER_MIN: Duration = Duration::from_secs(1);
/// Maximum of `defer_after` and `abandon_after`: longer than any outbox is retained.
const AFTER_MAX: Duration = Duration::from_secs(365 * 86_400);

impl DeferralSettings {
    /// Checks the ranges of the settings.
    ///
    /// # Errors
    /// Names the setting that is invalid, and the values it may have.
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
                "the setting deferral.{name} is {after:?}; it must be 0s (never), or from 1s to 365 days"
            );
        }
        ensure!(
            self.abandon_after.is_zero() || self.abandon_after > self.defer_after,
            "the setting deferral.abandon_after is {:?}; it must be longer than deferral.defer_after, {:?}, \
             or no call would ever be deferred",
            self.abandon_after,
            self.defer_after
        );
        Ok(())
    }

    /// Returns the limits that the pipeline enforces.
    pub(crate) fn limits(&self) -> DeferralLimits {
        // The settings write "never" as 0s; the pipeline as `None`, since a zero duration would be "at once".
        let unless_zero = |after: Duration| (!after.is_zero()).then_some(after);
        DeferralLimits {
            window_max: self.window_max,
            defer_after: unless_zero(self.defer_after),
            abandon_after: unless_zero(self.abandon_after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_setting_is_named() {
        let check = |change: fn(&mut DeferralSettings), names: &str| {
            let mut settings = DeferralSettings::default();
            settings.check().expect("the defaults are valid");
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
    fn zero_means_never() {
        let limits = DeferralSettings::default().limits();
        assert_eq!(limits.defer_after, Some(Duration::from_secs(300)));
        assert_eq!(limits.abandon_after, None);
    }
}
