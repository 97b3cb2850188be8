//! G4, G5: an API outage opens the circuit breaker; the caller waits, and resumes within one probe interval
//! of the API's return.
//!
//! Set-up: one caller and an API that goes down for 20 s while a backlog of 30,000 calls builds up.
//!
//! Must hold: the caller reports the outage on `/readyz`, in its metrics and to `outbox status`, sends nothing but one probe per
//! interval, keeps its memory bounded and its partitions assigned, and resumes within one probe interval. At
//! the end each call has its outcome.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::check::findings;
use harness::cluster;
use harness::http::Http;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Mix, Orders};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::process::memory::peak_kib;
use harness::read_back::group_generations::generations;
use harness::wait::{await_until, pause};
use records::Timestamp;
use serde_json::Value;

use crate::assertions::{LIMIT, await_unready, await_verdicts, counter, outbox_status};
use crate::{run, seed};

pub(super) const PARTITIONS: i32 = 6;
const API_LATENCY: Duration = Duration::from_millis(2);
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(60);

/// Defaults of the caller's settings: failures that open the circuit breaker, interval between probes, calls
/// in flight.
const FAILURE_THRESHOLD: u64 = 10;
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(5);
pub(super) const CALLS_IN_FLIGHT_MAX: u64 = 64;

/// Delay that a loaded machine may add to a probe interval.
const LATE_MAX: Duration = Duration::from_secs(2);

/// Number of calls made before the outage, so that all memory for calls in flight is allocated before the
/// measurement.
const CALLS_BEFORE: u64 = 5_000;

/// Maximum growth of the peak memory during the outage, in KiB.
// A backlog that is read into memory takes at least 1 KiB for each call, so more than this for 30,000 calls.
const GROWTH_KIB_MAX: u64 = 16 * 1024;

/// Returns the duration of the outage and the size of the backlog; `OUTBOX_TEST_OUTAGE=60s` sets a longer
/// one.
fn outage() -> Result<(Duration, u64)> {
    let short = Duration::from_secs(20);
    let time = match std::env::var("OUTBOX_TEST_OUTAGE") {
        Ok(text) => humantime::parse_duration(&text).context("OUTBOX_TEST_OUTAGE is a time such as 60s")?,
        Err(_) => short,
    };
    ensure!(
        time >= short,
        "OUTBOX_TEST_OUTAGE is {time:?}, expected at least {short:?}"
    );
    Ok((time, if time > short { 50_000 } else { 30_000 }))
}

#[test]
fn caller_resumes_within_a_probe_interval() {
    run(|| down_with_a_backlog("api-down", Policy::Retry));
}

fn down_with_a_backlog(name: &str, policy: Policy) -> Result<()> {
    let (time, backlog) = outage()?;
    let seed = seed();
    let mut pipeline = Pipeline::create(name, PARTITIONS)?;
    let latency = format!("--latency={}ms", API_LATENCY.as_millis());
    let api = Api::start(&pipeline, &[format!("--seed={seed}"), latency])?;
    let mut validator = pipeline.validator(1)?;
    let settings = pipeline
        .caller_settings(1, &api.url)
        .with("caller.on_ambiguous", policy.as_str());
    let mut caller = pipeline.service("caller", 1, settings)?;
    validator.process.start()?;
    caller.process.start()?;
    await_ready(&mut validator, LIMIT)?;
    await_ready(&mut caller, LIMIT)?;
    let before = feed(&pipeline, seed, CALLS_BEFORE).finish()?;
    await_verdicts(&pipeline)?;
    await_calls(&pipeline)?;
    let programs = [validator.admin.clone(), caller.admin.clone()];
    let programs = programs.each_ref().map(String::as_str);
    let (exit, sound) = outbox_status(&pipeline, &programs)?;
    ensure!(
        exit == Some(0) && breaker_of(&sound, 1) == "closed",
        "exit status {exit:?} before the outage: {sound}"
    );
    let generations_before = generations(&pipeline.kafka, &pipeline.caller_group)?;
    let requests_before = counter(&caller, "outbox_calls_requests_total")?;

    // For far longer than the outage lasts: `come_back` below ends it.
    let went_down = Instant::now();
    api.go_down(time + Duration::from_secs(3_600))?;
    let rest = feed(&pipeline, seed + 1, backlog);
    let memory_before = memory(&caller)?;
    let reason = await_unready(
        &mut caller,
        &["\"api\"", &api.url, "has been unhealthy since", "no-connection"],
    )?;
    println!("{reason}");
    let rest = rest.finish()?;
    await_verdicts(&pipeline)?;
    // The outage lasts its full time, however long the backlog took.
    pause(time.saturating_sub(went_down.elapsed()))?;
    let still = await_unready(&mut caller, &["\"api\"", "has been unhealthy since"])?;
    ensure!(
        still != reason,
        "the reason did not change, so no probe was made: {still}"
    );
    let outages = counter(&caller, "outbox_api_outages_total")?;
    ensure!(outages == 1, "{outages} outages are counted, expected 1");
    let open = gauges(&caller, "outbox_api_breaker")?;
    ensure!(
        open.contains("{state=\"closed\"} 0"),
        "the circuit breaker is closed during the outage:\n{open}"
    );
    let (exit, during) = outbox_status(&pipeline, &programs)?;
    let (validator_shown, caller_shown) =
        (&during["programs"][0]["status"], &during["programs"][1]["status"]);
    println!("{caller_shown:#}");
    ensure!(
        exit == Some(1)
            && ["open", "probing"].contains(&breaker_of(&during, 1))
            && caller_shown["reasons"][0]["condition"] == "api"
            && validator_shown["program"] == "validator"
            && validator_shown["ready"] == true,
        "exit status {exit:?} during the outage: {during}"
    );
    // What was in flight when the API went down fails too, and each probe is one request.
    let requests = counter(&caller, "outbox_calls_requests_total")? - requests_before;
    let intervals = went_down.elapsed().as_secs() / PROBE_INTERVAL.as_secs();
    ensure!(
        requests <= FAILURE_THRESHOLD + CALLS_IN_FLIGHT_MAX + intervals + 1,
        "{requests} requests in {intervals} probe intervals of an outage, expected one each after the first"
    );
    let memory_during = memory(&caller)?;
    // No call of the backlog may have been given a final state.
    let lag = cluster::lag(&pipeline.kafka, &pipeline.caller_group, &pipeline.topics.pending)?;
    let waiting = i64::try_from(backlog)?;
    ensure!(
        lag >= waiting,
        "the group's lag is {lag} calls, expected the whole backlog of {waiting}"
    );

    let came_back = u64::try_from(Timestamp::now().0)?;
    api.come_back()?;
    await_ready(&mut caller, LIMIT)?;
    await_calls(&pipeline)?;
    let generations_after = generations(&pipeline.kafka, &pipeline.caller_group)?;
    let rejoins = counter(&caller, "outbox_calls_rejoins_total")?;
    for service in [&mut validator, &mut caller] {
        service.process.terminate(DRAIN_MAX)?;
    }
    let first = api
        .requests()?
        .iter()
        .map(|request| request.arrived_at)
        .filter(|at| *at >= came_back)
        .min();
    let first = first.context("no call after the outage")? - came_back;
    println!(
        "{name}: API down for {time:?} with a backlog of {backlog} calls: {requests} requests meanwhile, \
         the first call {first} ms after its return; peak memory {memory_before} KiB before, \
         {memory_during} KiB at the end; group generations {generations_before:?}, then {generations_after:?}"
    );
    let within = u64::try_from((PROBE_INTERVAL + LATE_MAX).as_millis())?;
    ensure!(
        first <= within,
        "the first call came {first} ms after the API's return, expected at most {within} ms"
    );
    ensure!(
        memory_during <= memory_before + GROWTH_KIB_MAX,
        "the caller's peak memory grew from {memory_before} to {memory_during} KiB, expected at most \
         {GROWTH_KIB_MAX} KiB more"
    );
    ensure!(
        generations_before == generations_after && rejoins == 0,
        "the group was rebalanced during the outage: generations {generations_before:?}, then \
         {generations_after:?}, {rejoins} rejoins"
    );
    let two = findings::stage_two_with_policy(policy, &pipeline, &api, &[])?;
    println!("{:?}", two.counts);
    findings::expect_no_violations(&two.violations)?;
    let finals = two.counts.accepted + two.counts.rejected + two.counts.parked;
    ensure!(
        finals == before + rest,
        "{finals} of {} calls have a final state",
        before + rest
    );
    pipeline.passed();
    Ok(())
}

pub(super) fn feed(pipeline: &Pipeline, seed: u64, count: u64) -> Feed {
    Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: PARTITIONS,
        orders: Orders::Generated(Mix::all_new(seed)),
        count,
        per_second: None,
    })
}

/// Waits until each pending call is final, and the group has committed past it.
pub(super) fn await_calls(pipeline: &Pipeline) -> Result<()> {
    let (group, topic) = (&pipeline.caller_group, &pipeline.topics.pending);
    await_until("each pending call is final", LIMIT, || {
        Ok(match cluster::lag(&pipeline.kafka, group, topic)? {
            // The commit marker of the last transaction of each partition counts as lag and is no call.
            lag if lag <= i64::from(PARTITIONS) => ControlFlow::Break(()),
            lag => ControlFlow::Continue(format!("{lag} are not")),
        })
    })
}

/// Returns the state of the circuit breaker of a program that `outbox status` has asked.
fn breaker_of(status: &Value, program: usize) -> &str {
    let breaker = &status["programs"][program]["status"]["breaker"];
    breaker.as_str().unwrap_or_default()
}

/// Returns the peak memory of the process, in KiB.
fn memory(service: &Service) -> Result<u64> {
    peak_kib(service.process.id().context("the process does not run")?)
}

/// Returns the lines of a gauge in the metrics.
fn gauges(service: &Service, name: &str) -> Result<String> {
    let (_, metrics) = Http::new()?.get(&format!("{}/metrics", service.admin))?;
    let lines: Vec<&str> = metrics.lines().filter(|line| line.starts_with(name)).collect();
    Ok(lines.join("\n"))
}
