//! G1, G3: a restore reads to the changelog's high watermark, not to its last stable offset.
//!
//! Set-up: two brokers, with the changelog on a broker of its own behind a proxy. Kafka answers a commit as
//! soon as it is decided, and writes the commit markers of each partition afterwards. Between the two, the
//! committed offset of the orders may be stable already and the changelog not. The proxy holds the
//! changelog's marker back, so that this moment lasts. One order is sent twice: the first validator commits
//! the first copy and is killed, and the second one takes over while the marker is missing and gets the
//! second copy.
//!
//! Must hold: the second validator decides nothing until the marker is written, and then drops the copy as a
//! duplicate. The same scenario runs without `guard-high-watermark`: the restore reads to the last stable
//! offset, finds nothing, and the order is in the outbox twice, which the checker must report. That needs
//! `guard-newest-order` to be removed too, which would halt the partition.

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

use crate::run;
use crate::single_order_transactions::{LIMIT, await_committed, committed_offset, send, validator};

const ORDER: &[u8] = br#"{"order_id":"k0","amount":1250,"currency":"EUR","customer_id":"customer-1"}"#;

#[test]
fn restore_reads_to_the_high_watermark() {
    run(|| {
        let brokers = TwoBrokers::start()?;
        findings::expect_no_violations(&take_over(&brokers, "guarded", Guard::Kept)?)?;
        expect_second_copy(&take_over(&brokers, "unguarded", Guard::Removed)?)?;
        brokers.passed();
        Ok(())
    });
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    Kept,
    Removed,
}

/// Lets the second validator take over while the changelog's marker is missing. Returns the violations.
fn take_over(brokers: &TwoBrokers, name: &str, guard: Guard) -> Result<Vec<Violation>> {
    let mut pipeline = pipeline(brokers, name)?;
    let mut first = validator(&pipeline, 1)?;
    // It crashes right after Kafka has committed, before it learns the result.
    first.process.start_with_crash_at("after-end", 0)?;
    await_ready(&mut first, LIMIT)?;

    // From here on broker 1 cannot write commit markers on broker 2.
    brokers.proxy.hold();
    let orders = Orders::Lines(Arc::new(vec![ORDER.to_vec(), ORDER.to_vec()]));
    let sent = send(&pipeline, &orders, 2)?;
    first.process.wait_killed(LIMIT)?;
    await_between_markers(brokers, &pipeline)?;

    let mut second = validator(&pipeline, 2)?;
    match guard {
        Guard::Kept => {
            second.process.start()?;
            await_restore_waits(&mut second)?;
            // It has decided nothing without the changelog.
            expect_between_markers(&pipeline, Offset(1))?;
        }
        Guard::Removed => {
            second.process.start_with(&[(
                "FAILPOINTS",
                "guard-high-watermark=return;guard-newest-order=return",
            )])?;
            await_committed(&pipeline, Offset(2))?;
            await_ready(&mut second, LIMIT)?;
            expect_between_markers(&pipeline, Offset(2))?;
        }
    }
    brokers.proxy.release();
    await_committed(&pipeline, Offset(2))?;
    await_ready(&mut second, LIMIT)?;
    let counted = (verdicts(&second, "admit")?, verdicts(&second, "duplicate")?);
    let expected = match guard {
        Guard::Kept => (0, 1),
        Guard::Removed => (1, 0),
    };
    ensure!(
        counted == expected,
        "the second validator counts (admitted, duplicates) {counted:?}, expected {expected:?}"
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

/// Fails unless the checker reports the order twice in the outbox, in the scenario without the guard.
// Otherwise the scenario with the guard proves nothing.
fn expect_second_copy(violations: &[Violation]) -> Result<()> {
    ensure!(
        violations.iter().any(|found| found.guarantee == Guarantee::G1
            && found.finding.contains("\"k0\" is in the outbox 2 times")),
        "the guard was removed, and the checker did not find the second copy; it found:\n{}",
        listed(violations)
    );
    println!("violations without the guard:\n{}", listed(violations));
    Ok(())
}

/// Creates all topics on broker 1, and the changelog on broker 2, so that its commit markers pass the proxy.
fn pipeline(brokers: &TwoBrokers, name: &str) -> Result<Pipeline> {
    let pipeline = Pipeline::on(brokers.kafka.clone(), name, 1)?;
    let topics = &pipeline.topics;
    for topic in [&topics.orders, &topics.pending, &topics.order_dead_letters] {
        brokers.create_topic(topic, 1, &[])?;
    }
    brokers.create_topic(&topics.changelog, 2, &kafka::topics::CHANGELOG_CONFIGS)?;
    Ok(pipeline)
}

/// Waits until the first copy is committed for the group, while the proxy holds the changelog's marker back.
fn await_between_markers(brokers: &TwoBrokers, pipeline: &Pipeline) -> Result<()> {
    await_until("the changelog's commit marker reaches the proxy", LIMIT, || {
        Ok(match brokers.proxy.withheld_bytes() {
            0 => ControlFlow::Continue("nothing is withheld".into()),
            _ => ControlFlow::Break(()),
        })
    })?;
    await_committed(pipeline, Offset(1))?;
    expect_between_markers(pipeline, Offset(1))
}

/// Fails unless this number of copies is committed, and the changelog's first marker is not written.
fn expect_between_markers(pipeline: &Pipeline, committed: Offset) -> Result<()> {
    let (kafka, changelog) = (&pipeline.kafka, &pipeline.topics.changelog);
    let stable = last_stable_offsets(kafka, changelog)?;
    let ends = high_watermarks(kafka, changelog)?;
    ensure!(
        stable == [(Partition(0), Offset(0))] && ends == [(Partition(0), committed)],
        "with {committed} orders committed and no marker in the changelog, its high watermark must be \
         {committed} and its last stable offset 0; they are {ends:?} and {stable:?}"
    );
    let seen = committed_offset(pipeline)?;
    ensure!(
        seen == Some(committed),
        "the committed offset is {seen:?}, expected {committed}"
    );
    Ok(())
}

/// Waits until the validator logs that its restore waits for the changelog; it must not be ready meanwhile.
fn await_restore_waits(validator: &mut Service) -> Result<()> {
    await_until("the restore waits for the changelog", LIMIT, || {
        validator.expect_running()?;
        let log = validator.process.log()?;
        Ok(if log.contains("the restore waits for the changelog") {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue("its log does not mention it".into())
        })
    })?;
    let (status, body) = Http::new()?.get(&format!("{}/readyz", validator.admin))?;
    ensure!(
        status == 503 && body.contains("partition 0 is being restored"),
        "the validator waits for the changelog, and /readyz answers {status} {body}"
    );
    Ok(())
}

/// Returns the validator's own count of a verdict.
fn verdicts(validator: &Service, verdict: &str) -> Result<u64> {
    let (_, metrics) = Http::new()?.get(&format!("{}/metrics", validator.admin))?;
    let name = format!("outbox_orders_total{{verdict=\"{verdict}\"}} ");
    let count = metrics.lines().find_map(|line| line.strip_prefix(&name));
    // A verdict that has not occurred yet is not listed.
    Ok(count.map_or(Ok(0), str::parse)?)
}
