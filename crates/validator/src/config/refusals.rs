//! Settings for refusals in mass: `[refusals]`.

use std::time::Duration;

use anyhow::ensure;
use pipeline::ShareLimit;
use pipeline::admission::RefusalSettings;
use serde::{Deserialize, Serialize};

/// Settings for refusals in mass: `[refusals]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RefusalsSettings {
    /// Refused records, conflicts included, among the last `window` of a partition that are not duplicates, at
    /// which each further one pauses it; 0: never. All of them become dead letters.
    pub(crate) threshold: usize,
    /// Number of records, duplicates apart, of which the refused ones are counted.
    pub(crate) window: usize,
    /// Time for which the partition is paused after each of them.
    #[serde(with = "humantime_serde")]
    pub(crate) pause: Duration,
}

impl Default for RefusalsSettings {
    fn default() -> Self {
        Self {
            // Far above what one faulty producer among several causes.
            threshold: 60,
            window: 100,
            // Two dead letters a minute leave a person time, and a batch of bad records still passes.
            pause: Duration::from_secs(30),
        }
    }
}

impl RefusalsSettings {
    /// Checks what the types cannot express.
    ///
    /// # Errors
    /// Names the setting that is wrong, and the values that are allowed.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        // Kept in memory, one entry for each record of each partition.
        ensure!(
            (1..=REFUSAL_WINDOW_MAX).contains(&self.window),
            "the setting refusals.window is {}; it must be from 1 to {REFUSAL_WINDOW_MAX}",
            self.window
        );
        ensure!(
            self.threshold <= self.window,
            "the setting refusals.threshold is {}; it must be at most refusals.window, {}, or it is never \
             reached; 0 switches it off",
            self.threshold,
            self.window
        );
        ensure!(
            self.pause >= REFUSAL_PAUSE_MIN,
            "the setting refusals.pause is {:?}; it must be at least {REFUSAL_PAUSE_MIN:?}, or it holds nothing up",
            self.pause
        );
        Ok(())
    }

    /// Returns the settings for the pipeline.
    pub(super) const fn for_pipeline(&self) -> RefusalSettings {
        RefusalSettings {
            limit: ShareLimit {
                threshold: self.threshold,
                window: self.window,
            },
            pause: self.pause,
        }
    }
}

/// Maximum of `refusals.window`.
const REFUSAL_WINDOW_MAX: usize = 10_000;
/// Minimum of `refusals.pause`.
const REFUSAL_PAUSE_MIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn refusal_settings_out_of_range_are_refused() {
        let check = |change: fn(&mut RefusalsSettings), names: &str| {
            let mut config = Config::default();
            change(&mut config.refusals);
            let error = config.check().expect_err(names).to_string();
            assert!(error.contains(names), "{error}");
        };
        check(|refusals| refusals.threshold = 101, "refusals.threshold");
        check(|refusals| refusals.window = 0, "refusals.window");
        check(|refusals| refusals.window = 10_001, "refusals.window");
        check(|refusals| refusals.pause = Duration::ZERO, "refusals.pause");
        let mut off = Config::default();
        off.refusals.threshold = 0;
        assert!(off.check().is_ok());
    }
}
