//! One trace, from the header of the producer to the requests of the API.
//!
//! Set-up: a validator and a caller that send their spans to an OTLP receiver, and an API that answers the first request
//! with 503. The producer's trace is recorded for the first order and not for the second; the third has no trace, and the
//! fourth hostile headers.
//!
//! Must hold: the spans of the first order, and no others, are one trace: validator, call and each attempt, each the child
//! of the one before. The API has seen the ids of the attempts, the reader of the outcome that of the call. Nothing of the
//! order is in an attribute. A duplicate has a span of the validator alone. Every order is called once it is admitted,
//! whatever its headers are, also while the receiver is down, and both programs stop in time.
//!
//! Guards whose removal makes it fail: `guard-own-traceparent` (the validator's span in the outbox), `guard-attempt-span`
//! (the attempt's in the request).

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::orders::manual::{order, send_with};
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use rdkafka::message::{Header, OwnedHeaders};

use super::receiver::{ReceivedSpan, Receiver, Tap};
use super::waterfall;
use crate::assertions::{LIMIT, await_outcomes};
use crate::run;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PRODUCER: &str = "00f067aa0ba902b7";
const UNRECORDED: &str = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-00";
/// Maximum time of a drain: that of the calls, and of the last spans.
const DRAIN_MAX: Duration = Duration::from_secs(15);

fn headers(pairs: &[(&str, &[u8])]) -> OwnedHeaders {
    pairs.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header {
            key,
            value: Some(*value),
        })
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits until this number of spans have come, and returns them by their start.
fn await_spans(receiver: &Receiver, count: usize) -> Result<Vec<ReceivedSpan>> {
    await_until(&format!("{count} spans are received"), LIMIT, || {
        let mut spans = receiver.spans();
        spans.sort_by_key(|received| received.span.start_time_unix_nano);
        Ok(match spans.len() >= count {
            true => ControlFlow::Break(spans),
            false => ControlFlow::Continue(format!("{spans:?}")),
        })
    })
}

/// Asserts name, service, kind, parent and attributes of a span. Returns its id.
fn check(
    received: &ReceivedSpan,
    (name, service, kind): (&str, &str, SpanKind),
    parent: &str,
    attributes: &[(&str, &str)],
) -> Result<String> {
    let span = &received.span;
    let found = (
        hex(&span.trace_id),
        span.name.as_str(),
        received.service.as_str(),
        span.kind,
        hex(&span.parent_span_id),
    );
    let expected = (TRACE.to_owned(), name, service, kind as i32, parent.to_owned());
    ensure!(found == expected, "found {found:?}, expected {expected:?}");
    for (name, value) in attributes {
        let found = received.attribute(name);
        ensure!(
            found == *value,
            "{name} is {found:?} instead of {value:?}: {span:?}"
        );
    }
    Ok(hex(&span.span_id))
}

#[test]
fn trace_leads_from_the_producer_to_the_api() {
    run(|| {
        let mut pipeline = Pipeline::create("traces", 1)?;
        let api = Api::start(&pipeline, &[])?;
        api.change_faults(r#"{"before_503":1}"#)?;
        let (receiver, tap) = (
            Receiver::start("authorization: bearer of-spans\r\n")?,
            Tap::start(&api.url)?,
        );
        let headers_file = pipeline.folder().join("receiver-headers");
        std::fs::write(&headers_file, "authorization: bearer of-spans\n")?;
        let traced = |settings: harness::process::settings::Settings| {
            settings
                .with("traces.endpoint", &receiver.url)
                .with("traces.headers_file", &headers_file)
        };
        let settings = traced(pipeline.validator_settings(1));
        let mut validator = pipeline.service("validator", 1, settings)?;
        let settings = traced(pipeline.caller_settings(1, &tap.url)).with("caller.on_ambiguous", "retry");
        let mut caller = pipeline.service("caller", 1, settings)?;
        for service in [&mut validator, &mut caller] {
            service.process.start()?;
            await_ready(service, LIMIT)?;
        }
        let topics = pipeline.topics.clone();
        let send = |id: &str, headers| send_with(&pipeline.kafka, &topics.orders, &[order(0, id)], headers);

        let recorded = headers(&[
            ("traceparent", format!("00-{TRACE}-{PRODUCER}-01").as_bytes()),
            ("tracestate", b"shop=7"),
        ]);
        send("order-recorded", recorded.clone())?;
        await_until("the API has seen a request", LIMIT, || {
            let seen = tap.headers("traceparent").len();
            Ok(if seen > 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(seen.to_string())
            })
        })?;
        api.change_faults(r#"{"before_503":0}"#)?;
        await_outcomes(&pipeline, 1)?;
        let attempts = tap.headers("traceparent");
        ensure!(
            attempts.len() >= 2,
            "one attempt was answered with 503: {attempts:?}"
        );

        // One trace.
        let spans = await_spans(&receiver, 2 + attempts.len())?;
        ensure!(spans.len() == 2 + attempts.len(), "{spans:#?}");
        let (orders, pending) = (&topics.orders, &topics.pending);
        let own = check(
            &spans[0],
            (
                &format!("process {orders}"),
                "outbox-validator",
                SpanKind::Consumer,
            ),
            PRODUCER,
            &[
                ("messaging.system", "kafka"),
                ("messaging.operation.name", "process"),
                ("messaging.operation.type", "process"),
                ("messaging.destination.name", orders),
                ("messaging.destination.partition.id", "0"),
                ("messaging.kafka.offset", "0"),
                ("messaging.consumer.group.name", &pipeline.validator_group),
                ("outbox.verdict", "admit"),
                ("outbox.transaction", "committed"),
            ],
        )?;
        let call = check(
            &spans[1],
            (&format!("process {pending}"), "outbox-caller", SpanKind::Consumer),
            &own,
            &[
                ("messaging.destination.name", pending),
                ("messaging.consumer.group.name", &pipeline.caller_group),
                ("outbox.call.end", "accepted"),
            ],
        )?;
        for (number, (received, seen)) in (1..).zip(spans[2..].iter().zip(&attempts)) {
            let is_last = number == attempts.len();
            let again = if number == 1 {
                String::new()
            } else {
                (number - 1).to_string()
            };
            let attempt = check(
                received,
                ("POST", "outbox-caller", SpanKind::Client),
                &call,
                &[
                    ("http.request.method", "POST"),
                    ("http.response.status_code", if is_last { "201" } else { "503" }),
                    ("error.type", if is_last { "" } else { "503" }),
                    ("http.request.resend_count", &again),
                    ("outbox.call.attempt", &number.to_string()),
                    ("url.full", &tap.url),
                    ("server.address", "127.0.0.1"),
                ],
            )?;
            ensure!(*seen == format!("00-{TRACE}-{attempt}-01"), "the API saw {seen}");
        }
        ensure!(tap.headers("tracestate").iter().all(|state| state == "shop=7"));
        ensure!(tap.headers("tracestate").len() == attempts.len());
        let outcomes = read_topic(&pipeline.kafka, &topics.processed, Keep::Fingerprints)?;
        let carried = outcomes[0].header("traceparent").context("the outcome's trace")?;
        ensure!(carried == format!("00-{TRACE}-{call}-01"), "{carried}");
        let attributes = format!("{spans:?}");
        for secret in ["customer-1", "order-recorded", "bearer"] {
            ensure!(!attributes.contains(secret), "{secret} is in {attributes}");
        }
        if let Some(file) = std::env::var_os("OUTBOX_WRITE_TRACE") {
            waterfall::write(&spans, &PathBuf::from(file))?;
        }

        // None of these is recorded, and each is called.
        send(
            "order-unrecorded",
            headers(&[("traceparent", UNRECORDED.as_bytes())]),
        )?;
        send("order-without", OwnedHeaders::new())?;
        let long = [&b"01-"[..], &[b'-'; 100_000]].concat();
        send(
            "order-hostile",
            headers(&[("traceparent", &long), ("tracestate", b"a=1\r\nx-charge: twice")]),
        )?;
        await_outcomes(&pipeline, 4)?;
        let seen = tap.headers("traceparent")[attempts.len()..].to_vec();
        ensure!(seen[0] == UNRECORDED, "{seen:?}");
        ensure!(
            seen.iter().all(|value| value.len() == UNRECORDED.len()),
            "{seen:?}"
        );
        ensure!(tap.headers("x-charge").is_empty());

        // A duplicate, which no caller sees.
        send("order-recorded", recorded.clone())?;
        let spans = await_spans(&receiver, 3 + attempts.len())?;
        let last = spans.last().context("a span")?;
        check(
            last,
            (
                &format!("process {orders}"),
                "outbox-validator",
                SpanKind::Consumer,
            ),
            PRODUCER,
            &[
                ("outbox.verdict", "duplicate"),
                ("outbox.transaction", "committed"),
            ],
        )?;
        ensure!(spans.len() == 3 + attempts.len(), "{spans:#?}");

        // Payments go on without the receiver.
        receiver.close();
        send("order-unseen", recorded)?;
        await_outcomes(&pipeline, 5)?;
        for service in [&mut caller, &mut validator] {
            service.process.terminate(DRAIN_MAX)?;
            let log = service.process.log_since_start()?;
            ensure!(log.contains("traces not exported, spans may be dropped"), "{log}");
        }
        pipeline.passed();
        Ok(())
    });
}
