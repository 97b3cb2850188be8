//! Spans of the orders in the open transaction. They end with it, so that an aborted attempt never looks admitted.

use kafka::Record;
use pipeline::admission::Verdict;
use records::pending::derived_context;
use records::{TraceContext, trace_context};
use service::failpoint::guard_removed;
use service::traces::{Parent, RecordSpans, Span, Traces, names};

use crate::config::Config;
use crate::effects::output_records::InputHeaders;
use crate::metrics::End;

/// Maximum number of spans in one transaction: half of what the export's queue holds.
const SPANS_MAX: usize = 4_096;

/// Spans of the open transaction.
pub(crate) struct OrderSpans {
    spans: RecordSpans,
    open: Vec<Span>,
}

impl OrderSpans {
    pub(crate) fn new(traces: Traces, config: &Config) -> Self {
        let (topic, group) = (&config.topics.orders, &config.kafka.group_id);
        Self {
            spans: RecordSpans::new(traces, topic, group, &config.validator.instance_id),
            open: Vec::new(),
        }
    }

    /// Starts the span of an order that was decided, if its trace is recorded. Returns the `traceparent` of what follows
    /// from it.
    pub(super) fn decided(
        &mut self,
        input: &Record<'_>,
        headers: &InputHeaders<'_>,
        verdict: &Verdict,
    ) -> Option<[u8; 55]> {
        let parent = self.parent(input, headers, verdict)?;
        if self.open.len() >= SPANS_MAX {
            self.spans.traces().count_dropped(1);
            return None;
        }
        let position = (input.partition().0, input.offset().0);
        let mut span = self.spans.start(parent, position, || match verdict {
            Verdict::Admit { key, .. } => Some(key.to_string()),
            Verdict::Duplicate { .. } | Verdict::Refuse(_) => None,
        });
        span.set(names::VERDICT, verdict.as_str());
        if let Verdict::Refuse(refusal) = verdict {
            // Without the detail, which may quote the order.
            span.set(names::REASON, refusal.reason.as_str());
        }
        let (trace_id, span_id) = span.ids();
        self.open.push(span);
        // A test removes the guard: the calls are then siblings of the order's span instead of its children.
        if guard_removed!("guard-own-traceparent") {
            return None;
        }
        Some(TraceContext::sampled(trace_id, span_id).traceparent())
    }

    /// Returns what the order's span continues; `None` if its trace is not recorded.
    fn parent<'a>(
        &self,
        input: &Record<'_>,
        headers: &InputHeaders<'a>,
        verdict: &Verdict,
    ) -> Option<Parent<'a>> {
        if let Some(context) = TraceContext::of(headers) {
            return context.is_sampled().then(|| Parent::Remote {
                trace_id: context.trace_id,
                span_id: context.span_id,
                state: trace_context::tracestate(headers),
            });
        }
        // Only an admitted order has an id to derive: a copy of it, and what reads it, derive the same one.
        let Verdict::Admit { key, entry, .. } = verdict else {
            return None;
        };
        // The id is a hash, which is not computed for nothing.
        if !self.spans.traces().samples_any() {
            return None;
        }
        let derived = derived_context(key.as_bytes(), entry.admitted_at, input.offset());
        self.spans
            .traces()
            .samples(derived.trace_id)
            .then_some(Parent::Root(derived.trace_id))
    }

    /// Ends the spans of the transaction with its outcome.
    pub(super) fn ended(&mut self, end: End) {
        for mut span in self.open.drain(..) {
            span.set(names::TRANSACTION, end.as_str());
            match end {
                End::Committed => {}
                // The order is read again, and has another span then.
                End::Aborted => span.fail("aborted", "transaction aborted"),
                End::Unknown => span.fail("unknown", "transaction outcome unknown"),
            }
            span.end();
        }
    }
}

impl Drop for OrderSpans {
    fn drop(&mut self) {
        // Whoever opens the next producer aborts the transaction.
        self.ended(End::Aborted);
    }
}
