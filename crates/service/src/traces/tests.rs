use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;

use super::*;

const TRACE: [u8; 16] = [7; 16];

fn identity() -> Identity {
    Identity {
        program: "caller",
        version: "1.2.3",
        instance_id: "caller-7".into(),
    }
}

fn metrics() -> TracesMetrics {
    TracesMetrics::register(&mut Registry::default())
}

fn traces(endpoint: &str, metrics: &TracesMetrics) -> Traces {
    let settings = TracesSettings {
        endpoint: endpoint.into(),
        ratio: 1.0,
        ..TracesSettings::default()
    };
    Traces::start(&settings, &identity(), metrics.clone())
        .expect("valid settings")
        .expect("an endpoint")
}

fn span(traces: &Traces) -> Span {
    traces.span(SpanKind::Consumer, "process orders", Parent::Root(TRACE))
}

/// Answers each request with the next of these statuses and bodies, and passes on what came.
fn receiver(responses: Vec<(&'static str, Vec<u8>)>) -> (String, Receiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let (sender, received) = channel();
    std::thread::spawn(move || {
        let mut responses = responses.into_iter();
        while let Ok((stream, _)) = listener.accept() {
            while let Some(response) = serve(&stream, &sender, &mut responses) {
                (&stream).write_all(&response).expect("answered");
            }
        }
    });
    (endpoint, received)
}

fn serve(
    stream: &TcpStream,
    sender: &Sender<ExportTraceServiceRequest>,
    responses: &mut impl Iterator<Item = (&'static str, Vec<u8>)>,
) -> Option<Vec<u8>> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().expect("a length");
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let request = ExportTraceServiceRequest::decode(body.as_slice()).expect("OTLP");
    sender.send(request).ok()?;
    let (status, body) = responses.next()?;
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
    Some([head.into_bytes(), body].concat())
}

fn dropped(metrics: &TracesMetrics, why: Dropped) -> u64 {
    metrics.dropped.with(why.as_str()).get()
}

#[test]
fn span_is_exported_with_its_resource() {
    let (endpoint, received) = receiver(vec![("200 OK", Vec::new())]);
    let metrics = metrics();
    let traces = traces(&endpoint, &metrics);
    let mut parent = span(&traces);
    let child = traces.span(SpanKind::Client, "POST", Parent::Local(parent.context()));
    let ids = (parent.ids(), child.ids());
    child.end();
    parent.set(names::VERDICT, "admit");
    parent.fail("aborted", "transaction aborted");
    parent.end();
    traces.flush();
    let request = received.recv().expect("a request");
    let [of_resource] = request.resource_spans.as_slice() else {
        panic!("{request:?}");
    };
    assert_eq!(of_resource.schema_url, names::SCHEMA_URL);
    let attributes = format!("{:?}", of_resource.resource);
    for value in ["outbox-caller", "caller-7", "1.2.3"] {
        assert!(attributes.contains(value), "{attributes}");
    }
    let spans = &of_resource.scope_spans[0].spans;
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert_eq!(
        (&spans[0].span_id[..], &spans[0].trace_id[..]),
        (&ids.1.1[..], &TRACE[..])
    );
    assert_eq!(spans[0].parent_span_id, ids.0.1);
    assert!(spans[1].parent_span_id.is_empty());
    assert_eq!(spans[1].status.as_ref().map(|status| status.code), Some(2));
    assert_eq!(
        (metrics.exported.get(), dropped(&metrics, Dropped::NotExported)),
        (2, 0)
    );
}

#[test]
fn batch_is_sent_again_if_the_receiver_is_busy() {
    let (endpoint, received) = receiver(vec![("503 Busy", Vec::new()), ("200 OK", Vec::new())]);
    let metrics = metrics();
    let traces = traces(&endpoint, &metrics);
    span(&traces).end();
    let first = received.recv().expect("a request");
    assert_eq!(received.recv().expect("the same again"), first);
    traces.flush();
    assert_eq!(
        (metrics.exported.get(), dropped(&metrics, Dropped::NotExported)),
        (1, 0)
    );
}

#[test]
fn refused_batch_is_dropped_and_counted() {
    let (endpoint, received) = receiver(vec![("400 Bad Request", Vec::new())]);
    let metrics = metrics();
    let traces = traces(&endpoint, &metrics);
    span(&traces).end();
    traces.flush();
    assert!(received.recv().is_ok());
    assert_eq!(
        (metrics.exported.get(), dropped(&metrics, Dropped::NotExported)),
        (0, 1)
    );
}

#[test]
fn rejected_spans_are_counted() {
    let partial = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 1,
            error_message: "no".into(),
        }),
    };
    let (endpoint, _received) = receiver(vec![("200 OK", partial.encode_to_vec())]);
    let metrics = metrics();
    let traces = traces(&endpoint, &metrics);
    span(&traces).end();
    span(&traces).end();
    traces.flush();
    assert_eq!(
        (metrics.exported.get(), dropped(&metrics, Dropped::Rejected)),
        (1, 1)
    );
}

/// A receiver that accepts connections and never answers.
#[test]
fn hanging_receiver_delays_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let metrics = metrics();
    let traces = traces(
        &format!("http://{}", listener.local_addr().expect("bound")),
        &metrics,
    );
    let started = Instant::now();
    let spans = u64::try_from(exporter::QUEUE_MAX).expect("fits") + 2_000;
    for _ in 0..spans {
        span(&traces).end();
    }
    // What the thread has taken is one batch of 512; the rest is in the queue, or dropped.
    let lost = dropped(&metrics, Dropped::QueueFull);
    assert!((1_400..=2_000).contains(&lost), "{lost} dropped");
    assert!(started.elapsed() < FLUSH_MAX, "{:?}", started.elapsed());
    let started = Instant::now();
    traces.flush();
    let took = started.elapsed();
    assert!(took >= FLUSH_MAX && took < FLUSH_MAX * 2, "{took:?}");
}

#[test]
fn without_endpoint_there_are_no_traces() {
    let traces = Traces::start(&TracesSettings::default(), &identity(), metrics()).expect("valid");
    assert!(traces.is_none());
}

#[test]
fn share_of_the_traces_follows_from_their_ids() {
    let samples = |ratio: f64| {
        let settings = TracesSettings {
            endpoint: "http://127.0.0.1:9".into(),
            ratio,
            ..TracesSettings::default()
        };
        let traces = Traces::start(&settings, &identity(), metrics())
            .expect("valid")
            .expect("on");
        let ids = RandomIdGenerator::default();
        let ids = (0..2_000).map(|_| ids.new_trace_id().to_bytes());
        ids.filter(|id| traces.samples(*id)).count()
    };
    assert_eq!(samples(0.0), 0);
    assert_eq!(samples(1.0), 2_000);
    // Four deviations of a binomial distribution: a right program fails once in 15,000 runs.
    assert!((910..=1_090).contains(&samples(0.5)));
}

#[test]
fn malformed_state_is_not_passed_on() {
    let traces = traces("http://127.0.0.1:9", &metrics());
    let state = |state| {
        let parent = Parent::Remote {
            trace_id: TRACE,
            span_id: [1; 8],
            state,
        };
        traces.span(SpanKind::Consumer, "x", parent).tracestate()
    };
    assert_eq!(
        state(Some("vendor=1,other=2")).as_deref(),
        Some("vendor=1,other=2")
    );
    for malformed in [Some("no equals sign"), Some("UPPER=1"), Some(""), None] {
        assert_eq!(state(malformed), None, "{malformed:?}");
    }
}

#[test]
fn metrics_are_documented() {
    let mut registry = Registry::default();
    let _metrics = TracesMetrics::register(&mut registry);
    crate::metrics::assert_documented(&registry, "traces", ADVICE);
}
