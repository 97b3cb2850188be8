//! The settings of how fast the API is called, and of what is done while it is ill.

use std::time::Duration;

use anyhow::ensure;
use pipeline::delivery::{BreakerSettings, PaceSettings, RateSettings};
use serde::{Deserialize, Serialize};

/// The settings of the circuit breaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OutageSettings {
    /// The API is ill when so many requests in a row have failed for reasons that are its own, and none has got
    /// through between them; 0: it is never taken to be. Few enough that an outage is known within a moment, and too
    /// many for chance: at one failure in five, once in ten million requests.
    pub(crate) failures_max: u32,
    /// While it is ill one call goes in this time, to see whether it is back; calls go on at the latest after this.
    /// Where it takes requests and does not answer, each such call is in doubt.
    #[serde(with = "humantime_serde")]
    pub(crate) probe_interval: Duration,
}

/// The settings of the pace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RateAndLimit {
    /// So many requests of this caller, look-ups among them, in `requests_per`; 0: as many as there are.
    pub(crate) requests_max: u32,
    /// See there.
    #[serde(with = "humantime_serde")]
    pub(crate) requests_per: Duration,
    /// Whether the limit of calls in flight is found out by trying, from `calls_in_flight_min` to
    /// `caller.calls_in_flight_max`.
    pub(crate) adaptive: bool,
    /// Where such a limit begins, and the least that it comes down to.
    pub(crate) calls_in_flight_min: usize,
}

impl Default for OutageSettings {
    fn default() -> Self {
        Self {
            failures_max: 10,
            probe_interval: Duration::from_secs(5),
        }
    }
}

impl Default for RateAndLimit {
    fn default() -> Self {
        Self {
            requests_max: 0,
            requests_per: Duration::from_secs(1),
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
    outage: &OutageSettings,
    pace: &RateAndLimit,
    calls_in_flight_max: usize,
) -> anyhow::Result<()> {
    ensure!(
        outage.probe_interval >= PROBE_INTERVAL_MIN,
        "the setting outage.probe_interval is {:?}; it must be at least {PROBE_INTERVAL_MIN:?}, or an API that is \
         ill gets no rest",
        outage.probe_interval
    );
    ensure!(
        !pace.requests_per.is_zero(),
        "the setting pace.requests_per must be longer than 0"
    );
    ensure!(
        (1..=calls_in_flight_max).contains(&pace.calls_in_flight_min),
        "the setting pace.calls_in_flight_min is {}; it must be from 1 to caller.calls_in_flight_max, \
         {calls_in_flight_max}",
        pace.calls_in_flight_min
    );
    Ok(())
}

/// How fast the API may be called.
pub(crate) fn pace(outage: &OutageSettings, pace: &RateAndLimit) -> PaceSettings {
    PaceSettings {
        breaker: BreakerSettings {
            failures_max: outage.failures_max,
            probe_interval: outage.probe_interval,
        },
        rate: (pace.requests_max > 0).then_some(RateSettings {
            requests: pace.requests_max,
            per: pace.requests_per,
        }),
        calls_in_flight_min: pace.adaptive.then_some(pace.calls_in_flight_min),
    }
}

const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_off_unless_they_are_set() {
        let (outage, mut limits) = (OutageSettings::default(), RateAndLimit::default());
        let off = pace(&outage, &limits);
        assert_eq!((off.rate, off.calls_in_flight_min), (None, None));
        assert_eq!(off.breaker.failures_max, 10);
        (limits.requests_max, limits.adaptive) = (100, true);
        let on = pace(&outage, &limits);
        let rate = on.rate.expect("a rate");
        assert_eq!((rate.requests, rate.per), (100, Duration::from_secs(1)));
        assert_eq!(on.calls_in_flight_min, Some(1));
    }
}
