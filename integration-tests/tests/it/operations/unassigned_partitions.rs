//! Group membership: partitions that a cooperative rebalance leaves without an owner are reported and
//! assigned again.
//!
//! Set-up: two static members, first validators and then callers, with sessions of 30 s. The first member is
//! killed between the two rounds of a rebalance: it was asked to revoke half of its partitions, and has not
//! rejoined yet. When it is back it gets its old assignment without a rebalance, and Kafka never assigns the
//! other half.
//!
//! Must hold: the second member reports the unassigned partitions and triggers exactly one rebalance, and all
//! work is done. Without `guard-unassigned` half of the orders have no verdict after 90 s.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use harness::api::Api;
use harness::orders::manual::{InputRecord, orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::process::settings::Settings;

use crate::assertions::{await_outcomes, await_unready, await_verdicts, counter, expect_outbox};
use crate::run;

const PARTITIONS: i32 = 4;
const START_MAX: Duration = Duration::from_secs(60);
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Session timeout: so long that the end of a session does not cause the rebalance.
const SESSION: &str = "30s";

#[test]
fn killed_validator_leaves_no_partition_unassigned() {
    run(|| {
        let mut pipeline = Pipeline::create("unassigned", PARTITIONS)?;
        let settings = |number| {
            pipeline
                .validator_settings(number)
                .with("validator.session_timeout", SESSION)
                .with("validator.commit_timeout", "3s")
        };
        let mut pair = pair(&pipeline, "validator", settings)?;
        kill_between_the_rounds(&mut pair)?;
        let sent = orders_everywhere("left");
        send(&pipeline.kafka, &pipeline.topics.orders, &sent)?;

        expect_one_rebalance(&mut pair, &pipeline.topics.orders, || await_verdicts(&pipeline))?;
        expect_outbox(&pipeline, &[&sent])?;
        terminate(&mut pair)?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn killed_static_caller_leaves_none_unassigned() {
    run(|| {
        let mut pipeline = Pipeline::create("unassigned-calls", PARTITIONS)?;
        let api = Api::start(&pipeline, &[])?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        let settings = |number| {
            pipeline
                .caller_settings(number, &api.url)
                .with("caller.membership", "static")
                .with("caller.session_timeout", SESSION)
                .with("caller.drain_timeout", "3s")
        };
        let mut pair = pair(&pipeline, "caller", settings)?;
        kill_between_the_rounds(&mut pair)?;
        let sent = orders_everywhere("left");
        send(&pipeline.kafka, &pipeline.topics.orders, &sent)?;

        expect_one_rebalance(&mut pair, &pipeline.topics.pending, || {
            await_outcomes(&pipeline, sent.len())
        })?;
        terminate(&mut pair)?;
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

fn pair(pipeline: &Pipeline, program: &str, settings: impl Fn(u32) -> Settings) -> Result<[Service; 2]> {
    let service = |number| pipeline.service(program, number, settings(number));
    Ok([service(1)?, service(2)?])
}

/// Starts the first instance, which gets all partitions, and then the second, which is to get half of them.
/// The first is killed when it has to revoke those, and started again at once.
fn kill_between_the_rounds([first, second]: &mut [Service; 2]) -> Result<()> {
    // The failpoint lies in the revocation: the first round is over, the second has not begun.
    first.process.start_with_crash_at("before-revoke", 0)?;
    await_ready(first, START_MAX)?;
    second.process.start()?;
    first.process.wait_killed(START_MAX)?;
    first.process.start()
}

/// Waits until all work is done. The second instance, which has no partitions, must report the unassigned
/// ones and trigger exactly one rebalance.
fn expect_one_rebalance(
    [first, second]: &mut [Service; 2],
    topic: &str,
    await_done: impl FnOnce() -> Result<()>,
) -> Result<()> {
    // At the same time, because the report is gone as soon as the rebalance is over.
    let (done, reason) = std::thread::scope(|scope| {
        let reason = scope.spawn(|| await_unready(second, &["assigned to no member", topic]));
        (await_done(), reason.join())
    });
    done?;
    println!(
        "reported: {}",
        reason.map_err(|_| anyhow!("the thread that waits for the report panicked"))??
    );
    for service in [&mut *first, &mut *second] {
        await_ready(service, START_MAX)?;
        ensure!(
            counter(service, "outbox_partitions_unassigned")? == 0,
            "{} still counts unassigned partitions",
            service.process.name()
        );
    }
    let rebalances = [counter(first, REBALANCES)?, counter(second, REBALANCES)?];
    ensure!(
        rebalances == [0, 1],
        "the instances triggered {rebalances:?} rebalances, expected [0, 1]"
    );
    let log = second.process.log_since_start()?;
    ensure!(
        log.contains("partitions are assigned to no member of the group"),
        "the second instance does not log the unassigned partitions"
    );
    Ok(())
}

/// Returns ten orders for each partition.
fn orders_everywhere(name: &str) -> Vec<InputRecord> {
    (0..PARTITIONS)
        .flat_map(|partition| orders(partition, &format!("{name}-{partition}"), 10))
        .collect()
}

fn terminate(pair: &mut [Service; 2]) -> Result<()> {
    for service in pair {
        service.process.terminate(DRAIN_MAX)?;
    }
    Ok(())
}

const REBALANCES: &str = "outbox_rebalances_triggered_total";
