//! Settings of the flow control: circuit breaker, rate limit and concurrency limit.

use std::time::Duration;

use anyhow::ensure;
use pipeline::delivery::{BreakerSettings, FlowControlSettings, RateSettings};
use serde::{Deserialize, Serialize};

/// Settings of the circuit breaker: `[circuit_breaker]`.
///
/// The breaker opens when the API fails: no connection, no response, or 5xx. Rejected orders and 429 do not
/// count. While it is open, calls wait, and partitions are paused but stay assigned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CircuitBreakerSettings {
    /// Consecutive failures that open the breaker; 0: it never opens.
    pub(crate) failure_threshold: u32,
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
