//! Spans of records that a program processes.

use super::{Parent, Span, SpanKind, Traces, names};

/// Starts the spans of the records of one topic.
#[derive(Clone, Debug)]
pub struct RecordSpans {
    traces: Traces,
    name: String,
    topic: String,
    group: String,
    instance_id: String,
}

impl RecordSpans {
    /// Creates the spans of a topic that this instance reads in this consumer group.
    #[must_use]
    pub fn new(traces: Traces, topic: &str, group: &str, instance_id: &str) -> Self {
        Self {
            traces,
            name: format!("{} {topic}", names::PROCESS),
            topic: topic.to_owned(),
            group: group.to_owned(),
            instance_id: instance_id.to_owned(),
        }
    }

    /// Returns what records the spans.
    #[must_use]
    pub const fn traces(&self) -> &Traces {
        &self.traces
    }

    /// Starts the span of a record. `key` returns its idempotency key, and is called only if it is shown.
    #[must_use]
    pub fn start(
        &self,
        parent: Parent<'_>,
        (partition, offset): (i32, i64),
        key: impl FnOnce() -> Option<String>,
    ) -> Span {
        let mut span = self.traces.span(SpanKind::Consumer, self.name.clone(), parent);
        span.set(names::MESSAGING_SYSTEM, names::KAFKA);
        span.set(names::OPERATION_NAME, names::PROCESS);
        span.set(names::OPERATION_TYPE, names::PROCESS);
        span.set(names::DESTINATION_NAME, self.topic.clone());
        span.set(names::DESTINATION_PARTITION_ID, partition.to_string());
        span.set(names::KAFKA_OFFSET, offset);
        span.set(names::CONSUMER_GROUP_NAME, self.group.clone());
        span.set(names::CLIENT_ID, self.instance_id.clone());
        if self.traces.shows_idempotency_key()
            && let Some(key) = key()
        {
            span.set(names::KAFKA_MESSAGE_KEY, key);
        }
        span
    }
}
