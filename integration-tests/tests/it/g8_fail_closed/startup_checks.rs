//! G8: a program refuses to start with topics or settings that would break a guarantee.
//!
//! Set-up: in each scenario something is wrong before the start: topics are missing, have another number of
//! partitions or a cleanup policy that deletes keys, a broker verifies no transactions, no broker answers,
//! another process uses the state directory, a setting is unknown or would weaken a guarantee.
//!
//! Must hold: the program exits with an error within ten seconds, and its message names what is wrong.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::cluster::Administrator;
use harness::pipeline::{Pipeline, Service};
use harness::process::free_port;
use harness::process::instance_lifecycle::await_ready;
use harness::proxy::HoldRequests;

use crate::assertions::expect_refused_start;
use crate::fixtures::ProxiedPipeline;
use crate::run;

const REFUSED_WITHIN: Duration = Duration::from_secs(10);
const PARTITIONS: i32 = 4;
/// Address of an API that is never called: no caller of these scenarios starts.
const NO_API: &str = "http://127.0.0.1:9/payments";

fn expect_refused(mut service: Service, words: &[&str]) -> Result<()> {
    expect_refused_start(&mut service, REFUSED_WITHIN, words)
}

fn validator_and_caller(pipeline: &Pipeline) -> Result<[Service; 2]> {
    Ok([pipeline.validator(1)?, pipeline.caller(1, NO_API)?])
}

#[test]
fn missing_topics_are_refused() {
    run(|| {
        let mut pipeline = Pipeline::without_topics("no-topics", PARTITIONS)?;
        for service in validator_and_caller(&pipeline)? {
            expect_refused(service, &[&pipeline.topics.pending])?;
        }
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn changed_partition_count_is_refused() {
    run(|| {
        let mut pipeline = Pipeline::create("partitions", PARTITIONS)?;
        let topics = &pipeline.topics;
        Administrator::new(&pipeline.kafka)?.grow_topic(&topics.orders, 6)?;
        expect_refused(
            pipeline.validator(1)?,
            &[&topics.orders, &topics.changelog, "6", "4"],
        )?;
        pipeline.passed();
        Ok(())
    });
}

/// All topics grow alike, so they agree with each other, but not with the keys in the stores.
#[test]
fn partition_growth_of_all_topics_is_refused() {
    run(|| {
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
        expect_refused(validator, &["partitions", "6", "4"])?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn changelog_that_loses_or_keeps_keys_is_refused() {
    run(|| {
        let mut pipeline = Pipeline::create("no-compact", PARTITIONS)?;
        let changelog = &pipeline.topics.changelog;
        let administrator = Administrator::new(&pipeline.kafka)?;
        // Kafka would delete keys that the validators still need, or could not delete those that they have forgotten.
        for (setting, value, why) in [
            ("cleanup.policy", "delete", "may delete its records by age"),
            (
                "cleanup.policy",
                "compact",
                "cannot delete the keys that it has forgotten",
            ),
        ] {
            administrator.configure_topic(changelog, setting, value)?;
            let repair = "'cleanup.policy=[compact,delete],retention.ms=-1,";
            let words = [changelog, &format!("{setting}={value}"), why, repair];
            let settings = pipeline.validator_settings(1).with("store.retention", "30d");
            expect_refused(pipeline.service("validator", 1, settings)?, &words)?;
        }
        pipeline.passed();
        Ok(())
    });
}

/// Without the verification a record that arrives after its transaction was aborted joins the next one.
#[test]
fn broker_that_verifies_no_transactions_is_refused() {
    run(|| {
        const SETTING: &str = "transaction.partition.verification.enable";
        let proxied = ProxiedPipeline::start(HoldRequests::default(), "unverified", PARTITIONS)?;
        let pipeline = &proxied.pipeline;
        let administrator = Administrator::new(&pipeline.kafka)?;
        administrator.configure_broker(1, SETTING, "false")?;
        let words = [&pipeline.topics.pending, SETTING, "false: 1"];
        expect_refused(pipeline.validator(1)?, &words)?;
        expect_refused(pipeline.caller(1, NO_API)?, &words)?;
        // Without deferrals it makes no transaction.
        let settings = pipeline
            .caller_settings(2, NO_API)
            .with("deferral.defer_after", "0s");
        let mut caller = pipeline.service("caller", 2, settings)?;
        caller.process.start()?;
        await_ready(&mut caller, Duration::from_secs(60))?;
        caller.process.terminate(Duration::from_secs(30))?;
        ensure!(
            pipeline.create_topics().is_err(),
            "`outbox topics create` found nothing wrong with the broker"
        );
        administrator.configure_broker(1, SETTING, "true")?;
        pipeline.create_topics()?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_ready(&mut validator, Duration::from_secs(60))?;
        validator.process.terminate(Duration::from_secs(30))?;
        proxied.passed();
        Ok(())
    });
}

#[test]
fn unreachable_kafka_is_an_error() {
    run(|| {
        let mut pipeline = Pipeline::without_topics("no-broker", PARTITIONS)?;
        let unreachable = format!("127.0.0.1:{}", free_port()?);
        let validator = pipeline
            .validator_settings(1)
            .with("kafka.bootstrap_servers", &unreachable);
        let caller = pipeline
            .caller_settings(1, NO_API)
            .with("kafka.bootstrap_servers", &unreachable);
        expect_refused(pipeline.service("validator", 1, validator)?, &[&unreachable])?;
        expect_refused(pipeline.service("caller", 1, caller)?, &[&unreachable])?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn shared_state_directory_is_refused() {
    run(|| {
        let mut pipeline = Pipeline::create("same-state", PARTITIONS)?;
        let mut first = pipeline.validator(1)?;
        first.process.start()?;
        await_ready(&mut first, Duration::from_secs(60))?;
        let state = pipeline.state_folder(1);
        let second = pipeline.validator_settings(2).with("store.dir", &state);
        expect_refused(
            pipeline.service("validator", 2, second)?,
            &[&state.display().to_string()],
        )?;
        // The refused start must not have disturbed the owner of the directory.
        first.expect_running()?;
        first.process.terminate(Duration::from_secs(30))?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn unknown_or_unsafe_setting_is_refused() {
    run(|| {
        let mut pipeline = Pipeline::without_topics("bad-settings", PARTITIONS)?;
        let unknown = pipeline
            .validator_settings(1)
            .with("validator.commit_intervall", "1s");
        expect_refused(pipeline.service("validator", 1, unknown)?, &["commit_intervall"])?;
        let unsafe_property = pipeline
            .validator_settings(2)
            .with_property("isolation.level", "read_uncommitted");
        expect_refused(
            pipeline.service("validator", 2, unsafe_property)?,
            &["isolation.level", "because a guarantee depends on its value"],
        )?;
        let unknown = pipeline.caller_settings(1, NO_API).with("retry.backof_max", "1s");
        expect_refused(pipeline.service("caller", 1, unknown)?, &["backof_max"])?;
        pipeline.passed();
        Ok(())
    });
}
