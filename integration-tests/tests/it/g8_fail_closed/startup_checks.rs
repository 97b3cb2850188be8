//! What would break a guarantee, or cannot work, is refused at the start: within seconds, with a message
//! that says what is wrong.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::cluster::Administrator;
use harness::pipeline::{Pipeline, Service};
use harness::process::free_port;
use harness::process::instance_lifecycle::await_ready;

use crate::in_turn;

const REFUSED_WITHIN: Duration = Duration::from_secs(10);
const PARTITIONS: i32 = 4;
/// Nobody is called in these stories.
const NO_API: &str = "http://127.0.0.1:9/payments";

/// The program must end by itself, not well, and its log must have all these words.
fn check_refused(mut service: Service, words: &[&str]) -> Result<()> {
    service.process.start()?;
    let status = service.process.wait_exit(REFUSED_WITHIN)?;
    let log = service.process.log()?;
    ensure!(!status.success(), "it ended well:\n{log}");
    for word in words {
        ensure!(log.contains(word), "no {word:?} in its log:\n{log}");
    }
    Ok(())
}

fn both(pipeline: &Pipeline) -> Result<[Service; 2]> {
    Ok([pipeline.validator(1)?, pipeline.caller(1, NO_API)?])
}

#[test]
fn topics_that_do_not_exist_are_refused() {
    in_turn(|| {
        let mut pipeline = Pipeline::without_topics("no-topics", PARTITIONS)?;
        for service in both(&pipeline)? {
            check_refused(service, &[&pipeline.topics.pending])?;
        }
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn a_changed_partition_count_is_refused() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("partitions", PARTITIONS)?;
        let topics = &pipeline.topics;
        Administrator::new(&pipeline.kafka)?.grow_topic(&topics.orders, 6)?;
        check_refused(
            pipeline.validator(1)?,
            &[&topics.orders, &topics.changelog, "6", "4"],
        )?;
        pipeline.passed();
        Ok(())
    });
}

/// All topics grow together, so they agree with each other, and not with the keys in the stores.
#[test]
fn a_partition_count_that_changed_in_all_topics_is_refused() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("all-partitions", PARTITIONS)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_ready(&mut validator, Duration::from_secs(60))?;
        validator.process.terminate(Duration::from_secs(30))?;
        let administrator = Administrator::new(&pipeline.kafka)?;
        let topics = &pipeline.topics;
        for topic in [&topics.orders, &topics.pending, &topics.changelog] {
            administrator.grow_topic(topic, 6)?;
        }
        check_refused(validator, &["partitions", "6", "4"])?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn a_changelog_from_which_keys_are_deleted_by_age_is_refused() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("no-compact", PARTITIONS)?;
        let changelog = &pipeline.topics.changelog;
        let administrator = Administrator::new(&pipeline.kafka)?;
        for (policy, why) in [
            ("delete", "Kafka deletes its records by age"),
            ("compact,delete", "Kafka also deletes keys by age"),
        ] {
            administrator.configure_topic(changelog, "cleanup.policy", policy)?;
            let words = [
                changelog,
                &format!("cleanup.policy={policy}"),
                why,
                "cleanup.policy=compact",
            ];
            check_refused(pipeline.validator(1)?, &words)?;
        }
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn a_kafka_that_does_not_answer_is_an_error() {
    in_turn(|| {
        let mut pipeline = Pipeline::without_topics("no-broker", PARTITIONS)?;
        let nobody = format!("127.0.0.1:{}", free_port()?);
        let validator = pipeline
            .validator_settings(1)
            .with("kafka.bootstrap_servers", &nobody);
        let caller = pipeline
            .caller_settings(1, NO_API)
            .with("kafka.bootstrap_servers", &nobody);
        check_refused(pipeline.service("validator", 1, validator)?, &[&nobody])?;
        check_refused(pipeline.service("caller", 1, caller)?, &[&nobody])?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn a_second_validator_on_the_same_state_directory_is_refused() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("same-state", PARTITIONS)?;
        let mut first = pipeline.validator(1)?;
        first.process.start()?;
        await_ready(&mut first, Duration::from_secs(60))?;
        let state = pipeline.state_folder(1);
        let second = pipeline.validator_settings(2).with("store.dir", &state);
        check_refused(
            pipeline.service("validator", 2, second)?,
            &[&state.display().to_string()],
        )?;
        first.expect_running()?;
        first.process.terminate(Duration::from_secs(30))?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn a_setting_that_does_not_exist_or_would_break_a_guarantee_is_refused() {
    in_turn(|| {
        let mut pipeline = Pipeline::without_topics("bad-settings", PARTITIONS)?;
        let unknown = pipeline
            .validator_settings(1)
            .with("validator.commit_intervall", "1s");
        check_refused(pipeline.service("validator", 1, unknown)?, &["commit_intervall"])?;
        let unsafe_property = pipeline
            .validator_settings(2)
            .with_property("isolation.level", "read_uncommitted");
        check_refused(
            pipeline.service("validator", 2, unsafe_property)?,
            &["isolation.level", "because a guarantee depends on its value"],
        )?;
        let unknown = pipeline.caller_settings(1, NO_API).with("retry.backof_max", "1s");
        check_refused(pipeline.service("caller", 1, unknown)?, &["backof_max"])?;
        pipeline.passed();
        Ok(())
    });
}
