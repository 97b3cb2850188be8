//! Faults and their rates. `draw` decides which request meets which fault.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

mod draw;

pub(crate) use draw::Draw;

/// Fault of one request. A request meets at most one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fault {
    /// Responds 500; not processed, but the client cannot tell.
    #[serde(rename = "before_500")]
    Before500,
    /// Responds 503 with `Retry-After`; not processed.
    #[serde(rename = "before_503")]
    Before503,
    /// Resets the connection; not processed.
    #[serde(rename = "before_reset")]
    BeforeReset,
    /// Responds 429 with `Retry-After`; not processed.
    #[serde(rename = "throttle")]
    Throttle,
    /// Processes, then is silent until the client leaves or `silence_max` has passed.
    #[serde(rename = "lost_silence")]
    LostSilence,
    /// Processes, then resets the connection.
    #[serde(rename = "lost_reset")]
    LostReset,
    /// Processes, then closes the connection (FIN) without a response.
    #[serde(rename = "lost_close")]
    LostClose,
    /// Processes, then responds 500.
    #[serde(rename = "lost_500")]
    Lost500,
    /// Processes, then responds 502.
    #[serde(rename = "lost_502")]
    Lost502,
    /// Processes, then responds 504.
    #[serde(rename = "lost_504")]
    Lost504,
}

impl Fault {
    /// All faults, in the order in which a draw is compared with their rates.
    pub const ALL: [Fault; 10] = [
        Fault::Before500,
        Fault::Before503,
        Fault::BeforeReset,
        Fault::Throttle,
        Fault::LostSilence,
        Fault::LostReset,
        Fault::LostClose,
        Fault::Lost500,
        Fault::Lost502,
        Fault::Lost504,
    ];

    /// Reports whether a request that meets this fault is processed.
    pub fn processes(self) -> bool {
        match self {
            Fault::Before500 | Fault::Before503 | Fault::BeforeReset | Fault::Throttle => false,
            Fault::LostSilence
            | Fault::LostReset
            | Fault::LostClose
            | Fault::Lost500
            | Fault::Lost502
            | Fault::Lost504 => true,
        }
    }
}

/// Settings of the faults: a seed, a rate from 0 to 1 for each kind, and their durations.
///
/// A request meets at most one of the ten [`Fault`]s, so their rates add up to at most 1. `slow`, `reject`
/// and `failing_orders` are drawn independently.
#[derive(Debug, Clone, Copy, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faults {
    /// Seed of all draws: the same seed gives the same order the same faults.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Share of requests that get 500 and are not processed.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub before_500: f64,
    /// Share of requests that get 503 with Retry-After and are not processed.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub before_503: f64,
    /// Share of requests whose connection is reset before they are processed.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub before_reset: f64,
    /// Share of requests that get 429 with Retry-After and are not processed.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub throttle: f64,
    /// Share of requests that are processed and get no response.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub lost_silence: f64,
    /// Share of requests that are processed and whose connection is then reset.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub lost_reset: f64,
    /// Share of requests that are processed and whose connection is then closed without a response.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub lost_close: f64,
    /// Share of requests that are processed and get 500.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub lost_500: f64,
    /// Share of requests that are processed and get 502.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub lost_502: f64,
    /// Share of requests that are processed and get 504.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub lost_504: f64,
    /// Share of requests that take `--slow-for` longer.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub slow: f64,
    /// Additional latency of a slow request.
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde")]
    pub slow_for: Duration,
    /// Latency of every request.
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde")]
    pub latency: Duration,
    /// Share of orders that are rejected (422), each time they are sent.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub reject: f64,
    /// Share of orders that fail: each gets 429 for its first `--failing-requests` requests.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub failing_orders: f64,
    /// Number of requests that fail for each failing order; 0: all.
    #[arg(long, default_value_t = 0, value_name = "REQUESTS")]
    pub failing_requests: u32,
    /// Value of the Retry-After header of a 429 or 503, in seconds.
    #[arg(long, default_value_t = 1, value_name = "SECONDS")]
    pub retry_after_s: u32,
    /// Time after which a request without a response is reset, if its client is still connected.
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde")]
    pub silence_max: Duration,
}

/// Rates that are invalid, alone or together.
#[derive(Debug, Error, PartialEq)]
pub enum BadFaults {
    /// A rate is not between 0 and 1.
    #[error("the rate {name} is {rate}; a rate is from 0 to 1")]
    NotARate {
        /// Name of the rate.
        name: &'static str,
        /// Value of the rate.
        rate: f64,
    },
    /// The rates add up to more than all requests.
    #[error(
        "the rates before_*, throttle and lost_* add up to {sum}; a request meets one of them, so at most 1"
    )]
    MoreThanAll {
        /// Sum of the rates.
        sum: f64,
    },
}

impl Faults {
    /// Checks the rates.
    ///
    /// # Errors
    /// A rate is not from 0 to 1, or the rates of the faults add up to more than 1.
    pub fn check(&self) -> Result<(), BadFaults> {
        let named = [
            ("before_500", self.before_500),
            ("before_503", self.before_503),
            ("before_reset", self.before_reset),
            ("throttle", self.throttle),
            ("lost_silence", self.lost_silence),
            ("lost_reset", self.lost_reset),
            ("lost_close", self.lost_close),
            ("lost_500", self.lost_500),
            ("lost_502", self.lost_502),
            ("lost_504", self.lost_504),
            ("slow", self.slow),
            ("reject", self.reject),
            ("failing_orders", self.failing_orders),
        ];
        for (name, rate) in named {
            // Refuses NaN as well, which no comparison would.
            if !(0.0..=1.0).contains(&rate) {
                return Err(BadFaults::NotARate { name, rate });
            }
        }
        // Decimal fractions that add up to 1 on paper may exceed it slightly in binary.
        let sum = self.faults_sum();
        if sum > 1.0 + 1e-9 {
            Err(BadFaults::MoreThanAll { sum })
        } else {
            Ok(())
        }
    }

    fn faults_sum(&self) -> f64 {
        Fault::ALL.iter().map(|&fault| self.rate(fault)).sum()
    }

    fn rate(&self, fault: Fault) -> f64 {
        match fault {
            Fault::Before500 => self.before_500,
            Fault::Before503 => self.before_503,
            Fault::BeforeReset => self.before_reset,
            Fault::Throttle => self.throttle,
            Fault::LostSilence => self.lost_silence,
            Fault::LostReset => self.lost_reset,
            Fault::LostClose => self.lost_close,
            Fault::Lost500 => self.lost_500,
            Fault::Lost502 => self.lost_502,
            Fault::Lost504 => self.lost_504,
        }
    }
}

impl Default for Faults {
    /// Returns the defaults of the flags: no faults.
    fn default() -> Self {
        Faults {
            seed: 1,
            before_500: 0.0,
            before_503: 0.0,
            before_reset: 0.0,
            throttle: 0.0,
            lost_silence: 0.0,
            lost_reset: 0.0,
            lost_close: 0.0,
            lost_500: 0.0,
            lost_502: 0.0,
            lost_504: 0.0,
            slow: 0.0,
            slow_for: Duration::from_secs(2),
            latency: Duration::ZERO,
            reject: 0.0,
            failing_orders: 0.0,
            failing_requests: 0,
            retry_after_s: 1,
            silence_max: Duration::from_secs(120),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_rates_are_refused() {
        assert_eq!(Faults::default().check(), Ok(()));
        for rate in [-0.1, 1.1, f64::NAN] {
            let faults = Faults {
                slow: rate,
                ..Faults::default()
            };
            assert!(
                matches!(faults.check(), Err(BadFaults::NotARate { name: "slow", .. })),
                "{rate}"
            );
        }
        let faults = Faults {
            lost_500: 0.6,
            before_500: 0.6,
            ..Faults::default()
        };
        assert_eq!(faults.check(), Err(BadFaults::MoreThanAll { sum: 1.2 }));
        let exact = Faults {
            lost_500: 0.7,
            lost_502: 0.1,
            lost_504: 0.1,
            throttle: 0.1,
            ..Faults::default()
        };
        assert_eq!(exact.check(), Ok(()));
    }
}
