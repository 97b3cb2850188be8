//! Group membership: a program that is fenced because another member has its instance id finds out who that
//! member is.
//!
//! Set-up: a validator, or a static caller, at work. A second process joins with the same instance id; or it
//! joins and is killed, which leaves a stale static member; or a proxy delays a JoinGroup, so that the broker
//! processes two of one process.
//!
//! Must hold: if another live process has the instance id, the first one exits with an error that says so,
//! and the second one is not disturbed. If only a stale member has it, the first one goes on in the same
//! process, with its stores and without a duplicate.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::api::Api;
use harness::orders::manual::{InputRecord, orders, send};
use harness::pipeline::{Pipeline, SESSION_TIMEOUT, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::proxy::delayed_join_group::DelayedJoinGroup;
use harness::wait::await_until;

use crate::assertions::{LIMIT, await_outcomes, await_unready, await_verdicts, counter, expect_outbox};
use crate::fixtures::ProxiedPipeline;
use crate::run;

#[test]
fn validator_leaves_if_its_instance_id_is_taken() {
    run(|| {
        let mut pipeline = Pipeline::create("replaced", 2)?;
        let (mut first, mut sent) = at_work(&pipeline)?;
        let mut second = with_same_instance_id(&pipeline)?;
        second.process.start()?;
        // The first one is fenced, and waits until it knows who fenced it.
        await_unready(&mut first, &["instance-id"])?;
        await_ready(&mut second, LIMIT)?;
        send_all(&pipeline, &mut sent, orders(1, "both", 100))?;

        // It decides only after a session: by then a stale member would have been evicted.
        let status = first.process.wait_exit(SESSION_TIMEOUT + DECIDED_MAX)?;
        ensure!(
            !status.success(),
            "the first instance exited with status 0, although another one has its instance id"
        );
        let log = first.process.log_since_start()?;
        for words in [
            "another validator has joined group",
            "validator-1",
            "validator.instance_id of its own",
            "and lives",
        ] {
            ensure!(
                log.contains(words),
                "the log of the first instance does not contain {words:?}:\n{log}"
            );
        }
        second.expect_running()?;
        let log = second.process.log_since_start()?;
        ensure!(
            !log.contains(FENCED),
            "the second validator was fenced by the first:\n{log}"
        );
        send_all(&pipeline, &mut sent, orders(0, "second", 100))?;
        expect_outbox(&pipeline, &[&sent])?;
        second.process.terminate(Duration::from_secs(30))?;

        // The first keeps its store, and brings it up to date when it is started again.
        first.process.start()?;
        await_ready(&mut first, LIMIT)?;
        let restored = counter(&first, "outbox_restore_records_total")?;
        let rebuilt = counter(&first, "outbox_stores_rebuilt_total")?;
        // The keys of orders that came again may be recorded again.
        ensure!(
            (200..=500).contains(&restored) && rebuilt == 0,
            "{restored} records were read and {rebuilt} stores rebuilt, expected the 200 orders that the \
             second validator has admitted and no store"
        );
        first.process.terminate(Duration::from_secs(30))?;
        pipeline.passed();
        Ok(())
    });
}

/// A process that is killed right after it has joined leaves what a duplicated JoinGroup leaves: a stale
/// static member.
#[test]
fn validator_outlives_a_stale_static_member() {
    run(|| {
        let mut pipeline = Pipeline::create("stale-member", 2)?;
        let (mut first, mut sent) = at_work(&pipeline)?;
        let id = first.process.id();
        let mut stale = with_same_instance_id(&pipeline)?;
        stale.process.start()?;
        await_unready(&mut first, &["instance-id"])?;
        stale.process.kill()?;
        expect_goes_on(&pipeline, &mut first, id, &mut sent)?;
        pipeline.passed();
        Ok(())
    });
}

/// The broker processes two JoinGroup requests of one validator, the older one last.
#[test]
fn validator_outlives_a_duplicated_join_group() {
    run(|| {
        let proxied = ProxiedPipeline::start(DelayedJoinGroup::default(), "duplicated-join", 2)?;
        let (pipeline, rule) = (&proxied.pipeline, proxied.proxy.rule());
        rule.delay_next();
        let (mut validator, mut sent) = at_work(pipeline)?;
        let id = validator.process.id();
        rule.release();
        await_unready(&mut validator, &["instance-id"])?;
        await_until("the broker responds to the delayed JoinGroup", LIMIT, || {
            Ok(match rule.is_answered() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue("no response yet".into()),
            })
        })?;
        expect_goes_on(pipeline, &mut validator, id, &mut sent)?;
        proxied.passed();
        Ok(())
    });
}

/// A stale member takes the instance id of a static caller, and later a live process does.
#[test]
fn static_caller_handles_instance_id_conflicts() {
    run(|| {
        let mut pipeline = Pipeline::create("replaced-calls", 2)?;
        let api = Api::start(&pipeline, &[])?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        let caller = |number| {
            let settings = pipeline.caller_settings(1, &api.url);
            pipeline.service("caller", number, settings.with("caller.membership", "static"))
        };
        let (mut first, mut stale, mut second) = (caller(1)?, caller(2)?, caller(3)?);
        let mut sent = 0;
        let mut call = |name: &str, partition| {
            let more = orders(partition, name, 50);
            sent += more.len();
            send(&pipeline.kafka, &pipeline.topics.orders, &more)?;
            await_outcomes(&pipeline, sent)
        };
        first.process.start()?;
        await_ready(&mut first, LIMIT)?;
        let id = first.process.id();
        call("first", 0)?;

        stale.process.start()?;
        await_unready(&mut first, &["instance-id"])?;
        stale.process.kill()?;
        call("after-the-stale-member", 1)?;
        await_ready(&mut first, LIMIT)?;
        ensure!(first.process.id() == id, "the process was restarted");
        ensure!(
            counter(&first, "outbox_rejoins_after_fencing_total")? == 1,
            "the caller does not count its rejoin after fencing"
        );

        second.process.start()?;
        await_unready(&mut first, &["instance-id"])?;
        call("second", 0)?;
        let status = first.process.wait_exit(SESSION_TIMEOUT + DECIDED_MAX)?;
        ensure!(
            !status.success(),
            "the first instance exited with status 0, although another one has its instance id"
        );
        let log = first.process.log_since_start()?;
        for words in [
            "another caller has joined group",
            "caller.instance_id of its own",
            "and lives",
        ] {
            ensure!(
                log.contains(words),
                "the log of the first instance does not contain {words:?}:\n{log}"
            );
        }
        second.expect_running()?;
        let log = second.process.log_since_start()?;
        ensure!(
            !log.contains("has taken this caller's instance id"),
            "the second caller was fenced:\n{log}"
        );
        ensure!(
            api.requests()?.len() == sent,
            "the API had {} requests for {sent} orders",
            api.requests()?.len()
        );
        for service in [&mut second, &mut validator] {
            service.process.terminate(Duration::from_secs(30))?;
        }
        pipeline.passed();
        Ok(())
    });
}

/// Starts a validator that has processed 100 orders; returns it with these.
fn at_work(pipeline: &Pipeline) -> Result<(Service, Vec<InputRecord>)> {
    let mut validator = pipeline.validator(1)?;
    validator.process.start()?;
    await_ready(&mut validator, LIMIT)?;
    let mut sent = Vec::new();
    send_all(pipeline, &mut sent, orders(0, "first", 100))?;
    Ok((validator, sent))
}

/// Fails unless the validator goes on in the same process and with the same stores, and each order is in the
/// outbox once.
fn expect_goes_on(
    pipeline: &Pipeline,
    validator: &mut Service,
    id: Option<u32>,
    sent: &mut Vec<InputRecord>,
) -> Result<()> {
    send_all(pipeline, sent, orders(1, "after", 100))?;
    await_ready(validator, LIMIT)?;
    ensure!(validator.process.id() == id, "the process was restarted");
    expect_outbox(pipeline, &[sent])?;
    for (what, name, count) in [
        ("rejoins after fencing", "outbox_rejoins_after_fencing_total", 1),
        ("stores rebuilt", "outbox_stores_rebuilt_total", 0),
    ] {
        let counted = counter(validator, name)?;
        ensure!(
            counted == count,
            "the validator counts {counted} {what}, expected {count}"
        );
    }
    validator.process.terminate(Duration::from_secs(30))
}

/// Returns a second validator with the instance id of the first, and a state directory of its own.
// What a copied settings file causes in practice.
fn with_same_instance_id(pipeline: &Pipeline) -> Result<Service> {
    let settings = pipeline.validator_settings(1);
    let settings = settings.with("store.dir", pipeline.folder().join("state-of-the-other"));
    pipeline.service("validator", 2, settings)
}

/// Sends all earlier orders again, and more, and waits until each has its verdict.
fn send_all(pipeline: &Pipeline, sent: &mut Vec<InputRecord>, more: Vec<InputRecord>) -> Result<()> {
    sent.extend(more);
    send(&pipeline.kafka, &pipeline.topics.orders, sent)?;
    await_verdicts(pipeline)
}

/// Time on top of the session until a fenced instance knows that the other one lives, on a loaded machine.
const DECIDED_MAX: Duration = Duration::from_secs(15);
/// Text that a validator logs when another member has its instance id.
const FENCED: &str = "has taken this validator's instance id";
