//! G8: what Kafka has lost halts the partition, with a message that names offsets and remedy, until an
//! operator acts. Other partitions go on.
//!
//! Set-up: one validator. The orders topic or the changelog is deleted and created again, grows, loses
//! records, or the group loses its committed offset, while the validator runs, is frozen or is stopped.
//!
//! Must hold: the validator refuses to start, or reports on `/readyz`, and to `outbox status`, that the partition is
//! halted and why.
//! No order behind the gap gets into the outbox. Where nothing can be missing it goes on, and after the
//! operator's command too. `topic_recreated_during_a_freeze_halts` runs without `guard-topic-watch`, so
//! that only the consumer's own check can find the new topic.

use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::cluster::{self, Administrator};
use harness::orders::manual::{order, orders, send};
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::wait::await_until;
use records::{Offset, Partition, Topics};
use serde_json::Value;

use crate::assertions::{
    LIMIT, await_outbox, await_unready, await_verdicts, expect_outbox, expect_refused_start, outbox_status,
};
use crate::fixtures::{validator_with_orders, validator_with_orders_and_failpoints};
use crate::run;

const DRAIN_MAX: Duration = Duration::from_secs(30);
pub(crate) use kafka::topics::CHANGELOG_CONFIGS;

pub(crate) fn recreate(pipeline: &Pipeline, topic: &str, settings: &[(&str, &str)]) -> Result<()> {
    let administrator = Administrator::new(&pipeline.kafka)?;
    administrator.delete_topics(&[topic])?;
    // The broker goes on deleting for a moment after it has responded.
    retry_until_accepted("the topic can be created again", || {
        administrator.create_topic(topic, pipeline.partitions, settings)
    })
}

/// Repeats a request until Kafka accepts it. Returns its result.
pub(crate) fn retry_until_accepted<T>(what: &str, request: impl Fn() -> Result<T>) -> Result<T> {
    await_until(what, LIMIT, || {
        Ok(match request() {
            Ok(result) => ControlFlow::Break(result),
            Err(error) => ControlFlow::Continue(format!("{error:#}")),
        })
    })
}

#[test]
fn recreated_topic_is_refused() {
    run(|| {
        let (mut pipeline, mut validator, sent) = validator_with_orders("again", 20)?;
        let topics = pipeline.topics.clone();

        // While the validator runs. The new topic has the same name, and more records than the committed
        // offset.
        recreate(&pipeline, &topics.orders, &[])?;
        send(&pipeline.kafka, &topics.orders, &orders(0, "other", 40))?;
        let words = [
            "partition 0 is halted",
            "was deleted and created again",
            &topics.orders,
        ];
        await_unready(&mut validator, &words)?;
        validator.process.terminate(DRAIN_MAX)?;
        // Before a start.
        expect_refused_start(
            &mut validator,
            LIMIT,
            &["was deleted and created again", &topics.orders],
        )?;

        // The message tells the operator to remove the state directory. That accepts the new orders topic,
        // whose offsets Kafka has deleted with the old one, but not an empty changelog beside a filled outbox.
        recreate(&pipeline, &topics.changelog, &CHANGELOG_CONFIGS)?;
        expect_refused_start(
            &mut validator,
            LIMIT,
            &["was deleted and created again", &topics.changelog],
        )?;
        fs::remove_dir_all(pipeline.state_folder(1)).context("removing the state directory")?;
        validator.process.start()?;
        let words = [
            "partition 0 is halted",
            &topics.changelog,
            "is empty, and the outbox",
        ];
        await_unready(&mut validator, &words)?;
        validator.process.terminate(DRAIN_MAX)?;
        expect_outbox(&pipeline, &[&sent])?;
        pipeline.passed();
        Ok(())
    });
}

/// The validator's position exists in the new topic too, so librdkafka would read on there.
#[test]
fn topic_recreated_during_a_freeze_halts() {
    run(|| {
        // Without the periodic comparison of topic ids: it runs every two seconds, and orders may be read
        // before it.
        let (mut pipeline, mut validator, sent) =
            validator_with_orders_and_failpoints("asleep", 20, "guard-topic-watch=return")?;
        let topic = pipeline.topics.orders.clone();
        validator.process.freeze()?;
        recreate(&pipeline, &topic, &[])?;
        send(&pipeline.kafka, &topic, &orders(0, "other", 40))?;
        validator.process.thaw()?;
        let words = ["partition 0 is halted", "was deleted and created again", &topic];
        await_unready(&mut validator, &words)?;
        validator.process.terminate(DRAIN_MAX)?;
        expect_outbox(&pipeline, &[&sent])?;
        pipeline.passed();
        Ok(())
    });
}

/// A running validator does not read its changelog, so only the periodic comparison of topic ids can find
/// out.
#[test]
fn recreated_changelog_halts_the_partition() {
    run(|| {
        let (mut pipeline, mut validator, _sent) = validator_with_orders("changelog-again", 20)?;
        let topics = pipeline.topics.clone();
        recreate(&pipeline, &topics.changelog, &CHANGELOG_CONFIGS)?;
        let words = [
            "partition 0 is halted",
            "was deleted and created again",
            &topics.changelog,
        ];
        await_unready(&mut validator, &words)?;
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

/// With another number of partitions a key may be on another partition, where its duplicates are not
/// recognized. The growth of the changelog causes no rebalance.
#[test]
fn topic_growth_stops_the_validator() {
    run(|| {
        let grow: [fn(&Topics) -> &String; 2] = [|topics| &topics.orders, |topics| &topics.changelog];
        for topic in grow {
            let mut pipeline = Pipeline::create("grown", 2)?;
            let topics = pipeline.topics.clone();
            let mut validator = pipeline.validator(1)?;
            validator.process.start()?;
            await_ready(&mut validator, LIMIT)?;
            // From 2 partitions to 3.
            Administrator::new(&pipeline.kafka)?.grow_topic(topic(&topics), 3)?;
            let status = validator.process.wait_exit(LIMIT)?;
            let log = validator.process.log_since_start()?;
            ensure!(
                !status.success(),
                "the validator exited with status 0 after a topic has grown:\n{log}"
            );
            ensure!(
                log.contains("one of them has 3 now"),
                "the validator's log does not give the reason:\n{log}"
            );
            expect_refused_start(
                &mut validator,
                LIMIT,
                &[&topics.orders, &topics.changelog, "3", "2"],
            )?;
            pipeline.passed();
        }
        Ok(())
    });
}

#[test]
fn truncated_changelog_without_store_halts() {
    run(|| {
        let (mut pipeline, mut validator, sent) = validator_with_orders("cut", 20)?;
        let topics = pipeline.topics.clone();
        let administrator = Administrator::new(&pipeline.kafka)?;
        validator.process.terminate(DRAIN_MAX)?;

        retry_until_accepted("records are deleted", || {
            administrator.delete_records(&topics.changelog, Partition(0), Offset(10))
        })?;
        // The store holds the deleted keys, so nothing is lost yet.
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        send(&pipeline.kafka, &topics.orders, &sent)?;
        await_verdicts(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;
        fs::remove_dir_all(pipeline.state_folder(1)).context("losing the state directory")?;
        // Without the store nothing holds them any more.
        validator.process.start()?;
        let words = ["partition 0 is halted", "begins at 10", "would be paid twice"];
        await_unready(&mut validator, &words)?;
        send(&pipeline.kafka, &topics.orders, &sent)?;
        validator.process.terminate(DRAIN_MAX)?;
        expect_outbox(&pipeline, &[&sent])?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn deleted_orders_halt_only_their_partition() {
    run(|| {
        let mut pipeline = Pipeline::create("gap", 2)?;
        let topic = pipeline.topics.orders.clone();
        let administrator = Administrator::new(&pipeline.kafka)?;
        let first = [orders(0, "first", 10), orders(1, "one", 10)].concat();
        send(&pipeline.kafka, &topic, &first)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_verdicts(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;

        send(&pipeline.kafka, &topic, &orders(0, "deleted", 5))?;
        let second = [orders(0, "there", 3), orders(1, "two", 10)].concat();
        send(&pipeline.kafka, &topic, &second)?;
        administrator.delete_records(&topic, Partition(0), Offset(15))?;
        validator.process.start()?;
        let reason = await_unready(
            &mut validator,
            &[
                "partition 0 is halted",
                "the 5 offsets from 10 to 15",
                "kafka-consumer-groups.sh",
                "--reset-offsets --to-offset 15",
            ],
        )?;
        ensure!(
            reason.contains("admitted before is of 20") && reason.contains("now is of 20"),
            "the reason does not give the times of the gap: {reason}"
        );
        // The other partition, whose restore may have taken longer, is processed.
        await_outbox(&pipeline, 30)?;
        // Port 9, discard: nothing listens there.
        let (exit, shown) = outbox_status(&pipeline, &[&validator.admin, "http://127.0.0.1:9"])?;
        let (halted, unanswered) = (&shown["programs"][0]["status"], &shown["programs"][1]);
        println!("{halted:#}\n{unanswered:#}");
        let states = [0, 1].map(|partition| halted["partitions"][partition]["state"].as_str());
        let told = |text: &Value, words: &str| text.as_str().is_some_and(|text| text.contains(words));
        ensure!(
            exit == Some(1)
                && states == [Some("halted"), Some("running")]
                && told(&halted["partitions"][0]["reason"], "the 5 offsets from 10 to 15")
                && halted["ready"] == false
                && told(&unanswered["error"], "the program does not run"),
            "exit status {exit:?}: {shown}"
        );
        validator.process.terminate(DRAIN_MAX)?;
        expect_outbox(&pipeline, &[&first, &second[3..]])?;

        // The operator runs the command of the message.
        let (kafka, group) = (&pipeline.kafka, &pipeline.validator_group);
        // Kafka takes the offset only when the group has noticed that the validator left.
        retry_until_accepted("the group is empty", || {
            cluster::set_committed(kafka, group, &topic, Partition(0), Offset(15))
        })?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&first, &second])?;

        // The same with a running validator. It is frozen, so that it cannot read these orders before they are
        // deleted.
        validator.process.freeze()?;
        send(&pipeline.kafka, &topic, &orders(0, "deleted-too", 5))?;
        administrator.delete_records(&topic, Partition(0), Offset(23))?;
        validator.process.thaw()?;
        let third = [order(0, "last"), order(1, "three")];
        send(&pipeline.kafka, &topic, &third)?;
        await_unready(
            &mut validator,
            &["partition 0 is halted", "the 5 offsets from 18 to 23"],
        )?;
        await_outbox(&pipeline, 34)?;
        expect_outbox(&pipeline, &[&first, &second, &third[1..]])?;
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

/// Only the committed offset says which orders were processed. Each validator here has a group of its own.
#[test]
fn missing_committed_offset_fails_closed() {
    run(|| {
        let mut pipeline = Pipeline::create("offset", 1)?;
        let topics = pipeline.topics.clone();
        let sent = orders(0, "order", 10);
        send(&pipeline.kafka, &topics.orders, &sent)?;
        let administrator = Administrator::new(&pipeline.kafka)?;
        administrator.delete_records(&topics.orders, Partition(0), Offset(4))?;

        // No order was ever admitted, so the first group may begin with the oldest order on the topic.
        let mut first = pipeline.validator(1)?;
        first.process.start()?;
        await_ready(&mut first, LIMIT)?;
        await_outbox(&pipeline, 6)?;
        ensure!(
            first
                .process
                .log_since_start()?
                .contains("the topic's oldest orders were deleted before this group began"),
            "the validator does not log that the oldest orders were deleted before its group began"
        );
        first.process.terminate(DRAIN_MAX)?;

        let expect_unready = |group: &str, committed: Option<i64>, words: &[&str]| -> Result<()> {
            let group = format!("{}.{group}", pipeline.validator_group);
            if let Some(offset) = committed {
                cluster::set_committed(
                    &pipeline.kafka,
                    &group,
                    &topics.orders,
                    Partition(0),
                    Offset(offset),
                )?;
            }
            let settings = pipeline.validator_settings(1).with("kafka.group_id", &group);
            let mut validator = pipeline.service("validator", 1, settings)?;
            validator.process.start()?;
            await_unready(&mut validator, &[&["partition 0 is halted"], words].concat())?;
            validator.process.terminate(DRAIN_MAX)
        };
        // Some orders were admitted, and the deleted ones may never have been.
        expect_unready("lost", None, &["has lost its committed offset", "below 4"])?;
        // The topic ends before the committed offset, so its orders are not those that were processed.
        expect_unready(
            "behind",
            Some(13),
            &["committed offset 13", "is beyond the partition's end 10"],
        )?;
        expect_outbox(&pipeline, &[&sent[4..]])?;
        pipeline.passed();
        Ok(())
    });
}
