//! Span of a call, and those of its requests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use pipeline::delivery::{Ambiguity, Response};
use records::{IdempotencyKey, Position, TraceContext, pending, trace_context};
use reqwest::Method;
use reqwest::header::HeaderValue;
use service::failpoint::guard_removed;
use service::traces::{Parent, RecordSpans, Span, SpanKind, Traces, names};

use crate::config::Config;
use crate::http::Request;

/// Starts the spans of calls.
pub(crate) struct CallSpans(RecordSpans);

impl CallSpans {
    pub(crate) fn new(traces: Traces, config: &Config) -> Self {
        let (topic, group) = (&config.topics.pending, &config.kafka.group_id);
        Self(RecordSpans::new(traces, topic, group, &config.caller.instance_id))
    }

    /// Starts the span of a call, if its trace is recorded.
    pub(crate) fn start(
        &self,
        key: &[u8],
        position: &Position,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Option<CallSpan> {
        let parent = self.parent(key, headers)?;
        let shown = || IdempotencyKey::from_bytes(key).ok().map(|key| key.to_string());
        let span = self
            .0
            .start(parent, (position.partition.0, position.offset.0), shown);
        Some(CallSpan {
            traces: self.0.traces().clone(),
            span,
            is_active: AtomicBool::new(false),
            end: Mutex::new(None),
        })
    }

    fn parent<'a>(&self, key: &[u8], headers: &[(&str, Option<&'a [u8]>)]) -> Option<Parent<'a>> {
        if let Some(context) = TraceContext::of(headers) {
            return context.is_sampled().then(|| Parent::Remote {
                trace_id: context.trace_id,
                span_id: context.span_id,
                state: trace_context::tracestate(headers),
            });
        }
        if !self.0.traces().samples_any() {
            return None;
        }
        // The validator records no traces, or it would have written its span.
        let admission = pending::Admission::read(headers).ok()?;
        let derived = pending::derived_context(key, admission.at, admission.source.offset);
        self.0
            .traces()
            .samples(derived.trace_id)
            .then_some(Parent::Root(derived.trace_id))
    }
}

/// Span of a call, from the reading of its record until its end. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct CallSpan {
    traces: Traces,
    span: Span,
    /// Something was done for the call. Otherwise nothing is recorded: calls that are final already are read again
    /// after a rebalance, and dropped.
    is_active: AtomicBool,
    end: Mutex<Option<&'static str>>,
}

/// End of a call that has an outcome.
pub(crate) const ACCEPTED: &str = "accepted";
/// End of a call that goes on at the tail of the outbox.
pub(crate) const DEFERRED: &str = "deferred";
/// End of a call that another caller goes on with.
const RELEASED: &str = "released";

impl CallSpan {
    /// Returns the `traceparent` of what follows from the call.
    pub(crate) fn traceparent(&self) -> [u8; 55] {
        traceparent(&self.span)
    }

    /// Starts the span of a request, which carries it. `url` is the setting, with its placeholders and without its query:
    /// what fills them may be part of the order.
    pub(crate) fn request(&self, method: &Method, url: &str, request: &mut Request) -> Span {
        self.is_active.store(true, Ordering::Relaxed);
        let mut span = self.traces.span(
            SpanKind::Client,
            method.to_string(),
            Parent::Local(self.span.context()),
        );
        span.set(names::HTTP_REQUEST_METHOD, method.to_string());
        span.set(
            if url.contains('{') {
                names::URL_TEMPLATE
            } else {
                names::URL_FULL
            },
            url.to_owned(),
        );
        span.set(
            names::SERVER_ADDRESS,
            request.url.host_str().unwrap_or_default().to_owned(),
        );
        if let Some(port) = request.url.port_or_known_default() {
            span.set(names::SERVER_PORT, i64::from(port));
        }
        // A test removes the guard: the API then continues the call instead of the attempt.
        if guard_removed!("guard-attempt-span") {
            return span;
        }
        // Hex digits and dashes always make a header. A missing trace must not stop a payment.
        if let Ok(value) = HeaderValue::from_bytes(&traceparent(&span)) {
            request.traceparent = value;
        }
        request.tracestate = span
            .tracestate()
            .and_then(|state| HeaderValue::from_str(&state).ok());
        span
    }

    /// Notes how the call has ended; the last note counts.
    pub(crate) fn ended(&self, end: &'static str) {
        self.is_active.store(true, Ordering::Relaxed);
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        if !self.is_active.load(Ordering::Relaxed) {
            return;
        }
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut span = self.span.clone();
        let end = end.unwrap_or(RELEASED);
        span.set(names::CALL_END, end);
        if ![ACCEPTED, DEFERRED, RELEASED].contains(&end) {
            span.fail(end, "");
        }
        span.end();
    }
}

fn traceparent(span: &Span) -> [u8; 55] {
    let (trace_id, span_id) = span.ids();
    TraceContext::sampled(trace_id, span_id).traceparent()
}

/// Adds what is known before the request of an attempt is sent.
pub(crate) fn attempt(span: &mut Span, attempt: u32, repeats: Option<Ambiguity>) {
    span.set(names::ATTEMPT, i64::from(attempt));
    if attempt > 1 {
        span.set(names::HTTP_REQUEST_RESEND_COUNT, i64::from(attempt - 1));
    }
    if let Some(ambiguity) = repeats {
        span.set(names::REPEATS, ambiguity.as_str());
    }
}

/// Ends the span of a request with what came back. Of the response its status alone.
pub(crate) fn end(mut span: Span, response: &Response) {
    match response.status() {
        Some(status) => {
            span.set(names::HTTP_RESPONSE_STATUS_CODE, i64::from(status));
            if status >= 400 {
                span.fail(status.to_string(), "");
            }
        }
        None => span.fail(response.kind(), ""),
    }
    span.end();
}
