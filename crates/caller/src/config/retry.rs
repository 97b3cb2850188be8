//! How long to wait before the next attempt: exponential, with full jitter, capped, and without end.

use std::time::Duration;

use ::backoff::ExponentialBackoff;
use ::backoff::backoff::Backoff as _;
use serde::{Deserialize, Serialize};

/// The settings of the waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetrySettings {
    /// The longest wait before the second attempt. Each further attempt doubles it.
    #[serde(with = "humantime_serde")]
    pub(crate) backoff_initial: Duration,
    /// The longest wait before any attempt, unless the API asks for more by `Retry-After`. After an outage
    /// calls go on at the latest after this.
    #[serde(with = "humantime_serde")]
    pub(crate) backoff_max: Duration,
    /// What the API asks for by `Retry-After` is granted up to this.
    #[serde(with = "humantime_serde")]
    pub(crate) retry_after_max: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            backoff_initial: Duration::from_millis(200),
            backoff_max: Duration::from_secs(60),
            retry_after_max: Duration::from_secs(300),
        }
    }
}

impl RetrySettings {
    /// The wait after the `tries`-th attempt, drawn at random from zero to the backoff, so that calls which
    /// failed together do not come back together. What the API asked for comes on top of it.
    pub(crate) fn wait(&self, tries: u32, asked_for: Duration) -> Duration {
        asked_for.min(self.retry_after_max) + self.jittered(tries)
    }

    fn jittered(&self, tries: u32) -> Duration {
        let interval = 2_u32
            .checked_pow(tries.saturating_sub(1))
            .and_then(|times| self.backoff_initial.checked_mul(times))
            .map_or(self.backoff_max, |interval| interval.min(self.backoff_max));
        // The crate's jitter is the interval plus or minus a part of it: half, plus or minus all of that half,
        // is anything from zero to the whole.
        let mut backoff = ExponentialBackoff {
            current_interval: interval / 2,
            randomization_factor: 1.0,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        backoff.next_backoff().unwrap_or(interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest_of(tries: u32, asked_for: Duration) -> (Duration, Duration) {
        let settings = RetrySettings::default();
        let waits = || (0..2_000).map(|_| settings.wait(tries, asked_for));
        (waits().min().expect("some"), waits().max().expect("some"))
    }

    #[test]
    fn the_wait_is_anything_up_to_the_backoff_which_doubles_up_to_its_cap() {
        let ms = Duration::from_millis;
        for (tries, backoff) in [
            (1, 200),
            (2, 400),
            (5, 3_200),
            (9, 51_200),
            (10, 60_000),
            (1_000, 60_000),
        ] {
            let (shortest, longest) = longest_of(tries, Duration::ZERO);
            assert!(longest <= ms(backoff), "try {tries}: {longest:?}");
            // 2,000 draws: missing a tenth at either end has a chance of 1e-91.
            assert!(longest > ms(backoff) * 9 / 10, "try {tries}: {longest:?}");
            assert!(shortest < ms(backoff) / 10, "try {tries}: {shortest:?}");
        }
    }

    #[test]
    fn what_the_api_asks_for_is_granted_with_jitter_on_top_and_a_cap() {
        let second = Duration::from_secs(1);
        let (shortest, longest) = longest_of(1, 7 * second);
        assert!(
            shortest >= 7 * second && longest > shortest,
            "{shortest:?} {longest:?}"
        );
        let (_, longest) = longest_of(1, 86_400 * second);
        assert!(longest <= 301 * second, "{longest:?}");
    }

    #[test]
    fn no_wait_at_all_is_a_sound_setting() {
        let settings = RetrySettings {
            backoff_initial: Duration::ZERO,
            ..RetrySettings::default()
        };
        assert_eq!(settings.wait(5, Duration::ZERO), Duration::ZERO);
    }
}
