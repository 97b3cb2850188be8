//! Credentials that are changed, or permissions that are taken away, while the programs run.
//!
//! Set-up: a validator and a caller with passwords, and connections that authenticate again every few seconds. Then the
//! broker gets other passwords, and the first ones back. Then the caller loses the permission to write outcomes.
//!
//! Must hold: the programs run on, are not ready and name the credentials; once these are valid again they continue by
//! themselves, and each order has its outcome, called once. Neither log grows without end, and none has a password.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::api::Api;
use harness::cluster::access_control::AccessControl;
use harness::cluster::secured::SecuredKafka;
use harness::orders::manual::{orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::wait::{await_until, pause};
use kafka::topics::acls::{Acl, Operation, ResourceKind, User};

use super::fixture::{Access, allow, caller, expect_log, secured_kafka, validator};
use crate::assertions::{LIMIT, await_outcomes, await_unready};
use crate::run;

const PASSWORD: &str = "first-password-3b58";
const OTHER_PASSWORD: &str = "other-password-e90d";
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Time for which the credentials are wrong.
const WRONG_FOR: Duration = Duration::from_secs(10);
/// Maximum number of lines that a program logs in a second.
const LINES_PER_SECOND_MAX: u64 = 30;

fn start(kafka: &SecuredKafka, pipeline: &Pipeline, api: &Api) -> Result<[Service; 2]> {
    let access = |user: &str| {
        Access::to(&kafka.sasl, "SASL_SSL")
            .trusting(&kafka.authority)
            .with_user("SCRAM-SHA-512", user, PASSWORD)
    };
    let mut services = [
        validator(pipeline, 1, &access("rotated-validator"))?,
        caller(pipeline, 1, &api.url, &access("rotated-caller"))?,
    ];
    for service in &mut services {
        service.process.start()?;
        await_ready(service, LIMIT)?;
    }
    Ok(services)
}

fn set_passwords(kafka: &SecuredKafka, password: &str) -> Result<()> {
    kafka.set_password("rotated-validator", password)?;
    kafka.set_password("rotated-caller", password)
}

#[test]
fn changed_password_is_survived_and_named() {
    run(|| {
        let kafka = secured_kafka()?;
        let mut pipeline = Pipeline::on(kafka.open.clone(), "rotated", 1)?;
        pipeline.create_topics()?;
        set_passwords(&kafka, PASSWORD)?;
        allow(&kafka, &pipeline, User::Validator, "User:rotated-validator")?;
        allow(&kafka, &pipeline, User::Caller, "User:rotated-caller")?;
        let api = Api::start(&pipeline, &[])?;
        let mut services = start(&kafka, &pipeline, &api)?;
        send(&kafka.open, &pipeline.topics.orders, &orders(0, "before", 5))?;
        await_outcomes(&pipeline, 5)?;

        set_passwords(&kafka, OTHER_PASSWORD)?;
        let wrong_since = Instant::now();
        let before = lines(&services)?;
        let [validator, caller] = &mut services;
        await_unready(validator, &["no broker has responded", "refused the credentials"])?;
        await_unready(caller, &["control"])?;
        send(&kafka.open, &pipeline.topics.orders, &orders(0, "meanwhile", 5))?;
        pause(WRONG_FOR)?;
        let seconds = wrong_since.elapsed().as_secs();
        for (before, service) in before.into_iter().zip(&mut services) {
            service.expect_running()?;
            let log = service.process.log_since_start()?;
            let lines_max = before + usize::try_from(seconds * LINES_PER_SECOND_MAX)?;
            println!(
                "{}: {} lines in {seconds} s",
                service.process.name(),
                log.lines().count() - before
            );
            let words = ["Authentication failed"];
            expect_log(&log, service.process.name(), &words, &[PASSWORD], lines_max)?;
        }

        set_passwords(&kafka, PASSWORD)?;
        await_outcomes(&pipeline, 10)?;
        for service in &mut services {
            await_ready(service, LIMIT)?;
            service.process.terminate(DRAIN_MAX)?;
        }
        pipeline.passed();
        Ok(())
    });
}

fn lines(services: &[Service]) -> Result<Vec<usize>> {
    let count = |service: &Service| Ok(service.process.log_since_start()?.lines().count());
    services.iter().map(count).collect()
}

#[test]
fn outcome_without_permission_waits() {
    run(|| {
        let kafka = secured_kafka()?;
        let mut pipeline = Pipeline::on(kafka.open.clone(), "unpermitted", 1)?;
        pipeline.create_topics()?;
        kafka.set_password("unpermitted-caller", PASSWORD)?;
        let principal = "User:unpermitted-caller";
        allow(&kafka, &pipeline, User::Caller, principal)?;
        let api = Api::start(&pipeline, &[])?;
        let access = Access::to(&kafka.sasl, "SASL_SSL")
            .trusting(&kafka.authority)
            .with_user("SCRAM-SHA-512", "unpermitted-caller", PASSWORD);
        let mut caller = caller(&pipeline, 1, &api.url, &access)?;
        caller.process.start()?;
        await_ready(&mut caller, LIMIT)?;
        let writes_outcomes = Acl {
            kind: ResourceKind::Topic,
            name: pipeline.topics.processed.clone(),
            is_prefix: false,
            operation: Operation::Write,
        };
        let control = AccessControl::of(&kafka.open);
        control.remove(principal, &writes_outcomes)?;
        send(&kafka.open, &pipeline.topics.pending, &orders(0, "order", 3))?;
        let topic = &pipeline.topics.processed;
        let started = Instant::now();
        await_until("the caller names the permission", LIMIT, || {
            let log = caller.process.log_since_start()?;
            let is_named = |line: &str| line.contains(topic) && line.contains("permission");
            Ok(match log.lines().any(is_named) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(log),
            })
        })?;
        pause(WRONG_FOR)?;
        caller.expect_running()?;
        let log = caller.process.log_since_start()?;
        let lines_max = usize::try_from((started.elapsed().as_secs() + 1) * LINES_PER_SECOND_MAX)?;
        println!(
            "caller: {} lines in {} s",
            log.lines().count(),
            started.elapsed().as_secs()
        );
        expect_log(&log, "caller-1", &[], &[PASSWORD], lines_max)?;
        control.allow(principal, &[writes_outcomes])?;
        await_outcomes(&pipeline, 3)?;
        let charges = api.stats()?.charges;
        ensure!(charges == 3, "{charges} charges for 3 orders");
        caller.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}
