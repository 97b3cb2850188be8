//! G1, G2, G3: a validator that is frozen past its session does no harm when it wakes, and its open
//! transaction hides nothing from a restore.
//!
//! Set-up: one of two validators is frozen at a named step, and the other one takes its partitions over. In
//! the first scenario the frozen one holds a decided order and wakes as a zombie: Kafka must fence its
//! commit. In the second one its transaction is open in the changelog while the other one is killed and loses
//! its disk: the restore must read past that transaction.
//!
//! Must hold: topics, offsets and stores show no violation. Each scenario has a second one that removes the
//! guard and must find violations: the commit carries the generation of the group (`guard-group-metadata`),
//! and a restore reads to the high watermark (`guard-high-watermark`).

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::cluster;
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::{InstanceLifecycle, await_ready};
use harness::wait::await_until;

use crate::g1_g2_exactly_once::two_validators::{SETTLE_MAX, check};
use crate::{run, seed};

/// Has the other validator leave the frozen one's transaction open: it would end it, and fence the producer, before the
/// guards of these scenarios have anything to do.
const LEFT_OPEN: &str = "guard-open-transactions=return";

/// Settings of the zombie: a transaction for each order.
// When it wakes, it commits the order that it holds before it polls, and so before it learns that it was
// fenced.
const ZOMBIE: [(&str, u64); 1] = [("validator.batch_orders_max", 1)];

/// Freezes a validator with a decided order past its session, lets another take its partitions over, and
/// wakes it: it finishes what it had begun, and Kafka must fence it.
fn wake_zombie(pipeline: &Pipeline, validators: &mut [Service; 2], guard: &str) -> Result<()> {
    let [first, second] = validators;
    // A restore finds the zombie's record, and would halt the partition before an order is admitted twice.
    let restore_guards = match guard {
        "" => LEFT_OPEN.into(),
        _ => format!("{LEFT_OPEN};guard-newest-order=return;guard-overlap=return"),
    };
    freeze_at(pipeline, first, "before-begin", guard)?;
    second.process.start_with(&[("FAILPOINTS", &restore_guards)])?;
    // The second validator has taken over once it commits.
    await_progress(pipeline, 1_000)?;
    first.process.thaw()?;
    await_progress(pipeline, 1_000)?;
    // Without the guard it creates a client for each transaction, which makes it slow. The rest of the
    // scenario does not need the removed guard.
    first.process.kill()?;
    first.process.start_with(&[("FAILPOINTS", &restore_guards)])?;
    await_ready(first, SETTLE_MAX)
}

#[test]
fn zombie_is_fenced() {
    run(|| {
        check("zombie", seed(), &ZOMBIE, |pipeline, validators| {
            wake_zombie(pipeline, validators, "")
        })?
        .expect_no_violations()
    });
}

/// The same without the group's generation in the commit: the order of the zombie is in the outbox twice.
#[test]
fn commit_without_generation_is_detected() {
    // The order that it holds may be a duplicate, of which nothing is written; then the scenario is repeated.
    const TRIES_MAX: usize = 4;
    run(|| {
        for left in (0..TRIES_MAX).rev() {
            let checked = check("zombie-admitted", seed(), &ZOMBIE, |pipeline, validators| {
                wake_zombie(pipeline, validators, "guard-group-metadata=return")
            })?;
            if !checked.violations.is_empty() || left == 0 {
                return checked.expect_violations();
            }
            checked.expect_no_violations()?;
        }
        Ok(())
    });
}

/// Settings of the validator whose transaction stays open: longer than the takeover.
const OPEN_TRANSACTION: [(&str, &str); 1] = [("validator.transaction_timeout", "30s")];

/// Freezes a validator in an open transaction. Another one takes over, admits orders behind it in the
/// changelog, is killed and loses its disk: its restore must read past the open transaction.
fn restore_past_open_transaction(
    pipeline: &Pipeline,
    validators: &mut [Service; 2],
    guard: &str,
) -> Result<()> {
    let [first, second] = validators;
    freeze_at(pipeline, first, "after-produce", "")?;
    let failpoints = match guard {
        "" => LEFT_OPEN.into(),
        _ => format!("{LEFT_OPEN};{guard}"),
    };
    let mut second = InstanceLifecycle {
        service: second,
        state: Some(pipeline.state_folder(2)),
        failpoints: &failpoints,
    };
    second.start()?;
    await_progress(pipeline, 1_000)?;
    second.service.process.kill()?;
    // Without its store it must restore all keys, also those behind the open transaction.
    std::fs::remove_dir_all(pipeline.state_folder(2)).context("losing the state directory")?;
    second.start()?;
    await_progress(pipeline, 2_000)?;
    // A restart of the first aborts its open transaction, so that the checkers need not wait for its timeout.
    first.process.kill()?;
    first.process.start()?;
    await_ready(first, SETTLE_MAX)
}

#[test]
fn restore_waits_for_open_transactions() {
    run(|| {
        check(
            "open-transaction",
            seed(),
            &OPEN_TRANSACTION,
            |pipeline, validators| restore_past_open_transaction(pipeline, validators, ""),
        )?
        .expect_no_violations()
    });
}

/// The same with the last stable offset in place of the high watermark: orders are admitted twice.
#[test]
fn restore_to_last_stable_offset_is_detected() {
    run(|| {
        check(
            "open-transaction-missed",
            seed(),
            &OPEN_TRANSACTION,
            |pipeline, validators| {
                restore_past_open_transaction(pipeline, validators, "guard-high-watermark=return")
            },
        )?
        .expect_violations()
    });
}

/// Starts a validator alone, lets it work for a while, and freezes it at a failpoint for longer than its
/// session.
fn freeze_at(pipeline: &Pipeline, validator: &mut Service, failpoint: &str, guard: &str) -> Result<()> {
    // The failpoint puts only the main thread to sleep; SIGSTOP then freezes the whole process, so that its
    // session ends too. The sleep is over when the process is thawed: it goes on at once, and does not yet
    // know that it was fenced.
    const SLEEP_MS: u32 = 6_000;
    // The pass before the sleep writes the marker to its log.
    let mut failpoints = format!("{failpoint}=50*off->1*print({SLEEP_MARKER})->1*sleep({SLEEP_MS})");
    if !guard.is_empty() {
        failpoints = format!("{guard};{failpoints}");
    }
    validator.process.start_with(&[("FAILPOINTS", &failpoints)])?;
    let what = format!("the validator sleeps at {failpoint}");
    await_until(&what, Duration::from_secs(90), || {
        validator.expect_running()?;
        // The log of the start contains the failpoints too, so only the second occurrence is the pass.
        Ok(match validator.process.log()?.matches(SLEEP_MARKER).count() {
            2.. => ControlFlow::Break(()),
            _ => ControlFlow::Continue("it has not reached the failpoint".into()),
        })
    })?;
    let mut seen = (0, Instant::now());
    await_until("the validator commits no more", Duration::from_secs(5), || {
        let committed = committed_sum(pipeline)?;
        if committed != seen.0 {
            seen = (committed, Instant::now());
        }
        Ok(if seen.1.elapsed() > Duration::from_secs(1) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{committed} orders are committed"))
        })
    })?;
    validator.process.freeze()
}

/// Text that a validator logs on the last pass before it sleeps.
const SLEEP_MARKER: &str = "sleeps-at-the-next-pass";

/// Waits until the validators have committed this many more orders.
fn await_progress(pipeline: &Pipeline, more: i64) -> Result<()> {
    let before = committed_sum(pipeline)?;
    let what = format!("{more} more orders than {before} are committed");
    await_until(&what, Duration::from_secs(120), || {
        let committed = committed_sum(pipeline)?;
        Ok(if committed >= before + more {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{committed} are"))
        })
    })
}

/// Returns the sum of the committed offsets of all partitions.
fn committed_sum(pipeline: &Pipeline) -> Result<i64> {
    let committed = cluster::committed(
        &pipeline.kafka,
        &pipeline.validator_group,
        &pipeline.topics.orders,
    )?;
    Ok(committed.values().map(|offset| offset.0).sum())
}
