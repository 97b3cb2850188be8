//! Metrics of the schema registry, with the same names in each program.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use schemas::Answer;
use service::metrics::{Labelled, counters, gauge};

/// Metrics of the client of a registry. Clones share them.
#[derive(Clone, Debug)]
pub struct RegistryMetrics {
    answers: Labelled<Counter>,
    waiting: Gauge,
}

const KNOWN: &str = "known";
const UNKNOWN: &str = "unknown";
const UNUSABLE: &str = "unusable";
const NONE: &str = "none";

/// What to do when a metric is odd, for the document of the metrics.
#[cfg(test)]
const ADVICE: &service::metrics::Advice = &[
    (
        "outbox_schema_requests",
        "`none`: the registry is down, or the credentials are wrong; orders wait. `unknown` and `unusable`: a validator's \
         orders become dead letters, a caller's calls wait. Runbook: SchemaRegistryDown.",
    ),
    (
        "outbox_partitions_awaiting_schemas",
        "Above 0 for more than some seconds: see the readiness of the program. Runbook: SchemaRegistryDown.",
    ),
];

impl RegistryMetrics {
    /// Creates the metrics and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            answers: counters(
                registry,
                "outbox_schema_requests",
                "Requests for schemas, by the registry's answer",
                "answer",
                [KNOWN, UNKNOWN, UNUSABLE, NONE],
            ),
            waiting: gauge(
                registry,
                "outbox_partitions_awaiting_schemas",
                "Partitions that wait for the schema registry, and whose orders or calls wait with them",
            ),
        }
    }

    /// Sets the number of partitions that wait.
    pub(crate) fn set_waiting(&self, partitions: usize) {
        self.waiting.set(i64::try_from(partitions).unwrap_or(i64::MAX));
    }

    pub(crate) fn answered(&self, answer: &Answer) {
        let answer = match answer {
            Answer::Known(_) => KNOWN,
            Answer::Unusable(_) => UNUSABLE,
            Answer::Unknown(_) => UNKNOWN,
        };
        self.answers.with(answer).inc();
    }

    pub(crate) fn not_answered(&self) {
        self.answers.with(NONE).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_documented() {
        let mut registry = Registry::default();
        let _metrics = RegistryMetrics::register(&mut registry);
        service::metrics::assert_documented(&registry, "schema registry", ADVICE);
    }

    /// Dashboards and alerts depend on these names: a change here is a change for the users.
    #[test]
    fn metric_names_are_pinned() {
        let mut registry = Registry::default();
        let _metrics = RegistryMetrics::register(&mut registry);
        assert_eq!(
            service::metrics::names(&registry),
            [
                "outbox_schema_requests counter",
                "outbox_partitions_awaiting_schemas gauge",
            ]
        );
    }
}
