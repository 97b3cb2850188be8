//! G8: money fails closed. What Kafka has lost is told, with its offsets and what to do, and the partition stands
//! still until a person has acted; the others go on.

use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::cluster::{self, Administrator};
use harness::orders::manual::{order, orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::wait::await_until;
use records::{Offset, Partition, Topics};

use crate::assertions::{LIMIT, await_outbox, await_unready, await_verdicts, expect_outbox};
use crate::in_turn;

const DRAIN_MAX: Duration = Duration::from_secs(30);
const COMPACTED: [(&str, &str); 1] = [("cleanup.policy", "compact")];

/// The program must end by itself, not well, and its last life must have all these words.
fn check_refused(validator: &mut Service, words: &[&str]) -> Result<()> {
    validator.process.start()?;
    let status = validator.process.wait_exit(LIMIT)?;
    let log = validator.process.log_since_start()?;
    ensure!(!status.success(), "it ended well:\n{log}");
    for word in words {
        ensure!(log.contains(word), "no {word:?} in its log:\n{log}");
    }
    Ok(())
}

fn create_again(pipeline: &Pipeline, topic: &str, settings: &[(&str, &str)]) -> Result<()> {
    let administrator = Administrator::new(&pipeline.kafka)?;
    administrator.delete_topics(&[topic])?;
    // Deleting goes on for a moment after it was answered.
    until_taken("the topic can be created again", || {
        administrator.create_topic(topic, pipeline.partitions, settings)
    })
}

/// Asks Kafka again until it does it.
fn until_taken(what: &str, ask: impl Fn() -> Result<()>) -> Result<()> {
    await_until(what, LIMIT, || {
        Ok(match ask() {
            Ok(()) => ControlFlow::Break(()),
            Err(error) => ControlFlow::Continue(format!("{error:#}")),
        })
    })
}

#[test]
fn a_topic_that_was_deleted_and_created_again_is_refused() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("again", 1)?;
        let topics = pipeline.topics.clone();
        let sent = orders(0, "order", 20);
        send(&pipeline.kafka, &topics.orders, &sent)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_verdicts(&pipeline)?;

        // Under a running validator: the new topic has the old one's name, and as many records.
        create_again(&pipeline, &topics.orders, &[])?;
        send(&pipeline.kafka, &topics.orders, &orders(0, "other", 40))?;
        let words = [
            "partition 0 is halted",
            "was deleted and created again",
            &topics.orders,
        ];
        await_unready(&mut validator, &words)?;
        validator.process.terminate(DRAIN_MAX)?;
        // At a start.
        check_refused(&mut validator, &["was deleted and created again", &topics.orders])?;

        // Who removes the state directory, as it says, means it; a changelog that is gone is still found.
        create_again(&pipeline, &topics.changelog, &COMPACTED)?;
        check_refused(
            &mut validator,
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

/// Nothing is wrong with its position in the new topic, so that librdkafka reads on there.
#[test]
fn orders_of_a_topic_that_is_created_again_while_a_validator_sleeps_are_left_alone() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("asleep", 1)?;
        let topic = pipeline.topics.orders.clone();
        let sent = orders(0, "order", 20);
        send(&pipeline.kafka, &topic, &sent)?;
        let mut validator = pipeline.validator(1)?;
        // The watch over the topics' ids comes every other second, which may be too late.
        validator
            .process
            .start_with(&[("FAILPOINTS", "guard-topic-watch=return")])?;
        await_verdicts(&pipeline)?;
        validator.process.freeze()?;
        create_again(&pipeline, &topic, &[])?;
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

/// Nobody reads it while a validator runs, so that only a question tells.
#[test]
fn a_changelog_that_is_created_again_under_a_validator_stops_it() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("changelog-again", 1)?;
        let topics = pipeline.topics.clone();
        send(&pipeline.kafka, &topics.orders, &orders(0, "order", 20))?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_verdicts(&pipeline)?;
        create_again(&pipeline, &topics.changelog, &COMPACTED)?;
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

/// A key may be on another partition from then on, also on one of the old ones. Of the changelog's growth no
/// assignment tells.
#[test]
fn a_topic_that_grows_under_a_validator_ends_it() {
    in_turn(|| {
        let grow: [fn(&Topics) -> &String; 2] = [|topics| &topics.orders, |topics| &topics.changelog];
        for topic in grow {
            let mut pipeline = Pipeline::create("grown", 2)?;
            let topics = pipeline.topics.clone();
            let mut validator = pipeline.validator(1)?;
            validator.process.start()?;
            await_ready(&mut validator, LIMIT)?;
            Administrator::new(&pipeline.kafka)?.grow_topic(topic(&topics), 3)?;
            let status = validator.process.wait_exit(LIMIT)?;
            let life = validator.process.log_since_start()?;
            ensure!(!status.success(), "it ended well:\n{life}");
            ensure!(
                life.contains("one of them has 3 now"),
                "it does not say why:\n{life}"
            );
            check_refused(&mut validator, &[&topics.orders, &topics.changelog, "3", "2"])?;
            pipeline.passed();
        }
        Ok(())
    });
}

#[test]
fn a_changelog_that_was_cut_below_the_checkpoint_is_refused() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("cut", 1)?;
        let administrator = Administrator::new(&pipeline.kafka)?;
        let topics = pipeline.topics.clone();
        let sent = orders(0, "order", 20);
        send(&pipeline.kafka, &topics.orders, &sent)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_verdicts(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;

        // Kafka deletes records only where the policy says so.
        administrator.configure_topic(&topics.changelog, "cleanup.policy", "compact,delete")?;
        until_taken("records are deleted", || {
            administrator.delete_records(&topics.changelog, Partition(0), Offset(10))
        })?;
        administrator.configure_topic(&topics.changelog, "cleanup.policy", "compact")?;
        // The store has them, so it goes on.
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        send(&pipeline.kafka, &topics.orders, &sent)?;
        await_verdicts(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;
        fs::remove_dir_all(pipeline.state_folder(1)).context("losing the state directory")?;
        // Nobody has them.
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
fn orders_deleted_before_they_were_processed_stop_their_partition_alone() {
    in_turn(|| {
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
        let told = await_unready(
            &mut validator,
            &[
                "partition 0 is halted",
                "the 5 offsets from 10 to 15",
                "kafka-consumer-groups.sh",
                "--reset-offsets --to-offset 15",
            ],
        )?;
        ensure!(
            told.contains("admitted before is of 20") && told.contains("now is of 20"),
            "it does not tell the times of the gap: {told}"
        );
        // The other partition, whose restore may have taken longer, does not stand still.
        await_outbox(&pipeline, 30)?;
        validator.process.terminate(DRAIN_MAX)?;
        expect_outbox(&pipeline, &[&first, &second[3..]])?;

        // What the message says is what a person does.
        let (kafka, group) = (&pipeline.kafka, &pipeline.validator_group);
        until_taken("the group is empty", || {
            cluster::set_committed(kafka, group, &topic, Partition(0), Offset(15))
        })?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&first, &second])?;

        // The same under a running validator, which stands still while they are deleted.
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

/// What the group has committed is all that tells which orders were processed: each life here has a group of its own.
#[test]
fn an_offset_that_was_lost_is_made_up_only_where_nothing_can_be_missing() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("offset", 1)?;
        let topics = pipeline.topics.clone();
        let sent = orders(0, "order", 10);
        send(&pipeline.kafka, &topics.orders, &sent)?;
        let administrator = Administrator::new(&pipeline.kafka)?;
        administrator.delete_records(&topics.orders, Partition(0), Offset(4))?;

        // Nothing was ever admitted: it begins with the oldest order that there is.
        let mut first = pipeline.validator(1)?;
        first.process.start()?;
        await_ready(&mut first, LIMIT)?;
        await_outbox(&pipeline, 6)?;
        ensure!(
            first
                .process
                .log_since_start()?
                .contains("the topic's oldest orders were deleted before this group began"),
            "its log does not say that it left some out"
        );
        first.process.terminate(DRAIN_MAX)?;

        let check_unready = |group: &str, committed: Option<i64>, words: &[&str]| -> Result<()> {
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
        // Some were admitted, and the oldest may never have been.
        check_unready("lost", None, &["has lost its committed offset", "below 4"])?;
        // What is there now was written by somebody else, or later.
        check_unready(
            "behind",
            Some(13),
            &["committed offset 13", "is beyond the partition's end 10"],
        )?;
        expect_outbox(&pipeline, &[&sent[4..]])?;
        pipeline.passed();
        Ok(())
    });
}
