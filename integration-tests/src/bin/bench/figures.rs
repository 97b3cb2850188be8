//! Figures of runs, and the times of the records that they are computed from.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::read_back::tail::Tail;
use harness::wait::await_until;
use serde::Serialize;

use crate::resource_usage::Used;

/// Timeout of one run.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);

/// What was measured of one process in one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Orders per second between the first order and the last.
    pub(crate) per_second: f64,
    /// CPU time per order, the start of the process included.
    pub(crate) cpu_us: f64,
    /// Peak resident memory.
    pub(crate) memory_mib: f64,
}

impl Measured {
    pub(crate) fn of(orders: u64, took: Duration, used: Used) -> Self {
        Self {
            per_second: as_float(orders) / took.as_secs_f64().max(0.001),
            cpu_us: used.cpu.as_secs_f64() * 1e6 / as_float(orders),
            memory_mib: as_float(used.memory_peak_kib) / 1024.0,
        }
    }
}

/// Minimum, median and maximum over all runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Range {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Range {
    pub(crate) fn of<R>(runs: &[R], figure: impl Fn(&R) -> f64) -> Self {
        let mut values: Vec<f64> = runs.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            min: at(0),
            median: at(values.len() / 2),
            max: at(values.len().saturating_sub(1)),
        }
    }

    pub(crate) fn show(self, decimals: usize) -> String {
        let Self { min, median, max } = self;
        format!("{min:.decimals$} / {median:.decimals$} / {max:.decimals$}")
    }
}

/// Returns the producer timestamps of the first and the last pending call, in ms; fails unless all are there.
pub(crate) fn outbox_times(kafka: &str, topic: &str, sent: u64) -> Result<(i64, i64)> {
    let tail = Tail::start(kafka, &[topic])?;
    await_until("the outbox is read to its end", LIMIT, || {
        let keys = tail.keys(topic);
        Ok(if keys >= sent {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{keys} of {sent} pending calls"))
        })
    })?;
    ensure!(
        tail.records(topic) == sent,
        "the outbox has {} records for {sent} orders",
        tail.records(topic)
    );
    tail.times_ms(topic).context("the outbox is empty")
}

/// Returns the time between two timestamps.
pub(crate) fn between(from_ms: i64, to_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(to_ms - from_ms).unwrap_or(0))
}

/// Converts a count for ratios.
// A count of orders is far below 2^53, where an f64 loses digits.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn as_float(count: u64) -> f64 {
    count as f64
}
