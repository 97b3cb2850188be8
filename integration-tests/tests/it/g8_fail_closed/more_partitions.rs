//! G8, G1: more partitions, step by step: no order is lost, none is admitted again, and no call is made again.
//!
//! Set-up: a validator and a caller have processed orders of two partitions, under `park`. The producers stop, the
//! programs too, and orders topic, outbox and changelog grow to five partitions. Then the producers go on; some of
//! their orders repeat earlier ones, whose keys have another partition now.
//!
//! Must hold: the validator halts until `outbox state repartition` has run; that refuses without the partitioner, or
//! with another one than the producers', and may be killed and run again. At the end each valid order is in the outbox
//! exactly once, and is one request and one outcome. So it is if the changelog is lost afterwards and rebuilt from the
//! outbox, which has the earlier orders on their former partitions. Without `guard-repartition`, which appends the keys
//! to their new partitions, orders are admitted again.

use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::check::{Violation, findings, listed};
use harness::cluster::Administrator;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Mix, Orders};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::tail::Tail;
use harness::wait::await_until;

use crate::assertions::{LIMIT, await_unready, await_verdicts, expect_refused_start};
use crate::g8_fail_closed::halted_partitions::{CHANGELOG_CONFIGS, recreate};
use crate::{run, seed};

const PARTITIONS: i32 = 2;
const PARTITIONS_LATER: i32 = 5;
/// Orders before and after the growth, each.
const ORDERS: u64 = 1_500;
const DRAIN_MAX: Duration = Duration::from_secs(30);

#[test]
fn keys_are_known_on_their_new_partitions() {
    run(|| {
        let (mut pipeline, violations) = grow("more", "", Changelog::Kept)?;
        findings::expect_no_violations(&violations)?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn changelog_of_grown_topics_is_rebuilt() {
    run(|| {
        let (mut pipeline, violations) = grow("more-rebuilt", "", Changelog::Lost)?;
        findings::expect_no_violations(&violations)?;
        pipeline.passed();
        Ok(())
    });
}

/// The same without the guard: the entries are not appended.
#[test]
fn keys_that_were_not_moved_are_detected() {
    run(|| {
        let (mut pipeline, violations) = grow("more-unguarded", "guard-repartition=return", Changelog::Kept)?;
        ensure!(
            !violations.is_empty(),
            "the guard was removed, and the checker found no violation"
        );
        println!("violations without the guard:\n{}", listed(&violations));
        pipeline.passed();
        Ok(())
    });
}

/// What becomes of the changelog after the keys were moved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changelog {
    Kept,
    Lost,
}

/// Runs all steps, with these failpoints in `outbox state repartition`, and returns the violations.
fn grow(name: &str, failpoints: &str, changelog: Changelog) -> Result<(Pipeline, Vec<Violation>)> {
    let orders = Orders::Generated(Mix::with_seed(seed()));
    let mut pipeline = Pipeline::create(name, PARTITIONS)?;
    let api = Api::start(&pipeline, &[])?;
    let tail = Tail::start(&pipeline.kafka, &outcome_topics(&pipeline))?;
    let (mut validator, mut caller) = services(&pipeline, &api)?;
    for service in [&mut validator, &mut caller] {
        service.process.start()?;
        await_ready(service, LIMIT)?;
    }
    let (kafka, topic) = (pipeline.kafka.clone(), pipeline.topics.orders.clone());
    let plan = |partitions, count| Plan {
        kafka: kafka.clone(),
        topic: topic.clone(),
        partitions,
        orders: orders.clone(),
        count,
        per_second: None,
    };
    Feed::start(plan(PARTITIONS, ORDERS)).finish()?;
    await_all(&pipeline, &tail)?;
    for service in [&mut validator, &mut caller] {
        service.process.terminate(DRAIN_MAX)?;
    }

    let administrator = Administrator::new(&pipeline.kafka)?;
    let topics = &pipeline.topics;
    for topic in [&topics.orders, &topics.pending, &topics.changelog] {
        administrator.grow_topic(topic, usize::try_from(PARTITIONS_LATER)?)?;
    }
    expect_refused_start(&mut validator, LIMIT, &["outbox state repartition"])?;
    fs::remove_dir_all(pipeline.state_folder(1)).context("removing the state directory")?;
    validator.process.start()?;
    await_unready(
        &mut validator,
        &["a topic has grown", "outbox state repartition --validators"],
    )?;
    expect_refused(&pipeline, "crc32", "has 1 members")?;
    validator.process.terminate(DRAIN_MAX)?;
    await_left(&pipeline)?;
    expect_refused(&pipeline, "any", "validator.partitioner is \"any\"")?;
    expect_refused(&pipeline, "murmur2", "is not that of the producers")?;

    repartition(&pipeline, failpoints)?;
    pipeline.partitions = PARTITIONS_LATER;
    if changelog == Changelog::Lost {
        recreate(&pipeline, &pipeline.topics.changelog, &CHANGELOG_CONFIGS)?;
        let refusal = "the topics have grown once";
        await_until("a rebuild without the partitioner is refused", LIMIT, || {
            match pipeline.rebuild_state() {
                Ok(output) => bail!("it went on, although the topics have grown:\n{output}"),
                Err(error) if format!("{error:#}").contains(refusal) => Ok(ControlFlow::Break(())),
                // The brokers report the new changelog a moment later.
                Err(error) => Ok(ControlFlow::Continue(format!("{error:#}"))),
            }
        })?;
        println!("{}", pipeline.rebuild_grown_state("crc32")?);
        fs::remove_dir_all(pipeline.state_folder(1)).context("removing the state directory")?;
    }
    pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
    for service in [&mut validator, &mut caller] {
        service.process.start()?;
        await_ready(service, LIMIT)?;
    }
    let sent = Feed::resume(plan(PARTITIONS_LATER, 2 * ORDERS), ORDERS).finish()?;
    await_all(&pipeline, &tail)?;
    for service in [&mut validator, &mut caller] {
        service.process.terminate(DRAIN_MAX)?;
    }

    let mut one = findings::stage_one(&pipeline, &orders, sent)?;
    let two = findings::stage_two_with_policy(Policy::Park, &pipeline, &api, &[])?;
    println!(
        "{PARTITIONS} to {PARTITIONS_LATER} partitions: {sent} orders, {} valid and distinct, {} in the outbox exactly \
         once, {} duplicates, {} requests, {} accepted",
        one.distinct, one.counts.exactly_once, one.duplicates, two.counts.requests, two.counts.accepted
    );
    one.violations.extend(two.violations);
    Ok((pipeline, one.violations))
}

/// Runs the command, which is killed before it commits the offsets, and runs again.
fn repartition(pipeline: &Pipeline, failpoints: &str) -> Result<()> {
    let killed = format!("repartition-before-offsets=return;{failpoints}");
    let (status, output) = pipeline.repartition_state("crc32", &[("FAILPOINTS", &killed)])?;
    ensure!(status.code().is_none(), "it was not killed ({status}):\n{output}");
    let again = || pipeline.repartition_state("crc32", &[("FAILPOINTS", failpoints)]);
    for expected in ["entries were appended", "nothing was changed"] {
        let (status, output) = again()?;
        ensure!(
            status.success() && output.contains(expected),
            "`outbox state repartition` exited with {status}, expected {expected:?}:\n{output}"
        );
        println!("{output}");
    }
    Ok(())
}

fn expect_refused(pipeline: &Pipeline, partitioner: &str, reason: &str) -> Result<()> {
    let (status, output) = pipeline.repartition_state(partitioner, &[])?;
    ensure!(
        !status.success() && output.contains(reason),
        "`outbox state repartition` exited with {status}, and was to refuse because {reason:?}:\n{output}"
    );
    Ok(())
}

/// Waits until the group has no member: a static one that has left counts until its session is over.
fn await_left(pipeline: &Pipeline) -> Result<()> {
    await_until("the validators' group has no member", LIMIT, || {
        let (_, output) = pipeline.repartition_state("any", &[])?;
        Ok(if output.contains("has 1 members") {
            ControlFlow::Continue(output)
        } else {
            ControlFlow::Break(())
        })
    })
}

fn services(pipeline: &Pipeline, api: &Api) -> Result<(Service, Service)> {
    let settings = pipeline
        .validator_settings(1)
        // The feed's.
        .with("validator.partitioner", "crc32");
    let validator = pipeline.service("validator", 1, settings)?;
    let settings = pipeline
        .caller_settings(1, &api.url)
        .with("caller.on_ambiguous", Policy::Park.as_str());
    Ok((validator, pipeline.service("caller", 1, settings)?))
}

fn outcome_topics(pipeline: &Pipeline) -> [&str; 3] {
    let topics = &pipeline.topics;
    [&topics.processed, &topics.call_dead_letters, &topics.parked].map(String::as_str)
}

/// Waits until each order has its verdict, and each call its outcome.
fn await_all(pipeline: &Pipeline, tail: &Tail) -> Result<()> {
    await_verdicts(pipeline)?;
    let pending = findings::pending_keys(pipeline)?;
    await_until("each call has its outcome", LIMIT, || {
        let outcomes = tail.keys_of_all(&outcome_topics(pipeline));
        Ok(if outcomes >= pending {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{outcomes} of {pending} have one"))
        })
    })
}
