//! G6: a commit of call notes that reaches the coordinator late makes no caller forget an intent.
//!
//! Set-up: one caller under `park` behind a proxy, and an API that does not respond. The connection breaks
//! after the commit with the intent of the first call was sent, and librdkafka sends the commit again, which
//! is acknowledged. The second call is committed and sent. Then the first copy of the first commit reaches the
//! coordinator, the caller is killed, and another one takes over.
//!
//! Must hold: the coordinator rejects the late copy, because the caller has joined again since, and the API
//! gets one request for each order at most. The same scenario runs without the guard
//! `guard-commit-in-flight`, which makes the caller join again; there the late copy wipes out the intent of the
//! second call, and the API must get a second request for it.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use anyhow::{Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::orders::manual::{order, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::proxy::Proxy;
use harness::proxy::delayed_offset_commit::DelayedOffsetCommit;
use harness::read_back::topics::{Keep, Record, read_topic};
use harness::wait::await_until;

use crate::assertions::LIMIT;
use crate::fixtures::ProxiedPipeline;
use crate::run;

const FIRST: &str = "first";
const SECOND: &str = "second";

#[test]
fn delayed_commit_hides_no_intent() {
    run(|| {
        let proxied = ProxiedPipeline::start(DelayedOffsetCommit::plain(), "late-commit", 1)?;
        let proxy = &proxied.proxy;
        let guarded = requests_after_delayed_commit(&proxied.pipeline, proxy, "", UNKNOWN_MEMBER_ID)?;
        ensure!(
            guarded.values().all(|requests| *requests == 1) && guarded.contains_key(SECOND),
            "the API got another number of requests than one for an order: {guarded:?}"
        );
        let mut unguarded = Pipeline::on(proxy.address(), "late-commit-unguarded", 1)?;
        unguarded.create_topics()?;
        let requests =
            requests_after_delayed_commit(&unguarded, proxy, "guard-commit-in-flight=return", SUCCESS)?;
        ensure!(
            requests.get(SECOND) == Some(&2),
            "without its guard the second order must be requested twice, and the API got {requests:?}"
        );
        unguarded.passed();
        drop(unguarded);
        proxied.passed();
        Ok(())
    });
}

/// Kafka's error codes in the response to the delayed request.
const SUCCESS: i16 = 0;
const UNKNOWN_MEMBER_ID: i16 = 25;

/// Delays the first commit of a caller until a second call is in flight, kills the caller and lets another one
/// take over. Fails unless the delayed request is answered with this error code; returns the number of
/// requests for each order.
fn requests_after_delayed_commit(
    pipeline: &Pipeline,
    proxy: &Proxy<DelayedOffsetCommit>,
    failpoints: &str,
    error_code: i16,
) -> Result<BTreeMap<String, usize>> {
    let rule = proxy.rule();
    pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
    // It takes each request, and responds to none while the scenario runs.
    let api = Api::start(pipeline, &["--latency=10m".into()])?;
    let caller = |number| {
        let settings = pipeline
            .caller_settings(number, &api.url)
            .with("caller.on_ambiguous", Policy::Park.as_str())
            .with("api.timeout", "2m")
            .with("caller.drain_timeout", "3m");
        pipeline.service("caller", number, settings)
    };
    let (mut killed, mut successor) = (caller(1)?, caller(2)?);
    let mut validator = pipeline.validator(1)?;
    validator.process.start()?;
    killed.process.start_with(&[("FAILPOINTS", failpoints)])?;
    await_ready(&mut killed, LIMIT)?;

    rule.delay_next(&pipeline.caller_group);
    send(&pipeline.kafka, &pipeline.topics.orders, &[order(0, FIRST)])?;
    // Joined again, the caller does not know whether it was sent, and parks it.
    await_taken(pipeline, &api, &mut killed, FIRST)?;
    ensure!(
        rule.is_withheld(),
        "the first call was made before its intent was committed"
    );
    send(&pipeline.kafka, &pipeline.topics.orders, &[order(0, SECOND)])?;
    await_until("the second call is in flight", LIMIT, || {
        killed.expect_running()?;
        let requests = requests(&api)?;
        Ok(if requests.contains_key(SECOND) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{requests:?}"))
        })
    })?;
    rule.release();
    let code = await_until("the coordinator answers the delayed commit", LIMIT, || {
        Ok(match rule.delayed_response_error() {
            Some(code) => ControlFlow::Break(code),
            None => ControlFlow::Continue("no response yet".into()),
        })
    })?;
    ensure!(
        code == error_code,
        "Kafka answers the delayed commit with error code {code}, expected {error_code}"
    );
    killed.process.kill()?;

    successor.process.start()?;
    await_until("the second call is parked or made again", LIMIT, || {
        successor.expect_running()?;
        let (requests, parked) = (requests(&api)?, parked(pipeline)?);
        Ok(if parked.contains(SECOND) || requests.get(SECOND) != Some(&1) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{requests:?}, parked {parked:?}"))
        })
    })?;
    // Killed, not drained: the API never responds.
    successor.process.kill()?;
    validator.process.kill()?;
    requests(&api)
}

/// Waits until the call was sent, or parked.
fn await_taken(pipeline: &Pipeline, api: &Api, caller: &mut Service, id: &str) -> Result<()> {
    await_until(&format!("the call of {id} is sent or parked"), LIMIT, || {
        caller.expect_running()?;
        let (requests, parked) = (requests(api)?, parked(pipeline)?);
        Ok(if requests.contains_key(id) || parked.contains(id) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{requests:?}, parked {parked:?}"))
        })
    })
}

/// Returns the number of requests for each order.
fn requests(api: &Api) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for request in api.requests()? {
        *counts.entry(request.order_id).or_default() += 1;
    }
    Ok(counts)
}

/// Returns the ids of the parked orders.
fn parked(pipeline: &Pipeline) -> Result<HashSet<String>> {
    let parked = read_topic(&pipeline.kafka, &pipeline.topics.parked, Keep::Fingerprints)?;
    Ok(parked.iter().map(Record::key_text).collect())
}
