//! The settings of how fast the API is called, and of what is done while it is ill.

use std::time::Duration;

use anyhow::ensure;
use pipeline::delivery::{BreakerSettings, FlowControlSettings, RateSettings};
use serde::{Deserialize, Serialize};

/// The settings of the circuit breaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CircuitBreakerSettings {
    /// The API is ill when so many requests in a row have failed for reasons that are its own, and none has got
    /// through between them; 0: it is never taken to be. Few enough that an outage is known within a moment, and too
    /// many for chance: at one failure in five, once in ten million requests.
    pub(crate) failure_threshold: u32,
    /// While it is ill one call goes in this time, to see whether it is back; calls go on at the latest after this.
    /// Where it takes requests and does not answer, each such call is in ambiguity.
    #[serde(with = "humantime_serde")]
    pub(crate) probe_interval: Duration,
}

/// Settings of the rate limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RateLimitSettings {
    /// Maximum number of requests of this caller, look-ups included, in each period of `per`; 0: no limit.
    pub(crate) requests_max: u32,
    /// Period of the rate limit. Requests are spaced evenly within it.
    #[serde(with = "humantime_serde")]
    pub(crate) per: Duration,
}

/// Settings of the concurrency limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConcurrencySettings {
    /// Whether the limit of calls in flight is found out by trying, from `calls_in_flight_min` to
    /// `caller.calls_in_flight_max`.
    pub(crate) adaptive: bool,
    /// Where such a limit begins, and the least that it comes down to.
    pub(crate) calls_in_flight_min: usize,
}

impl Default for CircuitBreakerSettings {
    fn default() -> Self {
        Self {
            failure_threshold: 10,
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
            calls_in_flight_min: 1,
        }
    }
}

/// Checks what the types do not.
///
/// # Errors
/// Names the setting that is wrong, and what it must be.
pub(crate) fn check(
    circuit_breaker: &CircuitBreakerSettings,
    rate_limit: &RateLimitSettings,
    concurrency: &ConcurrencySettings,
    calls_in_flight_max: usize,
) -> anyhow::Result<()> {
    ensure!(
        circuit_breaker.probe_interval >= PROBE_INTERVAL_MIN,
        "the setting circuit_breaker.probe_interval is {:?}; it must be at least {PROBE_INTERVAL_MIN:?}, or an API that is \
         ill gets no rest",
        circuit_breaker.probe_interval
    );
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

/// How fast the API may be called.
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

const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_off_unless_they_are_set() {
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
