//! G8: what topics an offset was committed with is remembered in Kafka, beside the offset. So topics that have
//! grown, or were created again, halt the partition, whatever disks are lost meanwhile.
//!
//! Set-up: in the first scenario a validator has admitted orders. It is stopped, its state directory is lost, all
//! topics grow, and the same orders come again, spread over other partitions; in the second the changelog is
//! created again. In the others a caller has made its calls, and the outbox is deleted and created again, with
//! other calls in it, while the caller is down or runs. A broker deletes the committed offsets of a deleted topic.
//! They stay if their coordinator is moving just then, or if a member commits once more; so the scenario
//! commits them again.
//!
//! Must hold: the program reports each partition as halted, and why. No order gets into the outbox twice; no call
//! is made, and none is skipped once an operator has begun the group again. Without `guard-topics-note` each
//! order is admitted again; without `guard-outbox-id` the caller skips as many calls of the new outbox as it has
//! made in the old one.

use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::cluster::{self, Administrator};
use harness::orders::manual::{orders, send};
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::wait::{await_until, pause};
use records::{Offset, Partition};

use crate::assertions::{LIMIT, await_outcomes, await_unready, await_verdicts, expect_outbox};
use crate::fixtures::validator_with_orders;
use crate::g8_fail_closed::halted_partitions::{CHANGELOG_CONFIGS, recreate, retry_until_accepted};
use crate::run;

const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Time in which a program that does not halt would go on.
const QUIET: Duration = Duration::from_secs(3);

#[test]
fn grown_topics_halt_without_state_directory() {
    run(|| {
        let mut pipeline = Pipeline::create("grown-lost", 2)?;
        let topics = pipeline.topics.clone();
        let mut sent = [orders(0, "zero", 10), orders(1, "one", 10)].concat();
        send(&pipeline.kafka, &topics.orders, &sent)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_verdicts(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;

        // An operator sets the offsets, as other messages say, which removes what they remember. That is
        // accepted, and the next commit remembers it again.
        let (kafka, group) = (&pipeline.kafka, &pipeline.validator_group);
        for partition in [0, 1].map(Partition) {
            retry_until_accepted("the group is empty", || {
                cluster::set_committed(kafka, group, &topics.orders, partition, Offset(10))
            })?;
        }
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        // On one partition only: the note of one is enough.
        let more = orders(1, "more", 10);
        send(kafka, &topics.orders, &more)?;
        sent.extend(more);
        await_verdicts(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;

        fs::remove_dir_all(pipeline.state_folder(1)).context("losing the state directory")?;
        let administrator = Administrator::new(kafka)?;
        for topic in [&topics.orders, &topics.pending, &topics.changelog] {
            administrator.grow_topic(topic, 3)?;
        }
        let mut again = sent.clone();
        for order in &mut again {
            order.partition.0 += 1;
        }
        send(kafka, &topics.orders, &again)?;
        validator.process.start()?;
        for partition in 0..3 {
            await_unready(
                &mut validator,
                &[
                    &format!("partition {partition} is halted: {} and", topics.orders),
                    "have 3 partitions, and had 2 when the group",
                    "outbox state repartition --validators",
                ],
            )?;
        }
        ensure!(
            validator.process.log_since_start()?.contains("partition halted"),
            "the validator does not log that a partition is halted"
        );
        pause(QUIET)?;
        validator.process.terminate(DRAIN_MAX)?;
        expect_outbox(&pipeline, &[&sent])?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn recreated_changelog_halts_without_store() {
    run(|| {
        let (mut pipeline, mut validator, sent) = validator_with_orders("changelog-lost", 20)?;
        let topics = pipeline.topics.clone();
        validator.process.terminate(DRAIN_MAX)?;
        recreate(&pipeline, &topics.changelog, &CHANGELOG_CONFIGS)?;
        fs::remove_dir_all(pipeline.state_folder(1)).context("losing the state directory")?;
        validator.process.start()?;
        let words = [
            "partition 0 is halted",
            &format!("{} was deleted and created again", topics.changelog),
            "outbox state rebuild",
        ];
        await_unready(&mut validator, &words)?;
        validator.process.terminate(DRAIN_MAX)?;

        // The operator sets the offset, which removes what it remembers, without the repair. The empty changelog is found all the same.
        let (kafka, group) = (&pipeline.kafka, &pipeline.validator_group);
        retry_until_accepted("the group is empty", || {
            cluster::set_committed(kafka, group, &topics.orders, Partition(0), Offset(20))
        })?;
        fs::remove_dir_all(pipeline.state_folder(1)).context("removing the state directory")?;
        validator.process.start()?;
        await_unready(
            &mut validator,
            &["partition 0 is halted", "is empty, and the outbox"],
        )?;
        validator.process.terminate(DRAIN_MAX)?;
        expect_outbox(&pipeline, &[&sent])?;
        pipeline.passed();
        Ok(())
    });
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    Down,
    Running,
}

fn recreate_outbox(name: &str, state: Caller) -> Result<()> {
    let mut pipeline = Pipeline::create(name, 1)?;
    let topic = pipeline.topics.pending.clone();
    let api = Api::start(&pipeline, &[])?;
    let settings = pipeline
        .caller_settings(1, &api.url)
        .with("caller.on_ambiguous", Policy::Park.as_str());
    let mut caller = pipeline.service("caller", 1, settings)?;
    let expect_requests = |count: usize| -> Result<()> {
        let requests = api.requests()?.len();
        ensure!(
            requests == count,
            "the API had {requests} requests, expected {count}"
        );
        Ok(())
    };
    caller.process.start()?;
    await_ready(&mut caller, LIMIT)?;
    send(&pipeline.kafka, &topic, &orders(0, "old", 10))?;
    await_outcomes(&pipeline, 10)?;
    let (kafka, group) = (pipeline.kafka.clone(), pipeline.caller_group.clone());
    if state == Caller::Down {
        caller.process.terminate(DRAIN_MAX)?;
    } else {
        await_until("the calls are final for the group", LIMIT, || {
            Ok(match cluster::lag(&kafka, &group, &topic)? {
                0 => ControlFlow::Break(()),
                lag => ControlFlow::Continue(format!("{lag} are not")),
            })
        })?;
    }
    let offsets = cluster::read_offsets(&kafka, &group, &topic)?;
    recreate(&pipeline, &topic, &[])?;
    // More than the old one had, so that the committed offset lies within the new one.
    send(&pipeline.kafka, &topic, &orders(0, "new", 20))?;
    if state == Caller::Running {
        let status = caller.process.wait_exit(LIMIT)?;
        let log = caller.process.log_since_start()?;
        ensure!(
            !status.success() && log.contains("deleted and created again"),
            "the caller did not stop because of the new outbox ({status}):\n{log}"
        );
    }

    retry_until_accepted("the group is empty", || {
        cluster::write_offsets(&kafka, &group, &offsets)
    })?;
    caller.process.start()?;
    let begin = format!("`outbox group create --group {group} --at beginning`");
    let words = [
        "the outbox was deleted and created again",
        "--delete-offsets",
        &begin,
    ];
    await_unready(&mut caller, &words)?;
    pause(QUIET)?;
    expect_requests(10)?;
    caller.process.terminate(DRAIN_MAX)?;
    expect_requests(10)?;

    // The message's command deletes the offsets of the outbox; the group has no others.
    let administrator = Administrator::new(&pipeline.kafka)?;
    retry_until_accepted("the group is deleted", || administrator.delete_group(&group))?;
    pipeline.begin_caller_group(&group, "beginning")?;
    caller.process.start()?;
    await_ready(&mut caller, LIMIT)?;
    await_outcomes(&pipeline, 30)?;
    expect_requests(30)?;
    caller.process.terminate(DRAIN_MAX)?;
    pipeline.passed();
    Ok(())
}

#[test]
fn recreated_outbox_halts_the_caller() {
    run(|| recreate_outbox("outbox-again", Caller::Down));
}

#[test]
fn outbox_recreated_under_a_caller_halts_it() {
    run(|| recreate_outbox("outbox-under", Caller::Running));
}
