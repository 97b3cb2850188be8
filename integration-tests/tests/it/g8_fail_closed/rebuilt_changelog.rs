//! G8: a changelog that has lost its keys is rebuilt from the outbox, and no order is admitted twice.
//!
//! Set-up: a validator has admitted 20 orders and has stopped. The changelog is deleted and created again,
//! empty or with its first 12 entries, as if it had lost its end. The state directory is lost, so that the
//! missing keys are in the outbox alone. The end of the outbox is a large transaction that was aborted, as a
//! validator leaves it that is killed with a backlog.
//!
//! Must hold: the validator halts. `outbox state rebuild` refuses while it runs, appends the missing entries,
//! and appends nothing when it is repeated. The validator goes on: the same orders are duplicates, new ones are
//! admitted. Without `guard-newest-order` a changelog without its end is not noticed.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::orders::manual::{InputRecord, abort, orders, send};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::{Keep, read_topic};

use crate::assertions::{LIMIT, await_outbox, await_unready, await_verdicts, expect_outbox};
use crate::fixtures::validator_with_orders;
use crate::g8_fail_closed::halted_partitions::{CHANGELOG_CONFIGS, recreate, retry_until_accepted};
use crate::run;

const ORDERS: u32 = 20;
/// Number of records at the end of the outbox that were aborted.
const ABORTED: u32 = 5_000;
const DRAIN_MAX: Duration = Duration::from_secs(30);

#[test]
fn changelog_is_rebuilt_from_the_outbox() {
    run(|| rebuilt("rebuilt", 0, "was deleted and created again", ""));
}

#[test]
fn changelog_without_its_end_is_rebuilt() {
    run(|| {
        // A changelog that lost its end has the same id. Here it is a new one, whose id must not be looked at.
        let unguarded = "guard-topics-note=return";
        rebuilt("end-lost", 12, "the changelog has lost its end", unguarded)
    });
}

/// Runs the scenario with a changelog that keeps this number of entries; `reason` is part of the halt's, and
/// the validator that halts has these failpoints.
fn rebuilt(name: &str, kept: usize, reason: &str, failpoints: &str) -> Result<()> {
    let (mut pipeline, mut validator, sent) = validator_with_orders(name, ORDERS)?;
    let topics = pipeline.topics.clone();
    validator.process.terminate(DRAIN_MAX)?;
    let entries = read_topic(&pipeline.kafka, &topics.changelog, Keep::Values)?;
    recreate(&pipeline, &topics.changelog, &CHANGELOG_CONFIGS)?;
    let entries: Vec<InputRecord> = entries[..kept]
        .iter()
        .map(|entry| InputRecord {
            partition: entry.partition,
            key: entry.key.clone(),
            value: entry.value.clone(),
        })
        .collect();
    send(&pipeline.kafka, &topics.changelog, &entries)?;
    abort(&pipeline.kafka, &topics.pending, &orders(0, "aborted", ABORTED))?;
    fs::remove_dir_all(pipeline.state_folder(1)).context("removing the state directory")?;
    validator.process.start_with(&[("FAILPOINTS", failpoints)])?;
    await_unready(
        &mut validator,
        &["partition 0 is halted", reason, "outbox state rebuild"],
    )?;
    ensure!(
        pipeline.rebuild_state().is_err(),
        "`outbox state rebuild` did not refuse while a validator is a member of the group"
    );
    validator.process.terminate(DRAIN_MAX)?;

    let expect_appended = |count: usize| -> Result<()> {
        // Refused until the group has noticed that the validator left.
        let output = retry_until_accepted("the changelog is rebuilt", || pipeline.rebuild_state())?;
        ensure!(
            output.contains(&format!("; {count} entries were appended")),
            "`outbox state rebuild` did not append {count} entries:\n{output}"
        );
        Ok(())
    };
    expect_appended(sent.len() - kept)?;
    expect_appended(0)?;

    validator.process.start()?;
    await_ready(&mut validator, LIMIT)?;
    let more = orders(0, "more", 5);
    send(&pipeline.kafka, &topics.orders, &sent)?;
    send(&pipeline.kafka, &topics.orders, &more)?;
    await_verdicts(&pipeline)?;
    await_outbox(&pipeline, sent.len() + more.len())?;
    expect_outbox(&pipeline, &[&sent, &more])?;
    validator.process.terminate(DRAIN_MAX)?;
    pipeline.passed();
    Ok(())
}
