//! The commands that change nothing, see [`super`].

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::http::Http;
use harness::pipeline::Pipeline;
use harness::process::free_port;
use harness::wait::await_until;

use super::LOOKING;
use super::data::{fill, refused_key};
use super::least::{Lacking, Least, names_permission};
use crate::assertions::LIMIT;
use crate::run;
use crate::security::fixture::secured_kafka;

/// Maximum time until `outbox metrics` names what it lacks: it goes on reading.
const NAMED_MAX: Duration = Duration::from_secs(30);
const DRAIN_MAX: Duration = Duration::from_secs(30);

#[test]
fn looking_commands_need_what_is_listed() {
    run(|| {
        let kafka = secured_kafka()?;
        let mut pipeline = Pipeline::on(kafka.open.clone(), "looking", 1)?;
        pipeline.create_topics()?;
        let least = Least::allow(&kafka, &pipeline, &LOOKING, Lacking::DescribedOrHidden)?;
        pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
        fill(&pipeline)?;
        let (group, validators) = (&pipeline.caller_group, &pipeline.validator_group);
        least.prepare(&format!(
            "replay plan --dead-letter-reason rejected --group {group}"
        ))?;
        for (command, words, expected) in [
            ("topics verify", "topics verify".to_owned(), "payment-orders"),
            (
                "status",
                format!("--json status --group {group} --validators {validators}"),
                "\"parked\": 6",
            ),
            (
                "order",
                format!("order accepted-0 --group {group}"),
                "it was accepted",
            ),
            (
                "parked groups",
                format!("parked groups --group {group}"),
                "EUR 75.00",
            ),
            (
                "parked list",
                format!("parked list --group {group}"),
                "6 parked calls wait",
            ),
            (
                "parked show",
                format!("parked show parked-1 --group {group}"),
                "waits for an operator",
            ),
            ("notes", format!("notes --group {group}"), "all final below"),
            ("dead-letters groups", "dead-letters groups".into(), "not-json"),
            ("dead-letters list", "dead-letters list".into(), "rejected-2"),
            (
                "dead-letters show",
                format!("dead-letters show {}", refused_key()),
                "not-json",
            ),
            ("operations list", "operations list".into(), "group create"),
            ("replay status", "replay status".into(), "planned"),
        ] {
            least.prints(command, &words, expected)?;
        }
        watch(&pipeline, &least)?;
        least.expect_all_ran()?;
        pipeline.passed();
        Ok(())
    });
}

/// Runs `outbox metrics`, which runs until it is stopped.
fn watch(pipeline: &Pipeline, least: &Least<'_>) -> Result<()> {
    let (group, validators) = (&pipeline.caller_group, &pipeline.validator_group);
    let words = |port: u16| {
        format!("metrics --interval 1 --listen 127.0.0.1:{port} --group {group} --validators {validators}")
    };
    let (_, lacking) = least.processes("metrics", &words(free_port()?))?;
    for (acl, mut process) in lacking {
        process.start()?;
        await_until(
            &format!("`outbox metrics` without {acl:?} names it"),
            NAMED_MAX,
            || {
                process.try_wait()?;
                let log = process.log_since_start()?;
                Ok(match names_permission(&log, &acl) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(log),
                })
            },
        )?;
        process.try_wait()?;
        if process.id().is_some() {
            process.request_shutdown(DRAIN_MAX)?;
        }
    }
    let port = free_port()?;
    let (mut listed, _) = least.processes("metrics", &words(port))?;
    listed.start()?;
    let http = Http::new()?;
    await_until("`outbox metrics` is ready", LIMIT, || {
        Ok(match http.get(&format!("http://127.0.0.1:{port}/readyz")) {
            Ok((200, _)) => ControlFlow::Break(()),
            other => ControlFlow::Continue(format!("{other:?}\n{}", listed.log_since_start()?)),
        })
    })?;
    let (_, metrics) = http.get(&format!("http://127.0.0.1:{port}/metrics"))?;
    ensure!(
        metrics.contains("\noutbox_parked_calls 6"),
        "not the parked calls:\n{metrics}"
    );
    listed.request_shutdown(DRAIN_MAX)?;
    Ok(())
}
