//! A member is killed between the two rounds of a rebalance: told to give partitions up, and not back in the group
//! yet. When it is back it has its old place, without a rebalance, and what it gave up belongs to nobody. Somebody
//! must see that, say so, and have it handed out; sessions are long here, so that nothing else does.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use harness::api::Api;
use harness::orders::manual::{InputRecord, orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::process::settings::Settings;

use crate::assertions::{await_outcomes, await_unready, await_verdicts, counter, expect_outbox};
use crate::in_turn;

const PARTITIONS: i32 = 4;
const START_MAX: Duration = Duration::from_secs(60);
const DRAIN_MAX: Duration = Duration::from_secs(30);
const SESSION: &str = "30s";

#[test]
fn partitions_that_a_killed_validator_left_to_nobody_are_handed_out() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("unowned", PARTITIONS)?;
        let settings = |number| {
            pipeline
                .validator_settings(number)
                .with("validator.session_timeout", SESSION)
                .with("validator.commit_timeout", "3s")
        };
        let mut pair = pair(&pipeline, "validator", settings)?;
        killed_between_the_rounds(&mut pair)?;
        let sent = orders_everywhere("left");
        send(&pipeline.kafka, &pipeline.topics.orders, &sent)?;

        told_and_mended(&mut pair, &pipeline.topics.orders, || await_verdicts(&pipeline))?;
        expect_outbox(&pipeline, &[&sent])?;
        end(&mut pair)?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn partitions_that_a_killed_static_caller_left_to_nobody_are_handed_out() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("unowned-calls", PARTITIONS)?;
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
        killed_between_the_rounds(&mut pair)?;
        let sent = orders_everywhere("left");
        send(&pipeline.kafka, &pipeline.topics.orders, &sent)?;

        told_and_mended(&mut pair, &pipeline.topics.pending, || {
            await_outcomes(&pipeline, sent.len())
        })?;
        end(&mut pair)?;
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

fn pair(pipeline: &Pipeline, program: &str, settings: impl Fn(u32) -> Settings) -> Result<[Service; 2]> {
    let service = |number| pipeline.service(program, number, settings(number));
    Ok([service(1)?, service(2)?])
}

/// The first has all partitions, and half of them are to be the second's; it dies when it is told so, and is back at
/// once.
fn killed_between_the_rounds([first, second]: &mut [Service; 2]) -> Result<()> {
    first.process.start_with_crash_at("before-give-up", 0)?;
    await_ready(first, START_MAX)?;
    second.process.start()?;
    first.process.wait_killed(START_MAX)?;
    first.process.start()
}

/// All work is done in the end, because the second, which has no partitions, says that half of them belong to nobody,
/// and makes a rebalance; one is enough.
fn told_and_mended(
    [first, second]: &mut [Service; 2],
    topic: &str,
    await_done: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (done, told) = std::thread::scope(|scope| {
        let told = scope.spawn(|| await_unready(second, &["assigned to no member", topic]));
        (await_done(), told.join())
    });
    done?;
    println!(
        "told: {}",
        told.map_err(|_| anyhow!("the one who waits panicked"))??
    );
    for service in [&mut *first, &mut *second] {
        await_ready(service, START_MAX)?;
        ensure!(
            counter(service, "outbox_partitions_unassigned")? == 0,
            "some are still said to belong to nobody"
        );
    }
    let rebalances = [counter(first, REBALANCES)?, counter(second, REBALANCES)?];
    ensure!(rebalances == [0, 1], "rebalances made: {rebalances:?}");
    let log = second.process.log_since_start()?;
    ensure!(
        log.contains("partitions are assigned to no member of the group"),
        "its log says nothing of it"
    );
    Ok(())
}

fn orders_everywhere(name: &str) -> Vec<InputRecord> {
    (0..PARTITIONS)
        .flat_map(|partition| orders(partition, &format!("{name}-{partition}"), 10))
        .collect()
}

fn end(pair: &mut [Service; 2]) -> Result<()> {
    for service in pair {
        service.process.terminate(DRAIN_MAX)?;
    }
    Ok(())
}

const REBALANCES: &str = "outbox_rebalances_triggered_total";
