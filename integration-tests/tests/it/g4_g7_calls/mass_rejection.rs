//! G4: an API that rejects everything, as with a wrong route or an expired account, does not turn the outbox
//! into dead letters.
//!
//! Set-up: one caller, 3,000 calls, and an API that rejects each of them, until it accepts all.
//!
//! Must hold: fewer calls than `circuit_breaker.rejection_threshold` become dead letters; the caller says so
//! on `/readyz` and in its metrics, and probes once per interval; once the API accepts calls, each other call
//! is charged exactly once and has its outcome.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::cluster;
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::pause;

use super::api_outage::{CALLS_IN_FLIGHT_MAX, DRAIN_MAX, PARTITIONS, PROBE_INTERVAL, await_calls, feed};
use crate::assertions::{LIMIT, await_unready, await_verdicts, counter};
use crate::{run, seed};

const CALLS: u64 = 3_000;
/// Default of the caller's setting: rejections among the last calls that open the circuit breaker.
const REJECTION_THRESHOLD: u64 = 60;
/// Time for which calls are still rejected after the circuit breaker has opened.
const STILL_REJECTED: Duration = Duration::from_secs(12);

#[test]
fn mass_rejection_keeps_the_calls() {
    run(|| {
        rejects_everything("rejects-all-retry", Policy::Retry)?;
        rejects_everything("rejects-all-park", Policy::Park)
    });
}

fn rejects_everything(name: &str, policy: Policy) -> Result<()> {
    let seed = seed();
    let mut pipeline = Pipeline::create(name, PARTITIONS)?;
    let api = Api::start(
        &pipeline,
        &[
            format!("--seed={seed}"),
            "--latency=2ms".into(),
            "--reject=1".into(),
        ],
    )?;
    let mut validator = pipeline.validator(1)?;
    let settings = pipeline
        .caller_settings(1, &api.url)
        .with("caller.on_ambiguous", policy.as_str());
    let mut caller = pipeline.service("caller", 1, settings)?;
    validator.process.start()?;
    caller.process.start()?;
    await_ready(&mut validator, LIMIT)?;
    await_ready(&mut caller, LIMIT)?;
    let calls = feed(&pipeline, seed, CALLS).finish()?;
    await_verdicts(&pipeline)?;
    let reason = await_unready(
        &mut caller,
        &[
            "\"api\"",
            &api.url,
            "has rejected most calls since",
            "status 422",
            &pipeline.topics.call_dead_letters,
        ],
    )?;
    println!("{reason}");
    let opened = Instant::now();
    pause(STILL_REJECTED)?;
    let still = await_unready(&mut caller, &["\"api\"", "has rejected most calls since"])?;
    ensure!(
        still != reason,
        "the reason did not change, so no probe was made: {still}"
    );
    let (trips, outages) = (
        counter(&caller, "outbox_api_mass_rejections_total")?,
        counter(&caller, "outbox_api_outages_total")?,
    );
    ensure!(
        (trips, outages) == (1, 0),
        "{trips} mass rejections and {outages} outages are counted, expected 1 and 0"
    );
    let requests = api.stats()?.requests;
    let intervals = opened.elapsed().as_secs() / PROBE_INTERVAL.as_secs();
    ensure!(
        requests <= REJECTION_THRESHOLD + CALLS_IN_FLIGHT_MAX + intervals + 1,
        "{requests} requests while everything was rejected, {intervals} probe intervals after the first"
    );
    let dead_letters = read_topic(
        &pipeline.kafka,
        &pipeline.topics.call_dead_letters,
        Keep::Fingerprints,
    )?;
    let dead_letters = u64::try_from(dead_letters.len())?;
    ensure!(
        (1..REJECTION_THRESHOLD).contains(&dead_letters),
        "{dead_letters} of {calls} calls became dead letters, expected fewer than {REJECTION_THRESHOLD}"
    );
    let lag = cluster::lag(&pipeline.kafka, &pipeline.caller_group, &pipeline.topics.pending)?;
    ensure!(
        lag >= i64::try_from(calls - REJECTION_THRESHOLD)?,
        "the group's lag is {lag} calls, expected all that are kept"
    );

    api.change_faults(r#"{"reject": 0}"#)?;
    await_ready(&mut caller, LIMIT)?;
    await_calls(&pipeline)?;
    for service in [&mut validator, &mut caller] {
        service.process.terminate(DRAIN_MAX)?;
    }
    let log = caller.process.log_since_start()?;
    ensure!(
        log.contains("most calls are rejected") && log.contains("operator action required"),
        "the log does not name the mass rejection"
    );
    let stats = api.stats()?;
    let finals = |topic: &str| -> Result<u64> {
        let records = read_topic(&pipeline.kafka, topic, Keep::Fingerprints)?;
        u64::try_from(records.len()).context("counting records")
    };
    let topics = &pipeline.topics;
    let (outcomes, rejected, parked) = (
        finals(&topics.processed)?,
        finals(&topics.call_dead_letters)?,
        finals(&topics.parked)?,
    );
    println!("{name}: {outcomes} outcomes, {rejected} dead letters, {parked} parked; {stats:?}");
    ensure!(
        (outcomes, rejected, parked) == (calls - dead_letters, dead_letters, 0),
        "{outcomes} outcomes, {rejected} dead letters and {parked} parked of {calls} calls, {dead_letters} of \
         which were dead letters before"
    );
    ensure!(
        (stats.charges, stats.orders_charged_more_than_once) == (outcomes, 0),
        "{} charges for {outcomes} outcomes, {} orders were charged more than once",
        stats.charges,
        stats.orders_charged_more_than_once
    );
    pipeline.passed();
    Ok(())
}
