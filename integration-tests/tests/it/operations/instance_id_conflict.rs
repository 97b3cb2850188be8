//! A second member under the same instance id: the first lets go of everything and looks whose the id is. Where another
//! process has it, the first leaves, says why, and does no harm; where nobody has, it goes on by itself.

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
use crate::in_turn;

#[test]
fn a_validator_whose_name_another_has_taken_leaves() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("replaced", 2)?;
        let (mut first, mut sent) = at_work(&pipeline)?;
        let mut second = instance_id_conflict(&pipeline)?;
        second.process.start()?;
        await_unready(&mut first, &["instance-id"])?;
        await_ready(&mut second, LIMIT)?;
        send_all(&pipeline, &mut sent, orders(1, "both", 100))?;

        let status = first.process.wait_exit(SESSION_TIMEOUT + DECIDED_MAX)?;
        ensure!(!status.success(), "the first has left as if all were well");
        let log = first.process.log_since_start()?;
        for words in [
            "another validator has joined group",
            "validator-1",
            "validator.instance_id of its own",
            "and lives",
        ] {
            ensure!(log.contains(words), "its log does not say {words:?}:\n{log}");
        }
        second.expect_running()?;
        let log = second.process.log_since_start()?;
        ensure!(
            !log.contains(FENCED),
            "the second was fenced by the first:\n{log}"
        );
        send_all(&pipeline, &mut sent, orders(0, "second", 100))?;
        expect_outbox(&pipeline, &[&sent])?;
        second.process.terminate(Duration::from_secs(30))?;

        // Its store stays, and is brought up to date when it comes back.
        first.process.start()?;
        await_ready(&mut first, LIMIT)?;
        let restored = counter(&first, "outbox_restore_records_total")?;
        let rebuilt = counter(&first, "outbox_stores_rebuilt_total")?;
        ensure!(
            restored == 200 && rebuilt == 0,
            "{restored} records were read and {rebuilt} stores rebuilt for the 200 orders that the other has admitted"
        );
        first.process.terminate(Duration::from_secs(30))?;
        pipeline.passed();
        Ok(())
    });
}

/// To the group a process that is killed as soon as it has joined is what a request to join is that was taken twice:
/// a member with the name, and nobody behind it.
#[test]
fn a_validator_whose_name_a_ghost_has_taken_goes_on_by_itself() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("ghost", 2)?;
        let (mut first, mut sent) = at_work(&pipeline)?;
        let id = first.process.id();
        let mut ghost = instance_id_conflict(&pipeline)?;
        ghost.process.start()?;
        await_unready(&mut first, &["instance-id"])?;
        ghost.process.kill()?;
        goes_on(&pipeline, &mut first, id, &mut sent)?;
        pipeline.passed();
        Ok(())
    });
}

/// The real thing: the broker takes both of two requests to join of one validator, the first one last.
#[test]
fn a_validator_whose_request_to_join_was_taken_twice_goes_on_by_itself() {
    in_turn(|| {
        let (mut broker, proxy, mut pipeline) =
            Pipeline::behind_proxy(DelayedJoinGroup::default(), "twice", 2)?;
        proxy.rule().delay_next();
        let (mut validator, mut sent) = at_work(&pipeline)?;
        let id = validator.process.id();
        proxy.rule().release();
        await_unready(&mut validator, &["instance-id"])?;
        await_until("the late request is answered", LIMIT, || {
            Ok(match proxy.rule().is_answered() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue("no answer".into()),
            })
        })?;
        goes_on(&pipeline, &mut validator, id, &mut sent)?;
        pipeline.passed();
        broker.discard();
        Ok(())
    });
}

/// The same for a caller, whose membership is static by setting: first a ghost takes its name, and then another one.
#[test]
fn a_static_caller_outlives_a_ghost_and_leaves_to_another() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("replaced-calls", 2)?;
        let api = Api::start(&pipeline, &[])?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        let caller = |number| {
            let settings = pipeline.caller_settings(1, &api.url);
            pipeline.service("caller", number, settings.with("caller.membership", "static"))
        };
        let (mut first, mut ghost, mut second) = (caller(1)?, caller(2)?, caller(3)?);
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

        ghost.process.start()?;
        await_unready(&mut first, &["instance-id"])?;
        ghost.process.kill()?;
        call("after-the-ghost", 1)?;
        await_ready(&mut first, LIMIT)?;
        ensure!(first.process.id() == id, "it was started again");
        ensure!(
            counter(&first, "outbox_rejoins_after_fencing_total")? == 1,
            "it does not count what has happened"
        );

        second.process.start()?;
        await_unready(&mut first, &["instance-id"])?;
        call("second", 0)?;
        let status = first.process.wait_exit(SESSION_TIMEOUT + DECIDED_MAX)?;
        ensure!(!status.success(), "the first has left as if all were well");
        let log = first.process.log_since_start()?;
        for words in [
            "another caller has joined group",
            "caller.instance_id of its own",
            "and lives",
        ] {
            ensure!(log.contains(words), "its log does not say {words:?}:\n{log}");
        }
        second.expect_running()?;
        let log = second.process.log_since_start()?;
        ensure!(
            !log.contains("has taken this caller's instance id"),
            "the second was fenced:\n{log}"
        );
        ensure!(
            api.requests()?.len() == sent,
            "{} requests for {sent} orders",
            api.requests()?.len()
        );
        for service in [&mut second, &mut validator] {
            service.process.terminate(Duration::from_secs(30))?;
        }
        pipeline.passed();
        Ok(())
    });
}

/// A validator that has processed some orders, and these.
fn at_work(pipeline: &Pipeline) -> Result<(Service, Vec<InputRecord>)> {
    let mut validator = pipeline.validator(1)?;
    validator.process.start()?;
    await_ready(&mut validator, LIMIT)?;
    let mut sent = Vec::new();
    send_all(pipeline, &mut sent, orders(0, "first", 100))?;
    Ok((validator, sent))
}

/// It goes on by itself, in the same process and with the stores that it has, and each order is in the outbox once.
fn goes_on(
    pipeline: &Pipeline,
    validator: &mut Service,
    id: Option<u32>,
    sent: &mut Vec<InputRecord>,
) -> Result<()> {
    send_all(pipeline, sent, orders(1, "after", 100))?;
    await_ready(validator, LIMIT)?;
    ensure!(validator.process.id() == id, "it was started again");
    expect_outbox(pipeline, &[sent])?;
    for (what, name, count) in [
        ("memberships begun again", "outbox_rejoins_after_fencing_total", 1),
        ("stores rebuilt", "outbox_stores_rebuilt_total", 0),
    ] {
        let counted = counter(validator, name)?;
        ensure!(
            counted == count,
            "{what}: {counted} are counted in place of {count}"
        );
    }
    validator.process.terminate(Duration::from_secs(30))
}

/// The same name, another state directory: a copy of the settings, made in a hurry.
fn instance_id_conflict(pipeline: &Pipeline) -> Result<Service> {
    let settings = pipeline.validator_settings(1);
    let settings = settings.with("store.dir", pipeline.folder().join("state-of-the-other"));
    pipeline.service("validator", 2, settings)
}

/// Sends what was sent before once more, and more, and waits until each has its verdict.
fn send_all(pipeline: &Pipeline, sent: &mut Vec<InputRecord>, more: Vec<InputRecord>) -> Result<()> {
    sent.extend(more);
    send(&pipeline.kafka, &pipeline.topics.orders, sent)?;
    await_verdicts(pipeline)
}

/// What comes on top of the session until it is known that the other lives, on a busy machine.
const DECIDED_MAX: Duration = Duration::from_secs(15);
/// What a program logs when another has its name.
const FENCED: &str = "has taken this validator's instance id";
