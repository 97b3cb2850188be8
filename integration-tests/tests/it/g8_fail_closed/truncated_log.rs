//! G8: a log that has lost its end and has grown again halts the partition.
//!
//! Set-up: a broker of its own is killed, loses the end of one log, and starts again; then other records are
//! written, beyond the committed offset. Meanwhile the program that reads the log is stopped.
//!
//! Must hold: the program reports on `/readyz` that the partition is halted, and where the log was truncated. It
//! processes nothing. At the offset that the operator sets, it goes on. Without
//! `guard-leader-epoch` offsets are committed without the leader epoch: the records below the committed offset of
//! a log that has grown again are then skipped silently.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::cluster;
use harness::cluster::broker::Broker;
use harness::orders::manual::{orders, send};
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::high_watermarks;
use harness::wait::pause;
use records::{Offset, Partition};

use crate::assertions::{LIMIT, await_outbox, await_outcomes, await_unready, await_verdicts, expect_outbox};
use crate::fixtures::own_broker;
use crate::g8_fail_closed::halted_partitions::retry_until_accepted;
use crate::run;

const P: Partition = Partition(0);
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Time in which a program that does not halt would process records.
const QUIET: Duration = Duration::from_secs(3);

fn pipeline_on_own_broker(name: &str) -> Result<(Broker, PathBuf, Pipeline)> {
    let (broker, folder) = own_broker()?;
    let pipeline = Pipeline::on(broker.start()?, name, 1)?;
    pipeline.create_topics()?;
    Ok((broker, folder, pipeline))
}

fn end_of(pipeline: &Pipeline, topic: &str) -> Result<Offset> {
    let ends = high_watermarks(&pipeline.kafka, topic)?;
    let end = ends.into_iter().find(|(partition, _)| *partition == P);
    Ok(end.context("the topic has no partition 0")?.1)
}

/// Truncates a log at `end`, and starts the broker again.
fn lose_end(broker: &Broker, topic: &str, end: Offset) -> Result<()> {
    broker.kill()?;
    broker.truncate_log(topic, P, end)?;
    broker.start().map(drop)
}

fn finish(mut pipeline: Pipeline, mut broker: Broker, folder: PathBuf) -> Result<()> {
    pipeline.passed();
    drop(pipeline);
    broker.discard();
    fs::remove_dir_all(folder).context("removing the folder of the broker")
}

#[test]
fn regrown_orders_halt_the_validator() {
    run(|| {
        let (broker, folder, pipeline) = pipeline_on_own_broker("regrown")?;
        let topic = pipeline.topics.orders.clone();
        let (kept, lost, after) = (
            orders(0, "kept", 10),
            orders(0, "lost", 10),
            orders(0, "after", 30),
        );
        send(&pipeline.kafka, &topic, &kept)?;
        send(&pipeline.kafka, &topic, &lost)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_verdicts(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;

        lose_end(&broker, &topic, Offset(10))?;
        ensure!(
            end_of(&pipeline, &topic)? == Offset(10),
            "the log has kept its end"
        );
        send(&pipeline.kafka, &topic, &after)?;
        validator.process.start()?;
        let words = [
            "partition 0 is halted",
            "was truncated at 10 and has grown again",
            "committed offset 20 in leader epoch",
        ];
        await_unready(&mut validator, &words)?;
        pause(QUIET)?;
        expect_outbox(&pipeline, &[&kept, &lost])?;

        // As the message says.
        validator.process.terminate(DRAIN_MAX)?;
        let (kafka, group) = (&pipeline.kafka, &pipeline.validator_group);
        retry_until_accepted("the offset is set", || {
            cluster::set_committed(kafka, group, &topic, P, Offset(10))
        })?;
        validator.process.start()?;
        await_verdicts(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;
        // From the next commit on the epoch is the new leader's.
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        validator.process.terminate(DRAIN_MAX)?;
        expect_outbox(&pipeline, &[&kept, &lost, &after])?;
        finish(pipeline, broker, folder)
    });
}

#[test]
fn regrown_outbox_halts_the_caller() {
    run(|| {
        let (broker, folder, pipeline) = pipeline_on_own_broker("outbox-regrown")?;
        let (input, topic) = (pipeline.topics.orders.clone(), pipeline.topics.pending.clone());
        let api = Api::start(&pipeline, &[])?;
        let settings = pipeline
            .caller_settings(1, &api.url)
            .with("caller.on_ambiguous", Policy::Park.as_str());
        let mut caller = pipeline.service("caller", 1, settings)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        // The caller's group begins beside an empty outbox.
        caller.process.start()?;
        await_ready(&mut caller, LIMIT)?;
        send(&pipeline.kafka, &input, &orders(0, "kept", 10))?;
        await_outcomes(&pipeline, 10)?;
        let end = end_of(&pipeline, &topic)?;
        send(&pipeline.kafka, &input, &orders(0, "lost", 10))?;
        await_outcomes(&pipeline, 20)?;
        caller.process.terminate(DRAIN_MAX)?;
        validator.process.terminate(DRAIN_MAX)?;
        let (kafka, group) = (&pipeline.kafka, &pipeline.caller_group);
        let committed = cluster::committed(kafka, group, &topic)?;
        let committed = *committed.get(&P).context("the caller has committed no offset")?;

        lose_end(&broker, &topic, end)?;
        send(&pipeline.kafka, &input, &orders(0, "after", 30))?;
        validator.process.start()?;
        await_outbox(&pipeline, 40)?;
        validator.process.terminate(DRAIN_MAX)?;
        let regrown = end_of(&pipeline, &topic)?;
        ensure!(
            regrown > committed,
            "the outbox ends at {regrown}, below {committed}"
        );
        caller.process.start()?;
        let truncated = format!("the log was truncated at {end} and has grown again");
        let position = format!("committed offset {committed} in leader epoch");
        await_unready(&mut caller, &[&truncated, &position])?;
        pause(QUIET)?;
        let requests = api.requests()?.len();
        ensure!(requests == 20, "the API had {requests} requests, expected 20");
        caller.process.terminate(DRAIN_MAX)?;
        finish(pipeline, broker, folder)
    });
}
