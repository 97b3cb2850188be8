//! G6: `outbox notes` lists the intents that a killed caller has left behind, as the next caller will read
//! them.
//!
//! Set-up: one caller under `park` with eight requests in flight at an API that does not respond. It is
//! killed, and no other caller starts.
//!
//! Must hold: the command lists an intent for each of the eight requests, as JSON and in its table. Without
//! `guard-intents` it lists none, and the scenario fails.

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
use crate::run;

const PARTITIONS: i32 = 2;
const IN_FLIGHT_MAX: usize = 8;
const PER_PARTITION: u32 = 20;

/// Returns true if one of the runs of offsets, each `[first, end)`, contains this one.
fn contains(runs: &Value, offset: i64) -> bool {
    let bound = |run: &Value, index: usize| run[index].as_i64();
    runs.as_array().is_some_and(|runs| {
        runs.iter()
            .any(|run| bound(run, 0) <= Some(offset) && Some(offset) < bound(run, 1))
    })
}

/// Returns the output of `outbox notes` for the callers' group, as JSON or as a table.
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
    let output = outbox.log_since_start()?;
    ensure!(status.success(), "`outbox notes` exited with {status}: {output}");
    // The harness writes the first line when it starts the process.
    Ok(output
        .split_once('\n')
        .context("`outbox notes` printed nothing")?
        .1
        .to_owned())
}

#[test]
fn intents_of_a_killed_caller_are_listed() {
    run(|| {
        let mut pipeline = Pipeline::create("notes", PARTITIONS)?;
        // The caller starts on a filled outbox.
        pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
        // It takes each request, and responds to none while the scenario runs.
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
        await_until("as many calls are in flight as may be", LIMIT, || {
            caller.expect_running()?;
            let arrived = api.requests()?.len();
            Ok(if arrived == IN_FLIGHT_MAX {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(format!("{arrived} requests"))
            })
        })?;
        // Killed, not drained: a drain would complete or remove its intents.
        caller.process.kill()?;
        let requested: BTreeSet<String> = api
            .requests()?
            .into_iter()
            .map(|request| request.order_id)
            .collect();

        let text = notes(&pipeline, true)?;
        let noted: Value = serde_json::from_str(&text)
            .with_context(|| format!("parsing the output of `outbox notes --json`: {text}"))?;
        let noted = noted
            .as_array()
            .context("`outbox notes --json` printed no list of partitions")?;
        ensure!(
            noted.len() == usize::try_from(PARTITIONS)? && noted.iter().all(|notes| notes["halts"].is_null()),
            "`outbox notes --json` does not list {PARTITIONS} readable partitions: {text}"
        );
        let with_intent: BTreeSet<String> =
            read_topic(&pipeline.kafka, &pipeline.topics.pending, Keep::Fingerprints)?
                .iter()
                .filter(|record| {
                    let notes = noted
                        .iter()
                        .find(|notes| notes["partition"].as_i64() == Some(record.partition.0.into()));
                    notes.is_some_and(|notes| contains(&notes["intents"], record.offset.0))
                })
                .map(harness::read_back::topics::Record::key_text)
                .collect();
        ensure!(
            // There may be more intents than requests: they are recorded before the requests are sent.
            requested.len() == IN_FLIGHT_MAX && with_intent.is_superset(&requested),
            "the API had requests for {requested:?}, and `outbox notes` lists intents for {with_intent:?}"
        );
        let table = notes(&pipeline, false)?;
        ensure!(
            table.contains("intent recorded, perhaps processed"),
            "the table of `outbox notes` does not name the intents:\n{table}"
        );
        validator.process.terminate(Duration::from_secs(60))?;
        pipeline.passed();
        Ok(())
    });
}
