//! What is gone for a while is waited for: a disk that is full, brokers that are down or stand still. Meanwhile the
//! program is not ready and says why; afterwards it goes on by itself.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::cluster::broker::Broker;
use harness::http::Http;
use harness::orders::manual::{order, orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::wait::{await_until, pause};
use serde_json::Value;

use crate::assertions::{LIMIT, await_unready, await_verdicts, expect_outbox};
use crate::in_turn;

const DRAIN_MAX: Duration = Duration::from_secs(30);

#[test]
fn a_disk_that_takes_no_more_is_waited_for() {
    in_turn(|| {
        /// Enough for a log, and not for a store of all keys.
        const FILE_KIB_MAX: u64 = 1_200;
        let mut pipeline = Pipeline::create("full", 1)?;
        let topic = pipeline.topics.orders.clone();
        let mut validator = pipeline.validator(1)?;
        validator.process.limit_files(FILE_KIB_MAX);
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let sent = orders(0, "order", 20_000);
        send(&pipeline.kafka, &topic, &sent)?;
        await_unready(
            &mut validator,
            &["partition 0 is being restored; the last try", "File too large"],
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

/// Waits until it is ready. It may end meanwhile for one reason alone: the group has heard its request to join twice,
/// and takes one for that of another process. Its supervisor starts it again.
fn supervise(validator: &mut Service) -> Result<()> {
    let http = Http::new()?;
    let url = format!("{}/readyz", validator.admin);
    await_until("it is ready again", LIMIT, || {
        if validator.process.try_wait()?.is_some() {
            let life = validator.process.log_since_start()?;
            ensure!(life.contains("another validator has joined"), "it ended:\n{life}");
            validator.process.start()?;
        }
        Ok(match http.get(&url) {
            Ok((200, _)) => ControlFlow::Break(()),
            Ok((status, body)) => ControlFlow::Continue(format!("{status} {body}")),
            Err(error) => ControlFlow::Continue(format!("{error:#}")),
        })
    })
}

/// Its watchdog has seen its loop turn just now: one that has not would be ended by its supervisor.
fn await_turning(validator: &Service) -> Result<()> {
    const JUST_NOW_MS: u64 = 1_000;
    let http = Http::new()?;
    let url = format!("{}/healthz", validator.admin);
    await_until("its loop turns", LIMIT, || {
        let (status, body) = http.get(&url)?;
        let told: Value = serde_json::from_str(&body).context("its health")?;
        Ok(match told["last_tick_ms_ago"].as_u64() {
            Some(..JUST_NOW_MS) if status == 200 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(format!("{status} {body}")),
        })
    })
}

/// A broker of the story's own, which forgets itself only when all went well.
fn own_broker() -> Result<(Broker, PathBuf)> {
    let folder = tempfile::Builder::new()
        .prefix("outbox-own-broker-")
        .tempdir()
        .context("making a folder for a broker")?
        .keep();
    Ok((
        Broker::new(folder.join("1"), ["--heap", "384"].map(str::to_owned).to_vec()),
        folder,
    ))
}

#[test]
fn brokers_that_are_gone_are_waited_for() {
    in_turn(|| {
        /// Longer than session, commit and transaction may take.
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

        // In the midst of its work.
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
        await_turning(&validator)?;
        validator.process.terminate(DRAIN_MAX)?;
        ensure!(
            !validator.process.log()?.contains("panicked"),
            "something panicked meanwhile"
        );
        pipeline.passed();
        drop(pipeline);
        broker.discard();
        let _removed = fs::remove_dir_all(folder);
        Ok(())
    });
}
