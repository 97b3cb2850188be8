//! G9: a call that may have been sent before it was rejected is none of those that no request has reached.
//!
//! Set-up: a caller under `retry` sends the call of one order. The API charges it and stays silent. Once the intent is
//! committed, the caller is killed. From then on the API rejects the order, as one whose account has no funds any more,
//! and another caller makes the call again.
//!
//! Must hold: the dead letter says that a request had an unknown outcome, although its own caller knows the responses to
//! all of its own. A plan leaves the call out unless it is asked for as ambiguous, and counts it as one that may be
//! charged again; `order` says so, too. The API charges the order once.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::orders::manual::{order, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::process::settings::Settings;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;
use records::call_dead_letter;
use serde_json::Value;

use super::drill::{charged, finished, json_in};
use crate::assertions::LIMIT;
use crate::run;

const KEY: &str = "a";

fn settings(pipeline: &Pipeline, number: u32, api: &Api) -> Settings {
    pipeline
        .caller_settings(number, &api.url)
        .with("caller.on_ambiguous", Policy::Retry.as_str())
        .with("verify.api_processing_max", "1s")
        .with("api.transport_timeout", "1s")
}

/// Returns what a command on the calls of the group prints as JSON, with the settings file of the second caller.
fn json(pipeline: &Pipeline, arguments: &[&str]) -> Result<Value> {
    let mut command = pipeline
        .process("outbox", "outbox")?
        .arguments([
            "--json".as_ref(),
            "--config".as_ref(),
            pipeline.folder().join("caller-2.toml").as_os_str(),
        ])
        .arguments(arguments.iter().copied())
        .arguments(["--group", &pipeline.caller_group]);
    json_in(&finished(&mut command)?)
}

/// Waits until the request has charged the order, and its intent is committed; then kills its caller.
fn kill_in_flight(pipeline: &Pipeline, api: &Api, caller: &mut Service) -> Result<()> {
    await_until("the call is charged, and its intent committed", LIMIT, || {
        caller.expect_running()?;
        let notes = json(pipeline, &["notes"])?;
        let has_intent = notes[0]["intents"]
            .as_array()
            .is_some_and(|runs| !runs.is_empty());
        Ok(match (charged(api)?.get(KEY), has_intent) {
            (Some(1), true) => ControlFlow::Break(()),
            (times, _) => ControlFlow::Continue(format!("charged {times:?} times, {notes}")),
        })
    })?;
    caller.process.kill()
}

#[test]
fn rejection_after_an_intent_is_ambiguous() {
    run(|| {
        let mut pipeline = Pipeline::create("redelivered", 1)?;
        let api = Api::start(&pipeline, &["--lost-silence=1".to_owned()])?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let patient = settings(&pipeline, 1, &api)
            .with("api.timeout", "2m")
            .with("caller.drain_timeout", "3m");
        let mut killed = pipeline.service("caller", 1, patient)?;
        let mut successor = pipeline.service("caller", 2, settings(&pipeline, 2, &api))?;
        killed.process.start()?;
        await_ready(&mut killed, LIMIT)?;
        send(&pipeline.kafka, &pipeline.topics.orders, &[order(0, KEY)])?;
        kill_in_flight(&pipeline, &api, &mut killed)?;

        api.change_faults(r#"{"lost_silence":0,"reject":1}"#)?;
        successor.process.start()?;
        let left_out = await_until("the call is final, and left out of a plan", LIMIT, || {
            successor.expect_running()?;
            let planned = json(&pipeline, &["replay", "plan", KEY])?;
            ensure!(planned["plan"].is_null(), "its charge is forgotten: {planned}");
            let left_out = planned["left_out"].as_object().context("what is left out")?;
            Ok(match left_out.keys().any(|why| why.starts_with("ambiguous")) {
                true => ControlFlow::Break(planned),
                false => ControlFlow::Continue(planned.to_string()),
            })
        })?;
        println!("{left_out}");
        let dead_letters = read_topic(
            &pipeline.kafka,
            &pipeline.topics.call_dead_letters,
            Keep::Fingerprints,
        )?;
        let told: Vec<_> = dead_letters
            .iter()
            .map(|record| {
                [call_dead_letter::ATTEMPTS, call_dead_letter::ATTEMPTS_AMBIGUOUS]
                    .map(|name| record.header(name))
            })
            .collect();
        ensure!(
            told == [[Some("1"), Some("1")]],
            "one dead letter, after one request: {told:?}"
        );
        // Once no earlier request can be processed any more.
        let planned = await_until("the call can be planned by name", LIMIT, || {
            let planned = json(&pipeline, &["replay", "plan", KEY, "--state", "ambiguous"])?;
            Ok(match planned["plan"].is_null() {
                true => ControlFlow::Continue(planned.to_string()),
                false => ControlFlow::Break(planned),
            })
        })?;
        ensure!(
            planned["by_state"]["ambiguous"] == 1 && planned["again"] == 1,
            "it may be charged again: {planned}"
        );
        let told = json(&pipeline, &["order", KEY])?;
        let sentence = told["sentence"].as_str().context("a sentence")?;
        ensure!(
            sentence.contains("may be called again only after you have found out"),
            "{sentence}"
        );
        let times = charged(&api)?;
        ensure!(times.get(KEY) == Some(&1), "charged: {times:?}");
        for service in [&mut validator, &mut successor] {
            service.process.terminate(Duration::from_secs(60))?;
        }
        pipeline.passed();
        Ok(())
    });
}
