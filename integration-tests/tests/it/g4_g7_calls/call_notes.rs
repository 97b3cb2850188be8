//! What a killed caller has left behind is shown to a person as the next caller reads it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::orders::manual::{orders, send};
use harness::pipeline::Pipeline;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;
use serde_json::Value;

use crate::assertions::{LIMIT, await_outbox};
use crate::in_turn;

const PARTITIONS: i32 = 2;
const IN_FLIGHT_MAX: usize = 8;
const PER_PARTITION: u32 = 20;

/// A run of offsets in an answer: the first, and the one behind the last.
fn holds(runs: &Value, offset: i64) -> bool {
    let bound = |run: &Value, index: usize| run[index].as_i64();
    runs.as_array().is_some_and(|runs| {
        runs.iter()
            .any(|run| bound(run, 0) <= Some(offset) && Some(offset) < bound(run, 1))
    })
}

/// What `outbox notes` says of the callers' group, for a program or for a person.
fn notes(pipeline: &Pipeline, is_json: bool) -> Result<String> {
    let file = pipeline
        .settings(&pipeline.caller_group)
        .write(&pipeline.folder().join("notes.toml"))?;
    let mut outbox = pipeline
        .process("notes", "outbox")?
        .arguments(["--config"])
        .arguments([file])
        .arguments(["notes", "--group", &pipeline.caller_group])
        .arguments(is_json.then_some("--json"));
    outbox.start()?;
    let status = outbox.wait_exit(Duration::from_secs(60))?;
    let said = outbox.log_since_start()?;
    ensure!(status.success(), "`outbox notes` ended with {status}: {said}");
    // The first line tells of the start.
    Ok(said.split_once('\n').context("an answer")?.1.to_owned())
}

#[test]
fn a_person_sees_which_calls_a_killed_caller_had_begun() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("notes", PARTITIONS)?;
        // It takes what it is sent, and answers nothing while this story is told.
        let api = Api::start(&pipeline, &["--latency=10m".into()])?;
        let settings = pipeline
            .caller_settings(1, &api.url)
            .with("caller.on_ambiguous", Policy::Park.as_str())
            .with("caller.calls_in_flight_max", IN_FLIGHT_MAX)
            .with("api.timeout", "2m")
            .with("caller.drain_timeout", "3m");
        let mut caller = pipeline.service("caller", 1, settings)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        for partition in 0..PARTITIONS {
            let orders = orders(partition, &format!("noted-{partition}"), PER_PARTITION);
            send(&pipeline.kafka, &pipeline.topics.orders, &orders)?;
        }
        await_outbox(&pipeline, usize::try_from(PARTITIONS)? * PER_PARTITION as usize)?;
        caller.process.start()?;
        await_until("all places are taken", LIMIT, || {
            caller.expect_running()?;
            let arrived = api.requests()?.len();
            Ok(if arrived == IN_FLIGHT_MAX {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(format!("{arrived} requests"))
            })
        })?;
        caller.process.kill()?;
        let asked: BTreeSet<String> = api
            .requests()?
            .into_iter()
            .map(|request| request.order_id)
            .collect();

        let text = notes(&pipeline, true)?;
        let noted: Value =
            serde_json::from_str(&text).with_context(|| format!("an answer in JSON: {text}"))?;
        let noted = noted.as_array().context("a list of partitions")?;
        ensure!(
            noted.len() == usize::try_from(PARTITIONS)? && noted.iter().all(|of| of["unreadable"].is_null()),
            "{text}"
        );
        let begun: BTreeSet<String> =
            read_topic(&pipeline.kafka, &pipeline.topics.pending, Keep::Fingerprints)?
                .iter()
                .filter(|record| {
                    let of = noted
                        .iter()
                        .find(|of| of["partition"].as_i64() == Some(record.partition.0.into()));
                    of.is_some_and(|of| holds(&of["intents"], record.offset.0))
                })
                .map(harness::read_back::topics::Record::key_text)
                .collect();
        ensure!(
            asked.len() == IN_FLIGHT_MAX && begun.is_superset(&asked),
            "the API was asked for {asked:?}, and begun are {begun:?}"
        );
        let table = notes(&pipeline, false)?;
        ensure!(table.contains("intent recorded, perhaps processed"), "{table}");
        validator.process.terminate(Duration::from_secs(60))?;
        pipeline.passed();
        Ok(())
    });
}
