//! G6: the call notes of a deferral that reach the coordinator late make no caller forget a later call.
//!
//! Set-up: one caller under `park` behind a proxy, and an API that throttles one order forever. The connection
//! breaks after the caller has sent the call notes of the first deferral, and librdkafka sends them again,
//! which is acknowledged. Another order is paid. The throttled order is deferred once more; within that
//! transaction, after its own call notes, the first copy of the earlier ones reaches the coordinator. The
//! caller is killed once the transaction is committed, and another one takes over.
//!
//! Must hold: the coordinator rejects the late copy, because the second deferral has a producer of its own,
//! and the API gets one request for the paid order. Without `guard-deferral-epoch`, with one producer for both, the
//! late copy becomes part of the second deferral, and the API gets a second request for the paid order.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::orders::manual::{order, send};
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::proxy::Proxy;
use harness::proxy::delayed_offset_commit::DelayedOffsetCommit;
use harness::wait::{await_until, pause};

use crate::assertions::LIMIT;
use crate::fixtures::ProxiedPipeline;
use crate::run;

/// Order that the API throttles forever, as its seed and these rates decide; it accepts all others.
const THROTTLED: &str = "failing-3";
const FAULTS: [&str; 2] = ["--seed=1", "--failing-orders=0.02"];
/// Maximum number of orders before the first deferral.
const BEFORE_MAX: u32 = 36;
/// Order that is paid between the two deferrals.
const PAID: &str = "paid";
/// Order that the successor pays.
const LAST: &str = "last";

#[test]
fn delayed_deferral_hides_no_later_call() {
    run(|| {
        let proxied = ProxiedPipeline::start(DelayedOffsetCommit::transactional(), "late-deferral", 1)?;
        let proxy = &proxied.proxy;
        let (error_code, requests) = requests_after_delayed_deferral(&proxied.pipeline, proxy)?;
        ensure!(
            error_code != SUCCESS,
            "Kafka took the delayed call notes of an earlier producer"
        );
        ensure!(
            requests == 1,
            "the API got {requests} requests for the paid order, expected one (error code {error_code})"
        );
        proxied.passed();
        Ok(())
    });
}

/// Kafka's error code in the response to a request that was accepted.
const SUCCESS: i16 = 0;
/// The first deferral passes; the caller freezes before the end of the second, and is killed behind it.
const FAILPOINTS: &str =
    "frozen-before-deferral-end=1*off->1*return->off;after-deferral-end=1*off->1*return->off";

/// Delays the call notes of the first deferral until the second, kills the caller and lets another one take
/// over. Returns Kafka's error code in the response to the delayed request, and the number of requests for the
/// paid order.
fn requests_after_delayed_deferral(
    pipeline: &Pipeline,
    proxy: &Proxy<DelayedOffsetCommit>,
) -> Result<(i16, usize)> {
    let rule = proxy.rule();
    let (kafka, orders) = (&pipeline.kafka, &pipeline.topics.orders);
    pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
    let api = Api::start(pipeline, &FAULTS.map(str::to_owned))?;
    let caller = |number| {
        let settings = pipeline
            .caller_settings(number, &api.url)
            .with("caller.on_ambiguous", Policy::Park.as_str())
            // Fast retries, so that the call has failed often enough to be deferred within a second.
            .with("retry.backoff_initial", "50ms")
            .with("retry.backoff_max", "200ms")
            .with("retry.retry_after_max", "50ms")
            .with("deferral.defer_after", "1s");
        pipeline.service("caller", number, settings)
    };
    let (mut killed, mut successor) = (caller(1)?, caller(2)?);
    let mut validator = pipeline.validator(1)?;
    validator.process.start()?;
    killed.process.start_with(&[("FAILPOINTS", FAILPOINTS)])?;
    await_ready(&mut killed, LIMIT)?;

    rule.delay_next(&pipeline.caller_group);
    send(kafka, orders, &[order(0, THROTTLED)])?;
    // A call is deferred only while others succeed.
    for number in 0..BEFORE_MAX {
        if rule.is_withheld() {
            break;
        }
        send(kafka, orders, &[order(0, &format!("before-{number}"))])?;
        pause(Duration::from_millis(200))?;
    }
    ensure!(rule.is_withheld(), "the throttled call was not deferred");
    let requests_of = |id: &str| -> Result<usize> {
        let requests = api.requests()?;
        Ok(requests.iter().filter(|request| request.order_id == id).count())
    };
    // The copy is tried for as long as the call was, and the next success then makes it due.
    pause(Duration::from_secs(2))?;
    send(kafka, orders, &[order(0, PAID)])?;
    killed.process.wait_frozen(LIMIT)?;
    ensure!(
        requests_of(PAID)? == 1,
        "the caller was to be frozen in the second deferral, behind the paid order"
    );
    rule.release();
    let error_code = await_until("the coordinator answers the delayed call notes", LIMIT, || {
        Ok(match rule.delayed_response_error() {
            Some(code) => ControlFlow::Break(code),
            None => ControlFlow::Continue("no response yet".into()),
        })
    })?;
    println!("Kafka answers the delayed call notes with error code {error_code}");
    killed.process.thaw()?;
    killed.process.wait_killed(LIMIT)?;

    successor.process.start()?;
    send(kafka, orders, &[order(0, LAST)])?;
    await_until("the successor has made its calls", LIMIT, || {
        successor.expect_running()?;
        let (paid, last) = (requests_of(PAID)?, requests_of(LAST)?);
        Ok(if last > 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{paid} requests for {PAID}, {last} for {LAST}"))
        })
    })?;
    // Calls of other keys are made at the same time; the earlier one may come a moment later.
    pause(Duration::from_secs(1))?;
    let requests = requests_of(PAID)?;
    successor.process.kill()?;
    validator.process.kill()?;
    Ok((error_code, requests))
}
