//! Outages: a validator waits for a disk or a broker that is unavailable for a while, says so on `/readyz`,
//! and goes on by itself.
//!
//! Set-up: one validator. In the first scenario a limit on its file size stands for a full disk, and is
//! lifted later. In the second one its only broker is killed, and then frozen, each time for 20 s.
//!
//! Must hold: during the outage the process runs, is not ready and names the reason. Afterwards each order is
//! in the outbox exactly once, nothing has panicked, and the run loop turns.

use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::http::Http;
use harness::orders::manual::{order, orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::wait::{await_until, pause};
use serde_json::Value;

use crate::assertions::{LIMIT, await_unready, await_verdicts, expect_outbox};
use crate::fixtures::own_broker;
use crate::run;

const DRAIN_MAX: Duration = Duration::from_secs(30);

#[test]
fn full_disk_pauses_the_validator() {
    run(|| {
        /// Maximum size of a file, in KiB: enough for the log, too little for a store with all keys.
        const FILE_KIB_MAX: u64 = 1_200;
        let mut pipeline = Pipeline::create("full", 1)?;
        let topic = pipeline.topics.orders.clone();
        let mut validator = pipeline.validator(1)?;
        validator.process.limit_files(FILE_KIB_MAX);
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let sent = orders(0, "order", 20_000);
        send(&pipeline.kafka, &topic, &sent)?;
        // The write of a batch fails, so the partition is restored, which fails for the same reason.
        await_unready(
            &mut validator,
            &[
                "partition 0 is being restored; the last attempt failed",
                "File too large",
            ],
        )?;
        validator.process.lift_file_limit()?;
        await_ready(&mut validator, LIMIT)?;
        await_verdicts(&pipeline)?;
        let more = [order(0, "more")];
        send(&pipeline.kafka, &topic, &[&sent[..100], &more].concat())?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&sent, &more])?;
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

/// Waits until the validator is ready, and restarts it as its supervisor would.
// It may exit meanwhile for one reason alone: the broker has processed its JoinGroup twice, and the validator
// takes the second member for another process.
fn supervise(validator: &mut Service) -> Result<()> {
    let http = Http::new()?;
    let url = format!("{}/readyz", validator.admin);
    await_until("the validator is ready again", LIMIT, || {
        if validator.process.try_wait()?.is_some() {
            let log = validator.process.log_since_start()?;
            ensure!(
                log.contains("another validator has joined"),
                "the validator exited during the outage:\n{log}"
            );
            validator.process.start()?;
        }
        Ok(match http.get(&url) {
            Ok((200, _)) => ControlFlow::Break(()),
            Ok((status, body)) => ControlFlow::Continue(format!("{status} {body}")),
            Err(error) => ControlFlow::Continue(format!("{error:#}")),
        })
    })
}

/// Waits until the watchdog reports a turn of the run loop within the last second.
// An orchestrator that uses `/healthz` would restart a validator whose loop hangs after the outage.
fn await_loop_turns(validator: &Service) -> Result<()> {
    const JUST_NOW_MS: u64 = 1_000;
    let http = Http::new()?;
    let url = format!("{}/healthz", validator.admin);
    await_until("the run loop turns", LIMIT, || {
        let (status, body) = http.get(&url)?;
        let health: Value = serde_json::from_str(&body).with_context(|| format!("parsing {url}: {body}"))?;
        Ok(match health["last_tick_ms_ago"].as_u64() {
            Some(..JUST_NOW_MS) if status == 200 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(format!("{status} {body}")),
        })
    })
}

#[test]
fn broker_outage_pauses_the_validator() {
    run(|| {
        /// Duration of each outage: longer than the session, commit and transaction timeouts.
        const AWAY: Duration = Duration::from_secs(20);
        let (mut broker, folder) = own_broker()?;
        let mut pipeline = Pipeline::on(broker.start()?, "away", 2)?;
        pipeline.create_topics()?;
        let topic = pipeline.topics.orders.clone();
        let mut validator = pipeline.service(
            "validator",
            1,
            pipeline
                .validator_settings(1)
                .with("validator.commit_timeout", "5s"),
        )?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let mut all = orders(0, "first", 200);
        send(&pipeline.kafka, &topic, &all)?;

        // While it processes the orders.
        broker.kill()?;
        await_unready(&mut validator, &["no broker has responded"])?;
        pause(AWAY)?;
        validator.expect_running()?;
        broker.start()?;
        supervise(&mut validator)?;
        await_verdicts(&pipeline)?;

        let more = orders(1, "second", 200);
        send(&pipeline.kafka, &topic, &more)?;
        all.extend(more);
        broker.freeze()?;
        await_unready(&mut validator, &["no broker has responded"])?;
        pause(AWAY)?;
        validator.expect_running()?;
        broker.thaw()?;
        supervise(&mut validator)?;
        send(&pipeline.kafka, &topic, &[&all[..], &[order(0, "last")]].concat())?;
        all.push(order(0, "last"));
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&all])?;
        await_loop_turns(&validator)?;
        validator.process.terminate(DRAIN_MAX)?;
        ensure!(
            !validator.process.log()?.contains("panicked"),
            "the validator panicked during the outages"
        );
        pipeline.passed();
        drop(pipeline);
        broker.discard();
        // The scenario has passed, and a folder that stays in the temporary directory harms nothing.
        let _removed = fs::remove_dir_all(folder);
        Ok(())
    });
}
