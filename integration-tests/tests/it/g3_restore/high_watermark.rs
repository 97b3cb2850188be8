//! G1, G3: a restore goes to the changelog's high watermark, not to its last stable offset.
//!
//! Kafka answers a commit once it is decided, and writes the markers afterwards, each partition's on its
//! own. Between the two, the orders' committed offset may be stable already, and the changelog not: who
//! took its last stable offset for its end would restore nothing, and admit a copy of an order that is
//! committed. A proxy between two brokers keeps that moment for as long as it takes to look at it.

use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::{Result, ensure};
use harness::check::findings;
use harness::check::{Guarantee, Violation, listed, stores};
use harness::cluster::two_brokers::TwoBrokers;
use harness::http::Http;
use harness::orders::Orders;
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::stores::read_stores;
use harness::read_back::topics::{Keep, high_watermarks, last_stable_offsets, read_topic};
use harness::wait::await_until;
use records::{Offset, Partition};

use crate::in_turn;
use crate::single_order_transactions::{LIMIT, await_committed, committed_offset, send, validator};

const ORDER: &[u8] = br#"{"order_id":"k0","amount":1250,"currency":"EUR","customer_id":"customer-1"}"#;

#[test]
fn a_restore_goes_to_the_high_watermark_and_one_that_does_not_is_found_out() {
    in_turn(|| {
        let brokers = TwoBrokers::start()?;
        findings::expect_no_violations(&story(&brokers, "guarded", Guard::Kept)?)?;
        found_out(&story(&brokers, "unguarded", Guard::Removed)?)?;
        brokers.passed();
        Ok(())
    });
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    Kept,
    Removed,
}

/// One order is sent twice. The first validator commits the first copy and dies before it hears more; the
/// second one takes over while the changelog's marker is still to be written, and meets the other copy.
fn story(brokers: &TwoBrokers, name: &str, guard: Guard) -> Result<Vec<Violation>> {
    let mut pipeline = pipeline(brokers, name)?;
    let mut first = validator(&pipeline, 1)?;
    first.process.start_with_crash_at("after-end", 0)?;
    await_ready(&mut first, LIMIT)?;

    brokers.proxy.hold();
    let orders = Orders::Lines(Arc::new(vec![ORDER.to_vec(), ORDER.to_vec()]));
    let sent = send(&pipeline, &orders, 2)?;
    first.process.wait_killed(LIMIT)?;
    await_between_markers(brokers, &pipeline)?;

    let mut second = validator(&pipeline, 2)?;
    match guard {
        Guard::Kept => {
            second.process.start()?;
            await_waiting(&mut second)?;
            // Nothing was decided without the changelog.
            expect_between_markers(&pipeline, Offset(1))?;
        }
        Guard::Removed => {
            second
                .process
                .start_with(&[("FAILPOINTS", "guard-high-watermark=return")])?;
            await_committed(&pipeline, Offset(2))?;
            await_ready(&mut second, LIMIT)?;
            expect_between_markers(&pipeline, Offset(2))?;
        }
    }
    brokers.proxy.release();
    await_committed(&pipeline, Offset(2))?;
    await_ready(&mut second, LIMIT)?;
    let counted = (counted(&second, "admit")?, counted(&second, "duplicate")?);
    let expected = match guard {
        Guard::Kept => (0, 1),
        Guard::Removed => (1, 0),
    };
    ensure!(
        counted == expected,
        "it admitted, and dropped as duplicates, {counted:?} orders in place of {expected:?}"
    );
    second.process.terminate(LIMIT)?;

    let found = findings::stage_one(&pipeline, &orders, sent)?;
    let changelog = read_topic(&pipeline.kafka, &pipeline.topics.changelog, Keep::Values)?;
    let mut violations = found.violations;
    violations.extend(stores::check(&changelog, &read_stores(&pipeline, &[2])?));
    println!(
        "{name}: {sent} copies of one order, {} violations",
        violations.len()
    );
    pipeline.passed();
    Ok(violations)
}

/// Without the guard, the order must be in the outbox twice; otherwise the story proves nothing.
fn found_out(violations: &[Violation]) -> Result<()> {
    ensure!(
        violations.iter().any(|found| found.guarantee == Guarantee::G1
            && found.finding.contains("\"k0\" is in the outbox 2 times")),
        "the guard was taken out, and the second copy is not found; found is only:\n{}",
        listed(violations)
    );
    println!("found out:\n{}", listed(violations));
    Ok(())
}

/// Everything lies on broker 1 but the changelog, whose markers go through the proxy.
fn pipeline(brokers: &TwoBrokers, name: &str) -> Result<Pipeline> {
    let pipeline = Pipeline::on(brokers.kafka.clone(), name, 1)?;
    let topics = &pipeline.topics;
    for topic in [&topics.orders, &topics.pending, &topics.order_dead_letters] {
        brokers.create_topic(topic, 1, &[])?;
    }
    brokers.create_topic(&topics.changelog, 2, &[("cleanup.policy", "compact")])?;
    Ok(pipeline)
}

/// Until the first copy is committed as far as the group can see, and the changelog's marker stands at the
/// proxy.
fn await_between_markers(brokers: &TwoBrokers, pipeline: &Pipeline) -> Result<()> {
    await_until("the changelog's marker comes to the proxy", LIMIT, || {
        Ok(match brokers.proxy.withheld_bytes() {
            0 => ControlFlow::Continue("nothing came".into()),
            _ => ControlFlow::Break(()),
        })
    })?;
    await_committed(pipeline, Offset(1))?;
    expect_between_markers(pipeline, Offset(1))
}

/// So many copies have their verdict, and the changelog's first marker is not written.
fn expect_between_markers(pipeline: &Pipeline, committed: Offset) -> Result<()> {
    let (kafka, changelog) = (&pipeline.kafka, &pipeline.topics.changelog);
    let stable = last_stable_offsets(kafka, changelog)?;
    let ends = high_watermarks(kafka, changelog)?;
    ensure!(
        stable == [(Partition(0), Offset(0))] && ends == [(Partition(0), committed)],
        "with {committed} orders committed and no marker in the changelog, its end must be {committed} and its \
         last stable offset 0; they are {ends:?} and {stable:?}"
    );
    let seen = committed_offset(pipeline)?;
    ensure!(
        seen == Some(committed),
        "{seen:?} is committed, and {committed} was expected"
    );
    Ok(())
}

/// Until it says that its restore waits; meanwhile it must not be ready.
fn await_waiting(validator: &mut Service) -> Result<()> {
    await_until("the restore waits for the changelog", LIMIT, || {
        validator.expect_running()?;
        let log = validator.process.log()?;
        Ok(if log.contains("the restore waits for the changelog") {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue("its log does not say so".into())
        })
    })?;
    let (status, body) = Http::new()?.get(&format!("{}/readyz", validator.admin))?;
    ensure!(
        status == 503 && body.contains("partition 0 is being restored"),
        "it waits for the changelog, and /readyz says {status} {body}"
    );
    Ok(())
}

/// The validator's own count of a verdict.
fn counted(validator: &Service, verdict: &str) -> Result<u64> {
    let (_, metrics) = Http::new()?.get(&format!("{}/metrics", validator.admin))?;
    let name = format!("outbox_orders_total{{verdict=\"{verdict}\"}} ");
    let count = metrics.lines().find_map(|line| line.strip_prefix(&name));
    // What has not happened yet may not be listed.
    Ok(count.map_or(Ok(0), str::parse)?)
}
