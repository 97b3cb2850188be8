//! Retries: the backoff before the next attempt (exponential, with full jitter, capped), and the limit on
//! ambiguous attempts.

use std::num::NonZeroU32;
use std::time::Duration;

use ::backoff::ExponentialBackoff;
use ::backoff::backoff::Backoff as _;
use serde::{Deserialize, Serialize};

/// Settings of retries: `[retry]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetrySettings {
    /// Maximum wait before the second attempt. It doubles with each further attempt. The wait itself is
    /// random, from zero to the maximum.
    #[serde(with = "humantime_serde")]
    pub(crate) backoff_initial: Duration,
    /// Maximum wait before any attempt, unless `Retry-After` asks for more.
    #[serde(with = "humantime_serde")]
    pub(crate) backoff_max: Duration,
    /// Maximum wait that is granted to a `Retry-After` header; a longer one is cut to it.
    #[serde(with = "humantime_serde")]
    pub(crate) retry_after_max: Duration,
    /// Number of ambiguous responses to one call under the policy `retry` after which it is parked; 0: no
    /// limit. Deferrals do not restart the count; a change of the partition's owner does.
    pub(crate) ambiguous_attempts_max: u32,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            backoff_initial: Duration::from_millis(200),
            // Also the longest delay of a call after an outage.
            backoff_max: Duration::from_secs(60),
            // A wrong header (a date in the wrong time zone, for example) must not stop a payment for hours.
            retry_after_max: Duration::from_secs(300),
            // Each of them may be a charge. An API that still leaves the outcome unknown after about a minute of
            // backoff needs a person more than an eleventh charge.
            ambiguous_attempts_max: 10,
        }
    }
}

impl RetrySettings {
    /// Returns the limit on ambiguous attempts; `None`: no limit.
    pub(crate) fn ambiguous_attempts_max(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.ambiguous_attempts_max)
    }

    /// Returns the wait after attempt number `tries`: a random time up to the backoff, plus the `Retry-After`
    /// of the response.
    pub(crate) fn wait(&self, tries: u32, retry_after: Duration) -> Duration {
        // The jitter comes on top: calls that were refused together were given the same time to return.
        retry_after.min(self.retry_after_max) + self.jittered(tries)
    }

    fn jittered(&self, tries: u32) -> Duration {
        // Overflow means a wait far beyond the cap.
        let interval = 2_u32
            .checked_pow(tries.saturating_sub(1))
            .and_then(|times| self.backoff_initial.checked_mul(times))
            .map_or(self.backoff_max, |interval| interval.min(self.backoff_max));
        // The crate draws from the interval plus or minus a fraction of it. Half the interval, plus or minus
        // all of that half, is full jitter: anything from zero to the interval.
        let mut backoff = ExponentialBackoff {
            current_interval: interval / 2,
            randomization_factor: 1.0,
            // No end: a pending call is retried until it is final. The pipeline limits ambiguous attempts.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        backoff.next_backoff().unwrap_or(interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest_of(tries: u32, retry_after: Duration) -> (Duration, Duration) {
        let settings = RetrySettings::default();
        let waits = || (0..2_000).map(|_| settings.wait(tries, retry_after));
        (waits().min().expect("some"), waits().max().expect("some"))
    }

    #[test]
    fn wait_is_random_below_a_doubling_capped_backoff() {
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
    fn retry_after_is_capped_and_gets_jitter() {
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
    fn zero_backoff_does_not_wait() {
        let settings = RetrySettings {
            backoff_initial: Duration::ZERO,
            ..RetrySettings::default()
        };
        assert_eq!(settings.wait(5, Duration::ZERO), Duration::ZERO);
    }
}
