//! The API is down and a backlog waits: the caller says so, keeps its partitions and its memory, asks now and then
//! whether the API is back, and goes on within one probe interval of its return. Nothing is lost.

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

use crate::assertions::{LIMIT, await_unready, await_verdicts, counter};
use crate::{in_turn, seed};

const PARTITIONS: i32 = 6;
const API_LATENCY: Duration = Duration::from_millis(2);
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// The defaults of the caller's settings: what it takes to see an outage, and how often it probes.
const FAILURES_MAX: u64 = 10;
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const CALLS_IN_FLIGHT_MAX: u64 = 64;

/// What a machine that is busy with other things adds to a probe interval.
const LATE_MAX: Duration = Duration::from_secs(2);

/// Calls that go through before, so that all that is ever allocated for a call in flight is.
const CALLS_BEFORE: u64 = 5_000;

/// The backlog takes at least 1 KiB for each call if it is read into memory; what may be held is a fraction of this.
const GROWTH_KIB_MAX: u64 = 16 * 1024;

/// How long the API is down, and how many calls wait meanwhile: more with `OUTBOX_TEST_OUTAGE=60s`.
fn outage() -> Result<(Duration, u64)> {
    let short = Duration::from_secs(20);
    let time = match std::env::var("OUTBOX_TEST_OUTAGE") {
        Ok(text) => humantime::parse_duration(&text).context("OUTBOX_TEST_OUTAGE is a time such as 60s")?,
        Err(_) => short,
    };
    ensure!(
        time >= short,
        "OUTBOX_TEST_OUTAGE is {time:?}, which is no outage"
    );
    Ok((time, if time > short { 50_000 } else { 30_000 }))
}

#[test]
fn a_caller_waits_for_an_api_that_is_down_and_goes_on_within_one_probe_interval() {
    in_turn(|| down_with_a_backlog("api-down", Policy::Retry));
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
    let generations_before = generations(&pipeline.kafka, &pipeline.caller_group)?;
    let requests_before = counter(&caller, "outbox_calls_requests_total")?;

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
    pause(time.saturating_sub(went_down.elapsed()))?;
    let still = await_unready(&mut caller, &["\"api\"", "has been unhealthy since"])?;
    ensure!(still != reason, "no probe has told anything new: {still}");
    let outages = counter(&caller, "outbox_api_outages_total")?;
    ensure!(outages == 1, "{outages} outages are counted, and there is one");
    let open = gauges(&caller, "outbox_api_breaker")?;
    ensure!(
        open.contains("{state=\"closed\"} 0"),
        "the breaker is closed:\n{open}"
    );
    let requests = counter(&caller, "outbox_calls_requests_total")? - requests_before;
    let intervals = went_down.elapsed().as_secs() / PROBE_INTERVAL.as_secs();
    ensure!(
        requests <= FAILURES_MAX + CALLS_IN_FLIGHT_MAX + intervals + 1,
        "{requests} requests in {intervals} probe intervals of an outage"
    );
    let memory_during = memory(&caller)?;
    let lag = cluster::lag(&pipeline.kafka, &pipeline.caller_group, &pipeline.topics.pending)?;
    let waiting = i64::try_from(backlog)?;
    ensure!(lag >= waiting, "{lag} calls wait, and there are {waiting}");

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
        "{name}: down for {time:?} with {backlog} calls waiting: {requests} requests meanwhile; the first one {first} ms \
         after its return; peak memory {memory_before} KiB before, {memory_during} KiB at the end; generations of the \
         group {generations_before:?}, then {generations_after:?}"
    );
    let within = u64::try_from((PROBE_INTERVAL + LATE_MAX).as_millis())?;
    ensure!(
        first <= within,
        "the first call came {first} ms after the API's return"
    );
    ensure!(
        memory_during <= memory_before + GROWTH_KIB_MAX,
        "the peak of its memory went from {memory_before} to {memory_during} KiB"
    );
    ensure!(
        generations_before == generations_after && rejoins == 0,
        "the group was rebalanced: {generations_before:?}, then {generations_after:?}, {rejoins} rejoins"
    );
    let two = findings::stage_two_with_policy(policy, &pipeline, &api, &[])?;
    println!("{:?}", two.counts);
    findings::expect_no_violations(&two.violations)?;
    let finals = two.counts.accepted + two.counts.rejected + two.counts.parked;
    ensure!(
        finals == before + rest,
        "{finals} calls have ended, of {}",
        before + rest
    );
    pipeline.passed();
    Ok(())
}

fn feed(pipeline: &Pipeline, seed: u64, count: u64) -> Feed {
    Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: PARTITIONS,
        orders: Orders::Generated(Mix::all_fresh(seed)),
        count,
        per_second: None,
    })
}

/// Waits until each pending call is final and committed.
fn await_calls(pipeline: &Pipeline) -> Result<()> {
    let (group, topic) = (&pipeline.caller_group, &pipeline.topics.pending);
    await_until("each pending call is final", LIMIT, || {
        Ok(match cluster::lag(&pipeline.kafka, group, topic)? {
            // The marker of the last transaction of a partition is not a call.
            lag if lag <= i64::from(PARTITIONS) => ControlFlow::Break(()),
            lag => ControlFlow::Continue(format!("{lag} are not")),
        })
    })
}

fn memory(service: &Service) -> Result<u64> {
    peak_kib(service.process.id().context("it does not run")?)
}

/// The lines of a gauge.
fn gauges(service: &Service, name: &str) -> Result<String> {
    let (_, metrics) = Http::new()?.get(&format!("{}/metrics", service.admin))?;
    let lines: Vec<&str> = metrics.lines().filter(|line| line.starts_with(name)).collect();
    Ok(lines.join("\n"))
}
