//! Rolling upgrade: the programs of one version replace those of another, one after the other and under load.
//!
//! Set-up: two validators and two callers of the previous version, whose folder is `OUTBOX_PREVIOUS_BIN_DIR`;
//! `scripts/test upgrade` builds it from a commit. Without it both sides are the same build, which the output
//! says. Orders flow all the time, and the API takes 50 ms. Each program gets SIGTERM, and once it has exited its
//! successor starts with the same settings, instance id and state directory, as in a StatefulSet. Then the
//! previous version comes back in the same way, as after an upgrade that is undone.
//!
//! Must hold: no order is lost or duplicated. Under `park` no call is parked, since none became ambiguous, and
//! each call is one request and one outcome.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::check::{findings, stores};
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Mix, Orders};
use harness::pipeline::{Pipeline, Service};
use harness::process::folder;
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::stores::read_stores;
use harness::read_back::tail::Tail;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;

use crate::assertions::{LIMIT, await_verdicts};
use crate::{run, seed};

/// Environment variable with the folder of the previous version's programs.
const PREVIOUS_VARIABLE: &str = "OUTBOX_PREVIOUS_BIN_DIR";
const PARTITIONS: i32 = 6;
const ORDERS_PER_SECOND: u64 = 200;
/// Outcomes between two replacements, so that each version works with what the other has left.
const OUTCOMES_BETWEEN: u64 = 300;
const DRAIN_MAX: Duration = Duration::from_secs(60);
const API_LATENCY: &str = "50ms";

#[test]
fn rolling_upgrade_loses_and_repeats_nothing() {
    run(|| {
        let seed = seed();
        let current = folder()?;
        let previous = previous_folder()?;
        let pipeline = Pipeline::create("upgrade", PARTITIONS)?;
        let api = Api::start(&pipeline, &["--latency", API_LATENCY].map(str::to_owned))?;
        let topics = &pipeline.topics;
        let outcomes = [&topics.processed, &topics.call_dead_letters, &topics.parked].map(String::as_str);
        let tail = Tail::start(&pipeline.kafka, &outcomes)?;
        let mut services = services(&pipeline, &api)?;
        for service in &mut services {
            service.process.replace_program(&previous)?;
            service.process.start()?;
            await_ready(service, LIMIT)?;
        }
        let orders = Orders::Generated(Mix::with_seed(seed));
        let feed = Feed::start(Plan {
            kafka: pipeline.kafka.clone(),
            topic: topics.orders.clone(),
            partitions: PARTITIONS,
            orders: orders.clone(),
            // More than can be sent meanwhile: the feed is stopped below.
            count: 1_000_000,
            per_second: Some(ORDERS_PER_SECOND),
        });
        let await_more = || {
            let wanted = tail.keys_of_all(&outcomes) + OUTCOMES_BETWEEN;
            await_outcomes(&tail, &outcomes, wanted)
        };
        for version in [&current, &previous] {
            for service in &mut services {
                await_more()?;
                service.process.terminate(DRAIN_MAX)?;
                service.process.replace_program(version)?;
                service.process.start()?;
                await_ready(service, LIMIT)?;
            }
        }
        await_more()?;
        let sent = feed.stop()?;
        await_verdicts(&pipeline)?;
        await_outcomes(&tail, &outcomes, findings::pending_keys(&pipeline)?)?;
        for service in &mut services {
            service.process.terminate(DRAIN_MAX)?;
        }
        expect_nothing_lost_or_repeated(pipeline, &api, &orders, sent)
    });
}

/// Returns the folder of the previous version's programs, and says which versions are compared.
fn previous_folder() -> Result<PathBuf> {
    let current = folder()?;
    let Some(previous) = std::env::var_os(PREVIOUS_VARIABLE) else {
        println!(
            "SAME BUILD ON BOTH SIDES: {PREVIOUS_VARIABLE} is not set, so this shows a rolling restart and no \
             difference between versions; `scripts/test upgrade` compares with an earlier commit"
        );
        return Ok(current);
    };
    let previous = PathBuf::from(previous);
    for name in ["validator", "caller"] {
        let read = |folder: &PathBuf| {
            let program = folder.join(name);
            std::fs::read(&program).with_context(|| format!("reading {}", program.display()))
        };
        let is_same = read(&previous)? == read(&current)?;
        println!(
            "{name} of {} {} that of {}",
            previous.display(),
            if is_same { "equals" } else { "differs from" },
            current.display()
        );
    }
    Ok(previous)
}

fn services(pipeline: &Pipeline, api: &Api) -> Result<Vec<Service>> {
    let mut services = vec![pipeline.validator(1)?, pipeline.validator(2)?];
    for number in [1, 2] {
        let settings = pipeline
            .caller_settings(number, &api.url)
            // A call that became ambiguous stays parked, where the checker finds it.
            .with("caller.on_ambiguous", Policy::Park.as_str());
        services.push(pipeline.service("caller", number, settings)?);
    }
    Ok(services)
}

fn await_outcomes(tail: &Tail, topics: &[&str], count: u64) -> Result<()> {
    await_until("calls have their outcomes", LIMIT, || {
        let outcomes = tail.keys_of_all(topics);
        Ok(if outcomes >= count {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{outcomes} of {count} have one"))
        })
    })
}

fn expect_nothing_lost_or_repeated(
    mut pipeline: Pipeline,
    api: &Api,
    orders: &Orders,
    sent: u64,
) -> Result<()> {
    let one = findings::stage_one(&pipeline, orders, sent)?;
    findings::expect_no_violations(&one.violations)?;
    let changelog = read_topic(&pipeline.kafka, &pipeline.topics.changelog, Keep::Values)?;
    findings::expect_no_violations(&stores::check(&changelog, &read_stores(&pipeline, &[1, 2])?))?;
    let two = findings::stage_two_with_policy(Policy::Park, &pipeline, api, &[])?;
    findings::expect_no_violations(&two.violations)?;
    let counts = &two.counts;
    println!(
        "rolling upgrade and back: {sent} orders, {} valid and distinct, {} in the outbox exactly once, {} \
         requests, {} accepted, 0 lost, 0 duplicated, {} ambiguous",
        one.distinct, one.counts.exactly_once, counts.requests, counts.accepted, counts.parked
    );
    ensure!(
        counts.accepted == one.distinct && counts.parked == 0 && counts.requests == counts.accepted,
        "expected one request and one outcome for each of {} calls: {counts:?}",
        one.distinct
    );
    ensure!(
        counts.outcomes_repeated == 0,
        "outcomes were repeated: {counts:?}"
    );
    pipeline.passed();
    Ok(())
}
