//! Traces: spans of sampled orders and calls, sent to an OTLP receiver (HTTP, protobuf).
//!
//! ```text
//! Span ── end ──▶ bounded queue ──▶ thread `traces` ──▶ OTLP receiver
//!                 full: dropped,     batches; retries for a while, then dropped, counted
//!                 counted
//! ```
//!
//! Nothing here delays or fails a payment: a span that finds no room is dropped. Which traces are recorded follows the
//! order's own trace context; see [`Traces::samples`].

mod exporter;
pub mod names;
mod receiver;
mod record_spans;
mod settings;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample, SpanData, SpanEvents, SpanLinks,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

pub use opentelemetry::trace::{SpanKind, TraceId};
pub use record_spans::RecordSpans;
pub use settings::TracesSettings;

use self::exporter::Exporter;
use crate::metrics::{Labelled, counter, counters};
use crate::status::Identity;

/// Maximum time for which [`Traces::flush`] waits. Within the time that every supervisor grants after the drain.
pub const FLUSH_MAX: Duration = Duration::from_secs(3);

/// What to do when a metric is odd, for the document of the metrics.
#[cfg(test)]
const ADVICE: &crate::metrics::Advice = &[
    (
        "outbox_trace_spans_exported",
        "0 although orders are traced: see the log, and `traces.endpoint`.",
    ),
    (
        "outbox_trace_spans_dropped",
        "Traces are incomplete; payments are not affected. `queue-full`: fewer orders should be sampled, or the receiver \
         is slow or down. `not-exported`: it was down for longer than a minute. `rejected`: see its log.",
    ),
];

/// Counters of the traces. Registered also where there are none, so that dashboards have their series.
#[derive(Clone, Debug)]
pub struct TracesMetrics {
    exported: Counter,
    dropped: Labelled<Counter>,
}

/// Reason why a span was dropped.
#[derive(Clone, Copy, Debug)]
enum Dropped {
    QueueFull,
    NotExported,
    Rejected,
}

impl Dropped {
    const ALL: [Self; 3] = [Self::QueueFull, Self::NotExported, Self::Rejected];

    fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::NotExported => "not-exported",
            Self::Rejected => "rejected",
        }
    }
}

impl TracesMetrics {
    /// Creates the counters and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            exported: counter(
                registry,
                "outbox_trace_spans_exported",
                "Spans that the OTLP receiver took",
            ),
            dropped: counters(
                registry,
                "outbox_trace_spans_dropped",
                "Spans that were dropped, by reason",
                "reason",
                Dropped::ALL.map(Dropped::as_str),
            ),
        }
    }

    fn dropped(&self, why: Dropped, spans: u64) {
        self.dropped.with(why.as_str()).inc_by(spans);
    }
}

/// Records spans and has them exported. Clones share the exporter.
#[derive(Clone, Debug)]
pub struct Traces(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sampler: Sampler,
    samples_any: bool,
    shows_idempotency_key: bool,
    scope: InstrumentationScope,
    ids: RandomIdGenerator,
    exporter: Exporter,
}

/// Place in a trace that a span continues.
#[derive(Clone, Copy, Debug)]
pub enum Parent<'a> {
    /// A span of another process, with the `tracestate` that came with it.
    Remote {
        /// Id of the trace.
        trace_id: [u8; 16],
        /// Id of the span.
        span_id: [u8; 8],
        /// The trace's `tracestate`, unchecked.
        state: Option<&'a str>,
    },
    /// A span of this process.
    Local(&'a SpanContext),
    /// None: the span is the first of this trace.
    Root([u8; 16]),
}

impl Traces {
    /// Starts the export if the settings name a receiver. Connects to nothing yet.
    ///
    /// # Errors
    /// A setting is invalid, its file cannot be read, or the thread cannot be started.
    pub fn start(
        settings: &TracesSettings,
        identity: &Identity,
        metrics: TracesMetrics,
    ) -> anyhow::Result<Option<Self>> {
        let Some(url) = settings.url()? else {
            return Ok(None);
        };
        settings.check()?;
        // Once at the start, so that a wrong path is noticed at once.
        settings.headers()?;
        let exporter = Exporter::start(settings, url, &resource(identity), metrics)?;
        tracing::info!(
            endpoint = settings.endpoint,
            ratio = settings.ratio,
            "traces are recorded"
        );
        Ok(Some(Self(Arc::new(Shared {
            sampler: Sampler::TraceIdRatioBased(settings.ratio),
            samples_any: settings.ratio > 0.0,
            shows_idempotency_key: settings.show_idempotency_key,
            scope: InstrumentationScope::builder("outbox")
                .with_version(crate::VERSION)
                .with_schema_url(names::SCHEMA_URL)
                .build(),
            ids: RandomIdGenerator::default(),
            exporter,
        }))))
    }

    /// Returns `true` if a trace without a parent is recorded, by `traces.ratio`. A trace with a parent is recorded if its
    /// parent was.
    ///
    /// The decision follows from the id, so that each program makes the same one.
    #[must_use]
    pub fn samples(&self, trace_id: [u8; 16]) -> bool {
        let trace_id = TraceId::from_bytes(trace_id);
        let sampled = self
            .0
            .sampler
            .should_sample(None, trace_id, "", &SpanKind::Consumer, &[], &[]);
        sampled.decision == SamplingDecision::RecordAndSample
    }

    /// Returns `false` if no trace without a parent is recorded.
    #[must_use]
    pub fn samples_any(&self) -> bool {
        self.0.samples_any
    }

    /// Returns `true` if `traces.show_idempotency_key` is on.
    #[must_use]
    pub fn shows_idempotency_key(&self) -> bool {
        self.0.shows_idempotency_key
    }

    /// Starts a span now.
    #[must_use]
    pub fn span(&self, kind: SpanKind, name: impl Into<Cow<'static, str>>, parent: Parent<'_>) -> Span {
        let (trace_id, parent_span_id, state, is_remote) = match parent {
            Parent::Remote {
                trace_id,
                span_id,
                state,
            } => {
                // One that is malformed is not passed on.
                let state = state.and_then(|state| state.parse().ok());
                (
                    TraceId::from_bytes(trace_id),
                    SpanId::from_bytes(span_id),
                    state.unwrap_or_default(),
                    true,
                )
            }
            Parent::Local(parent) => (
                parent.trace_id(),
                parent.span_id(),
                parent.trace_state().clone(),
                false,
            ),
            Parent::Root(trace_id) => (
                TraceId::from_bytes(trace_id),
                SpanId::INVALID,
                TraceState::default(),
                false,
            ),
        };
        let now = SystemTime::now();
        let span_id = self.0.ids.new_span_id();
        Span {
            traces: self.clone(),
            data: SpanData {
                span_context: SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, false, state),
                parent_span_id,
                parent_span_is_remote: is_remote,
                span_kind: kind,
                name: name.into(),
                start_time: now,
                end_time: now,
                attributes: Vec::new(),
                dropped_attributes_count: 0,
                events: SpanEvents::default(),
                links: SpanLinks::default(),
                status: Status::Unset,
                instrumentation_scope: self.0.scope.clone(),
            },
        }
    }

    /// Reports that spans were not recorded for want of room.
    pub fn count_dropped(&self, spans: u64) {
        self.0.exporter.metrics().dropped(Dropped::QueueFull, spans);
    }

    /// Has what is queued exported, and ends the export. Waits at most [`FLUSH_MAX`].
    pub fn flush(&self) {
        self.0.exporter.flush(FLUSH_MAX);
    }
}

/// Flushes the traces when it is dropped: at the end of the program, whichever way it ends.
#[derive(Debug)]
pub struct FlushOnDrop(pub Option<Traces>);

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        if let Some(traces) = &self.0 {
            traces.flush();
        }
    }
}

/// A span that has not ended. Dropped without an end, it is not exported.
#[derive(Clone, Debug)]
pub struct Span {
    traces: Traces,
    data: SpanData,
}

impl Span {
    /// Returns what continues this span.
    #[must_use]
    pub fn context(&self) -> &SpanContext {
        &self.data.span_context
    }

    /// Returns trace id and span id.
    #[must_use]
    pub fn ids(&self) -> ([u8; 16], [u8; 8]) {
        let context = self.context();
        (context.trace_id().to_bytes(), context.span_id().to_bytes())
    }

    /// Returns the `tracestate` to pass on; `None` if there is none.
    #[must_use]
    pub fn tracestate(&self) -> Option<String> {
        Some(self.context().trace_state().header()).filter(|state| !state.is_empty())
    }

    /// Adds an attribute. No order, response or secret may be one.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.data.attributes.push(KeyValue::new(name, value));
    }

    /// Marks the span as failed.
    pub fn fail(&mut self, kind: impl Into<Cow<'static, str>>, description: impl Into<Cow<'static, str>>) {
        self.set(names::ERROR_TYPE, Value::from(kind.into()));
        self.data.status = Status::error(description);
    }

    /// Ends the span now and queues it for export. Never blocks.
    pub fn end(mut self) {
        self.data.end_time = SystemTime::now();
        self.traces.0.exporter.queue(self.data);
    }
}

/// Returns what the spans come from. `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`, which Kubernetes operators set,
/// add to it and come first.
fn resource(identity: &Identity) -> opentelemetry_sdk::Resource {
    let name = std::env::var("OTEL_SERVICE_NAME")
        .ok()
        .filter(|name| !name.is_empty());
    let ours = [
        (names::SERVICE_NAME, format!("outbox-{}", identity.program)),
        (names::SERVICE_NAMESPACE, "outbox".to_owned()),
        (names::SERVICE_INSTANCE_ID, identity.instance_id.clone()),
        (names::SERVICE_VERSION, identity.version.to_owned()),
    ];
    let resource = opentelemetry_sdk::Resource::builder_empty()
        .with_schema_url(
            ours.map(|(name, value)| KeyValue::new(name, value)),
            names::SCHEMA_URL,
        )
        .with_detector(Box::new(EnvResourceDetector::new()));
    match name {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

#[cfg(test)]
mod tests;
