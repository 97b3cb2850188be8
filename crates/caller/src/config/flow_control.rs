//! Settings of the flow control: circuit breaker, rate limit and concurrency limit.

use std::time::Duration;

use anyhow::ensure;
use pipeline::ShareLimit;
use pipeline::delivery::{BreakerSettings, FlowControlSettings, RateSettings};
use serde::{Deserialize, Serialize};

/// Settings of the circuit breaker: `[circuit_breaker]`.
///
/// The breaker opens when the API fails: no connection, no response, or 5xx; and when it rejects most calls,
/// as with a wrong route or an expired account. 429 does not count. While it is open, calls wait, and
/// partitions are paused but stay assigned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CircuitBreakerSettings {
    /// Consecutive failures that open the breaker; 0: it never opens.
    pub(crate) failure_threshold: u32,
    /// Rejected calls among the last `rejection_window` at which the breaker opens; 0: never. The calls before
    /// it become dead letters. From then on rejected calls are kept and tried again, until a probe is
    /// accepted.
    pub(crate) rejection_threshold: usize,
    /// Number of accepted and rejected calls of which the rejected ones are counted.
    pub(crate) rejection_window: usize,
    /// Interval between probes while the breaker is open. A probe is an ordinary call; the first that
    /// succeeds closes the breaker. If the API accepts requests without responding, each probe is an
    /// ambiguous call.
    #[serde(with = "humantime_serde")]
    pub(crate) probe_interval: Duration,
}

/// Settings of the rate limit: `[rate_limit]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RateLimitSettings {
    /// Maximum number of requests of this caller, look-ups included, in each period of `per`; 0: no limit. At
    /// the limit, calls wait.
    pub(crate) requests_max: u32,
    /// Period of the rate limit. Requests are spaced evenly within it.
    #[serde(with = "humantime_serde")]
    pub(crate) per: Duration,
}

/// Settings of the concurrency limit: `[concurrency]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConcurrencySettings {
    /// Adapts the limit of calls in flight to the latency of the API, between `calls_in_flight_min` and
    /// `caller.calls_in_flight_max`: plus one while responses are fast, minus four tenths when they are slow
    /// or the API is overloaded. Off: the limit is `caller.calls_in_flight_max`.
    pub(crate) adaptive: bool,
    /// Initial and lowest value of the adaptive limit.
    pub(crate) calls_in_flight_min: usize,
}

impl Default for CircuitBreakerSettings {
    fn default() -> Self {
        Self {
            // Reached within a moment in an outage, and not by chance: an API that fails one request in five
            // has ten failures in a row once in ten million requests.
            failure_threshold: 10,
            // Far above the tenth to third of payments that are declined in normal operation: of 100 calls that
            // are each rejected with probability 0.3, 60 are rejected once in 10^9 times.
            rejection_threshold: 60,
            rejection_window: 100,
            // Also the longest delay before calls resume once the API has recovered.
            probe_interval: Duration::from_secs(5),
        }
    }
}

impl Default for RateLimitSettings {
    fn default() -> Self {
        Self {
            requests_max: 0,
            per: Duration::from_secs(1),
        }
    }
}

impl Default for ConcurrencySettings {
    fn default() -> Self {
        Self {
            adaptive: false,
            // One call at a time is the least that still measures latency.
            calls_in_flight_min: 1,
        }
    }
}

/// Checks the ranges of the settings.
///
/// # Errors
/// Names the setting that is invalid, and the values it may have.
pub(crate) fn check(
    circuit_breaker: &CircuitBreakerSettings,
    rate_limit: &RateLimitSettings,
    concurrency: &ConcurrencySettings,
    calls_in_flight_max: usize,
) -> anyhow::Result<()> {
    ensure!(
        circuit_breaker.probe_interval >= PROBE_INTERVAL_MIN,
        "the setting circuit_breaker.probe_interval is {:?}; it must be at least {PROBE_INTERVAL_MIN:?}, or \
         probes overload an API that is recovering",
        circuit_breaker.probe_interval
    );
    // Kept in memory, one entry for each call.
    ensure!(
        (1..=REJECTION_WINDOW_MAX).contains(&circuit_breaker.rejection_window),
        "the setting circuit_breaker.rejection_window is {}; it must be from 1 to {REJECTION_WINDOW_MAX}",
        circuit_breaker.rejection_window
    );
    ensure!(
        circuit_breaker.rejection_threshold <= circuit_breaker.rejection_window,
        "the setting circuit_breaker.rejection_threshold is {}; it must be at most \
         circuit_breaker.rejection_window, {}, or it is never reached; 0 switches it off",
        circuit_breaker.rejection_threshold,
        circuit_breaker.rejection_window
    );
    // The pipeline divides the period by the number of requests.
    ensure!(
        !rate_limit.per.is_zero(),
        "the setting rate_limit.per must be longer than 0"
    );
    ensure!(
        (1..=calls_in_flight_max).contains(&concurrency.calls_in_flight_min),
        "the setting concurrency.calls_in_flight_min is {}; it must be from 1 to caller.calls_in_flight_max, \
         {calls_in_flight_max}",
        concurrency.calls_in_flight_min
    );
    Ok(())
}

/// Returns the pipeline's flow control for these settings.
pub(crate) fn settings(
    circuit_breaker: &CircuitBreakerSettings,
    rate_limit: &RateLimitSettings,
    concurrency: &ConcurrencySettings,
) -> FlowControlSettings {
    FlowControlSettings {
        breaker: BreakerSettings {
            failure_threshold: circuit_breaker.failure_threshold,
            rejections: ShareLimit {
                threshold: circuit_breaker.rejection_threshold,
                window: circuit_breaker.rejection_window,
            },
            probe_interval: circuit_breaker.probe_interval,
        },
        rate: (rate_limit.requests_max > 0).then_some(RateSettings {
            requests: rate_limit.requests_max,
            per: rate_limit.per,
        }),
        calls_in_flight_min: concurrency.adaptive.then_some(concurrency.calls_in_flight_min),
    }
}

/// Minimum interval between probes.
const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Maximum of `circuit_breaker.rejection_window`.
const REJECTION_WINDOW_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_off_by_default() {
        let breaker = CircuitBreakerSettings::default();
        let (mut rate, mut concurrency) = (RateLimitSettings::default(), ConcurrencySettings::default());
        let off = settings(&breaker, &rate, &concurrency);
        assert_eq!((off.rate, off.calls_in_flight_min), (None, None));
        assert_eq!(off.breaker.failure_threshold, 10);
        (rate.requests_max, concurrency.adaptive) = (100, true);
        let on = settings(&breaker, &rate, &concurrency);
        let rate = on.rate.expect("a rate");
        assert_eq!((rate.requests, rate.per), (100, Duration::from_secs(1)));
        assert_eq!(on.calls_in_flight_min, Some(1));
    }
}
