//! Watching: what the metrics say while calls are parked, while the API is down, and while no caller runs.
//!
//! Set-up: a validator, a caller under `park`, and `outbox metrics`. The API fails so that nobody knows whether it has
//! charged the first orders. Then it is down while others come, and the caller is stopped.
//!
//! Must hold: `/metrics` of the real programs shows the parked calls with their age and amount, the pending calls with
//! theirs, also without any caller, and what bounds the caller. At the end, when all calls are made and settled, each of
//! these is 0 again.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::http::Http;
use harness::orders::manual::{orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::free_port;
use harness::process::instance_lifecycle::await_ready;
use harness::wait::{await_until, pause};

use crate::assertions::{LIMIT, await_outcomes};
use crate::run;

const PARKED: u32 = 3;
const PENDING: u32 = 5;
const OUTAGE: Duration = Duration::from_secs(600);
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// Returns the value of a series, named as in a query.
fn value(service: &Service, series: &str) -> Result<f64> {
    let (_, metrics) = Http::new()?.get(&format!("{}/metrics", service.admin))?;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let text = line.with_context(|| format!("{} has no {series}", service.process.name()))?;
    Ok(text.parse()?)
}

/// Waits until each of these series has a value within these bounds.
fn await_values(service: &Service, expected: &[(&str, f64, f64)]) -> Result<()> {
    let what = format!("{} shows {expected:?}", service.process.name());
    await_until(&what, LIMIT, || {
        let mut last = Vec::new();
        for (series, least, most) in expected {
            match value(service, series) {
                Ok(value) if (*least..=*most).contains(&value) => {}
                Ok(value) => last.push(format!("{series} is {value}")),
                Err(error) => last.push(format!("{error:#}")),
            }
        }
        Ok(match last.is_empty() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(last.join(", ")),
        })
    })
}

/// Describes `outbox metrics`, which reads every second.
fn watch(pipeline: &Pipeline) -> Result<Service> {
    let listen = format!("127.0.0.1:{}", free_port()?);
    let file = pipeline
        .settings(&pipeline.caller_group)
        .write(&pipeline.folder().join("outbox-metrics.toml"))?;
    Ok(Service {
        process: pipeline
            .process("outbox-metrics", "outbox")?
            .arguments(["--config".as_ref(), file.as_os_str()])
            .arguments(["metrics", "--interval", "1", "--listen", &listen])
            .arguments(["--group", &pipeline.caller_group])
            .arguments(["--validators", &pipeline.validator_group]),
        admin: format!("http://{listen}"),
    })
}

/// Settles all parked calls as accepted.
fn settle(pipeline: &Pipeline, keys: u32) -> Result<()> {
    let keys: Vec<String> = (0..keys).map(|number| format!("parked-{number}")).collect();
    let file = pipeline.folder().join("outbox-metrics.toml");
    let mut settle = pipeline
        .process("outbox-settle", "outbox")?
        .arguments(["--config".as_ref(), file.as_os_str()])
        .arguments([
            "parked",
            "settle",
            "--accepted",
            "--yes",
            "--reason",
            "the scenario",
        ])
        .arguments(["--group", &pipeline.caller_group])
        .arguments(keys);
    settle.start()?;
    let status = settle.wait_exit(LIMIT)?;
    ensure!(
        status.success(),
        "`outbox parked settle` exited with {status}:\n{}",
        settle.log_since_start()?
    );
    Ok(())
}

#[test]
fn metrics_show_what_waits_and_for_how_long() {
    run(|| {
        let mut pipeline = Pipeline::create("watched", 2)?;
        let api = Api::start(&pipeline, &[])?;
        let topics = pipeline.topics.clone();
        let mut validator = pipeline.validator(1)?;
        let settings = pipeline
            .caller_settings(1, &api.url)
            .with("caller.on_ambiguous", Policy::Park.as_str())
            .with("circuit_breaker.probe_interval", "1s");
        let mut caller = pipeline.service("caller", 1, settings)?;
        let mut watch = watch(&pipeline)?;
        for service in [&mut validator, &mut caller, &mut watch] {
            service.process.start()?;
        }
        for service in [&mut validator, &mut caller, &mut watch] {
            await_ready(service, LIMIT)?;
        }
        let nothing: Vec<(&str, f64, f64)> = [
            "outbox_pending_calls",
            "outbox_pending_oldest_age_seconds",
            "outbox_orders_waiting",
            "outbox_orders_waiting_oldest_age_seconds",
            "outbox_parked_calls",
            "outbox_parked_oldest_age_seconds",
        ]
        .map(|series| (series, 0.0, 0.0))
        .into();
        await_values(&watch, &nothing)?;

        // The API fails, and leaves it open whether it has charged.
        api.change_faults(r#"{"before_500":1}"#)?;
        send(&pipeline.kafka, &topics.orders, &orders(0, "parked", PARKED))?;
        await_values(
            &watch,
            &[
                ("outbox_parked_calls", f64::from(PARKED), f64::from(PARKED)),
                // 12.50 EUR each.
                ("outbox_parked_amount{currency=\"EUR\"}", 37.4, 37.6),
                ("outbox_parked_oldest_age_seconds", 0.5, 90.0),
                ("outbox_pending_calls", 0.0, 0.0),
            ],
        )?;
        await_values(
            &caller,
            &[
                ("outbox_calls_parked_total{reason=\"ambiguous\"}", 3.0, 3.0),
                ("outbox_calls_note_bytes", 1.0, 4096.0),
            ],
        )?;
        api.change_faults(r#"{"before_500":0}"#)?;

        // The API is down while orders come.
        api.go_down(OUTAGE)?;
        send(&pipeline.kafka, &topics.orders, &orders(1, "pending", PENDING))?;
        let pending = ("outbox_pending_calls", f64::from(PENDING), f64::from(PENDING));
        await_values(
            &watch,
            &[pending, ("outbox_pending_oldest_age_seconds", 1.0, 90.0)],
        )?;
        await_values(
            &caller,
            &[
                ("outbox_api_breaker{state=\"closed\"}", 0.0, 0.0),
                ("outbox_calls_bound_seconds_total{by=\"api\"}", 0.5, 90.0),
            ],
        )?;
        // All orders are decided.
        await_values(&validator, &[("outbox_orders_lag_seconds", 0.0, 0.0)])?;

        // Without any caller, too, and older than before.
        caller.process.terminate(DRAIN_MAX)?;
        pause(Duration::from_secs(3))?;
        let age = value(&watch, "outbox_pending_oldest_age_seconds")?;
        await_values(
            &watch,
            &[
                pending,
                ("outbox_pending_oldest_age_seconds", age + 1.0, age + 90.0),
                ("outbox_group_members{stage=\"callers\"}", 0.0, 0.0),
                ("outbox_group_members{stage=\"validators\"}", 1.0, 1.0),
            ],
        )?;

        api.come_back()?;
        caller.process.start()?;
        settle(&pipeline, PARKED)?;
        await_outcomes(&pipeline, usize::try_from(PARKED + PENDING)?)?;
        await_values(&watch, &nothing)?;
        await_values(&watch, &[("outbox_parked_amount{currency=\"EUR\"}", 0.0, 0.0)])?;
        for service in [&mut caller, &mut validator, &mut watch] {
            service.process.terminate(DRAIN_MAX)?;
        }
        pipeline.passed();
        Ok(())
    });
}
