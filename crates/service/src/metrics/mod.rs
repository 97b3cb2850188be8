//! Metrics: a registry with build and process metrics, and functions that create and register one metric
//! each.
//!
//! A counter is registered without the suffix `_total`; the text format appends it.

mod document;
mod process;

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeMetric, text};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

pub use document::{Advice, assert_documented};

/// Content type of the text that [`encode`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Gauge of a number that is not whole.
pub type RealGauge = Gauge<f64, AtomicU64>;

/// Counter of a number that is not whole.
pub type RealCounter = Counter<f64, AtomicU64>;

/// What to do when a metric that every program has is odd.
#[cfg(test)]
const ADVICE: &Advice = &[
    (
        "outbox_build",
        "Two versions at a time are normal during a deployment only.",
    ),
    (
        "process_resident_memory_bytes",
        "It does not grow with the backlog. Compare with the sizing in the README; report a steady growth.",
    ),
    (
        "process_resident_memory_max_bytes",
        "As above: the largest so far.",
    ),
    (
        "process_threads",
        "It is constant after the start; report a growth.",
    ),
    (
        "process_open_fds",
        "It grows with brokers and connections to the API only; report a steady growth.",
    ),
    (
        "process_start_time_seconds",
        "A program that restarts again and again says why in the last lines of its log.",
    ),
    (
        "process_cpu_seconds",
        "A validator that uses a whole core is at its limit: add another one.",
    ),
];

/// Creates a registry with `outbox_build_info` and the memory, processor time, threads and files of the
/// process. The program adds its own metrics and passes the registry to [`crate::admin`].
#[must_use]
pub fn registry(program: &'static str, version: &'static str) -> Registry {
    let mut registry = Registry::default();
    let build = Info::new(vec![("program", program), ("version", version)]);
    registry.register("outbox_build", "The program and its version", build);
    registry.register_collector(Box::new(process::ProcessCollector::new()));
    registry
}

/// Returns all metrics in the OpenMetrics text format, which Prometheus reads.
#[must_use]
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    text::encode(&mut text, registry).expect("writing to a String cannot fail");
    text
}

/// Metrics that share a name and differ by the value of one label. Clones share the metrics.
#[derive(Clone, Debug)]
pub struct Labelled<M, C = fn() -> M> {
    label: &'static str,
    family: Family<[(&'static str, Cow<'static, str>); 1], M, C>,
}

/// Histograms that differ by the value of one label.
pub type LabelledHistogram = Labelled<Histogram, Buckets>;

/// Upper bounds of a histogram's buckets.
#[derive(Clone, Copy, Debug)]
pub struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

impl<M: Clone, C: MetricConstructor<M>> Labelled<M, C> {
    /// Returns the metric for a value of the label, and creates it if it is new.
    #[must_use]
    pub fn with(&self, value: impl Into<Cow<'static, str>>) -> M {
        // Owned: a borrowed metric holds the lock of the family, and a second `with` beside it could
        // deadlock.
        self.family.get_or_create_owned(&[(self.label, value.into())])
    }

    fn preset(&self, values: impl IntoIterator<Item = &'static str>) {
        for value in values {
            // Creates the metric at 0. Without it the first event of a kind would make a new series at 1,
            // which `rate` and `increase` of Prometheus do not count.
            drop(self.with(value));
        }
    }
}

/// Creates a counter and registers it.
#[must_use]
pub fn counter(registry: &mut Registry, name: &'static str, help: &'static str) -> Counter {
    register(registry, name, help, Counter::default())
}

/// Creates a gauge and registers it.
#[must_use]
pub fn gauge(registry: &mut Registry, name: &'static str, help: &'static str) -> Gauge {
    register(registry, name, help, Gauge::default())
}

/// Creates a gauge of a number that is not whole, and registers it.
#[must_use]
pub fn real_gauge(registry: &mut Registry, name: &'static str, help: &'static str) -> RealGauge {
    register(registry, name, help, RealGauge::default())
}

/// Creates a histogram with these upper bounds of its buckets and registers it.
#[must_use]
pub fn histogram(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    buckets: &'static [f64],
) -> Histogram {
    register(registry, name, help, Buckets(buckets).new_metric())
}

/// Creates and registers a counter for each of the label's `values`, at 0. Other values may follow.
#[must_use]
pub fn counters(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: impl IntoIterator<Item = &'static str>,
) -> Labelled<Counter> {
    let family = register(registry, name, help, Family::default());
    let counters = Labelled { label, family };
    counters.preset(values);
    counters
}

/// Creates and registers a counter of a number that is not whole for each of the label's `values`, at 0.
#[must_use]
pub fn real_counters(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: impl IntoIterator<Item = &'static str>,
) -> Labelled<RealCounter> {
    let family = register(registry, name, help, Family::default());
    let counters = Labelled { label, family };
    counters.preset(values);
    counters
}

/// Registers gauges that differ by the value of a label. Each is created when it is first set. `M` is [`Gauge`] or
/// [`RealGauge`].
#[must_use]
pub fn gauges<M>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    label: &'static str,
) -> Labelled<M>
where
    M: Clone + Default + EncodeMetric + TypedMetric + fmt::Debug + Send + Sync + 'static,
{
    // Not created at 0 like counters: until the program sets a gauge, a 0 would look like a measurement.
    let family = register(registry, name, help, Family::default());
    Labelled { label, family }
}

/// Creates and registers a histogram for each of the label's `values`. Other values may follow.
#[must_use]
pub fn histograms(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    buckets: &'static [f64],
    label: &'static str,
    values: impl IntoIterator<Item = &'static str>,
) -> LabelledHistogram {
    let family = Family::new_with_constructor(Buckets(buckets));
    let family = register(registry, name, help, family);
    let histograms = Labelled { label, family };
    histograms.preset(values);
    histograms
}

fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    // Metrics are shared handles: the registry encodes what the program counts on its clone.
    registry.register(name, help, metric.clone());
    metric
}

/// Returns the names of all metrics that have a value, each with its type, in the order of the text: `name
/// type`. For the tests that pin them, since dashboards and alerts depend on them.
#[must_use]
pub fn names(registry: &Registry) -> Vec<String> {
    encode(registry)
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_and_process_are_in_the_text() {
        let text = encode(&registry("validator", "1.2.3"));
        assert!(
            text.contains("outbox_build_info{program=\"validator\",version=\"1.2.3\"} 1"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"), "{text}");
        for name in [
            "process_resident_memory_bytes ",
            "process_cpu_seconds_total ",
            "process_start_time_seconds ",
        ] {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_else(|| panic!("{text}"));
            let value: f64 = line[name.len()..].parse().expect("a number");
            assert!(value > 0.0 || name.starts_with("process_cpu"), "{line}");
        }
    }
}
