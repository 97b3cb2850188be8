//! Least permissions: the list of `outbox topics acls` is enough for each program and command, and nothing in it can be
//! left out.
//!
//! Set-up: a broker whose authorizer denies what is not allowed. Validator, caller, an operator and a reader connect as
//! users of their own, each by another kind of credentials, and have the listed permissions. Then each permission of
//! validator and caller is taken away on its own.
//!
//! Must hold: with all of them an order gets its outcome, and each command works. Without one of them the program names
//! the resource and the permission in its log, and does not log without end.

use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::cluster::Administrator;
use harness::cluster::access_control::AccessControl;
use harness::cluster::secured::{PLAIN_USER, SecuredKafka, Validity};
use harness::orders::manual::{InputRecord, order, orders, send, send_at};
use harness::pipeline::{Pipeline, SESSION_TIMEOUT, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::process::settings::Settings;
use harness::wait::{await_until, pause};
use kafka::topics::acls::{Acl, Operation, ResourceKind, User};
use records::Timestamp;

use super::fixture::{Access, allow, caller, expect_log, outbox, secured_kafka, validator};
use crate::assertions::{LIMIT, await_outcomes, await_verdicts};
use crate::run;

const PASSWORD: &str = "secret-of-the-caller-77a0";
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Maximum number of lines that a program logs in the seconds in which it lacks a permission.
const LINES_MAX: usize = 250;

/// Returns the access and the principal of a client with a certificate.
fn with_certificate(kafka: &SecuredKafka, name: &str) -> Result<(Access, String)> {
    let access = Access::to(&kafka.mutual_tls, "SSL")
        .trusting(&kafka.authority)
        .with_client(&kafka.authority.client(name, Validity::Current)?);
    Ok((access, format!("User:CN={name}")))
}

#[test]
fn listed_permissions_are_enough() {
    run(|| {
        let kafka = secured_kafka()?;
        let mut pipeline = Pipeline::on(kafka.open.clone(), "permitted", 1)?;
        let (creating, creator) = with_certificate(&kafka, "permitted-creator")?;
        let (validating, validators) = with_certificate(&kafka, "permitted-validator")?;
        let (reading, reader) = with_certificate(&kafka, "permitted-reader")?;
        kafka.set_password("permitted-caller", PASSWORD)?;
        let sasl = || Access::to(&kafka.sasl, "SASL_SSL").trusting(&kafka.authority);
        let calling = sasl().with_user("SCRAM-SHA-512", "permitted-caller", PASSWORD);
        let operating = sasl().with_user("PLAIN", PLAIN_USER.0, PLAIN_USER.1);

        allow(&kafka, &pipeline, User::Creator, &creator)?;
        let output = run_command(&pipeline, &creating, "topics create --yes --partitions 1")?;
        ensure!(
            output.contains("Topics created: 9"),
            "the topics were not created:\n{output}"
        );
        grant_by_printed_commands(&kafka, &pipeline, &validators)?;
        allow(&kafka, &pipeline, User::Caller, "User:permitted-caller")?;
        allow(&kafka, &pipeline, User::Reader, &reader)?;
        allow(
            &kafka,
            &pipeline,
            User::Operator,
            &format!("User:{}", PLAIN_USER.0),
        )?;

        let (group, of_validators) = (&pipeline.caller_group, &pipeline.validator_group);
        let operate = |command: &str| run_command(&pipeline, &operating, command);
        let read = |command: &str| run_command(&pipeline, &reading, command);
        operate(&format!("group create --at beginning --yes --group {group}"))?;
        let api = Api::start(&pipeline, &[])?;
        let mut validator = validator(&pipeline, 1, &validating)?;
        let mut caller = caller(&pipeline, 1, &api.url, &calling)?;
        for service in [&mut validator, &mut caller] {
            service.process.start()?;
            await_ready(service, LIMIT)?;
        }
        let refused = InputRecord {
            value: Some(b"no order".to_vec()),
            ..order(0, "refused")
        };
        let sent = [orders(0, "order", 3), vec![refused]].concat();
        send(&kafka.open, &pipeline.topics.orders, &sent)?;
        await_outcomes(&pipeline, 3)?;

        for command in [
            "topics verify",
            &format!("status --group {group} --validators {of_validators}"),
            &format!("order order-0 --group {group}"),
            &format!("parked groups --group {group}"),
            &format!("parked list --group {group}"),
            &format!("notes --group {group}"),
            "dead-letters groups",
            "dead-letters list",
            "operations list",
            "replay status",
        ] {
            read(command)?;
        }
        operate(&format!("pause --yes --reason test --group {group}"))?;
        operate(&format!("resume --yes --group {group}"))?;
        operate("dead-letters replay --dead-letter-reason not-an-order --reason test --yes")?;
        operate(&format!("status --group {group} --validators {of_validators}"))?;
        for service in [&mut validator, &mut caller] {
            service.process.terminate(DRAIN_MAX)?;
            let log = service.process.log_since_start()?;
            ensure!(!log.contains("uthoriz"), "something was denied:\n{log}");
            expect_log(&log, service.process.name(), &[], &[PASSWORD], usize::MAX)?;
        }
        let state = pipeline.state_folder(1);
        read(&format!(
            "state verify --dir {} --validators {of_validators}",
            state.display()
        ))?;
        // A static member counts until its session has expired.
        pause(SESSION_TIMEOUT + Duration::from_secs(1))?;
        operate(&format!("state rebuild --yes --validators {of_validators}"))?;
        pipeline.passed();
        Ok(())
    });
}

/// Runs a command, which must not be denied anything, and returns its output.
fn run_command(pipeline: &Pipeline, access: &Access, command: &str) -> Result<String> {
    let words: Vec<&str> = command.split(' ').collect();
    let mut process = outbox(pipeline, "outbox-command", access, &words)?;
    process.start()?;
    let status = process.wait_exit(LIMIT)?;
    let output = process.log_since_start()?;
    // 1: a check found something, such as one replica.
    ensure!(
        matches!(status.code(), Some(0 | 1)) && !output.contains("uthoriz"),
        "`outbox {command}` exited with {status}:\n{output}"
    );
    expect_log(&output, "outbox", &[], &[PLAIN_USER.1], usize::MAX)?;
    Ok(output)
}

/// Runs the commands that `outbox topics acls` prints for the validators.
fn grant_by_printed_commands(kafka: &SecuredKafka, pipeline: &Pipeline, principal: &str) -> Result<()> {
    let (validators, callers) = (&pipeline.validator_group, &pipeline.caller_group);
    let command =
        format!("topics acls --validators {validators} --group {callers} --validator-principal {principal}");
    let output = run_command(pipeline, &Access::to(&kafka.open, "PLAINTEXT"), &command)?;
    let begin = format!("kafka-acls.sh --bootstrap-server {} ", kafka.open);
    let commands: Vec<&str> = output
        .lines()
        .filter_map(|line| line.strip_prefix(&begin))
        .collect();
    ensure!(
        commands.len() == 7,
        "not one command for each resource:\n{output}"
    );
    for arguments in commands {
        kafka.tool("acls", &arguments.split(' ').collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Takes each permission away on its own, and has the program run without it until it names it.
fn expect_each_named(
    kafka: &SecuredKafka,
    (principal, allowed): (&str, &[Acl]),
    mut program: impl FnMut(&Acl) -> Result<Service>,
    mut meanwhile: impl FnMut() -> Result<()>,
) -> Result<()> {
    let control = AccessControl::of(&kafka.open);
    for acl in allowed {
        control.remove(principal, acl)?;
        let mut service = program(acl)?;
        service.process.start()?;
        let name = service.process.name().to_owned();
        await_until(&format!("{name} names {acl:?}"), LIMIT, || {
            meanwhile()?;
            // Before the log is read, whose end may be written as it exits.
            let exited = service.process.try_wait()?;
            let log = service.process.log_since_start()?;
            Ok(match names_permission(&log, acl) {
                true => ControlFlow::Break(()),
                false if exited.is_some() => {
                    anyhow::bail!("{name} exited, and did not name {acl:?}:\n{log}")
                }
                false => ControlFlow::Continue(log),
            })
        })?;
        pause(Duration::from_secs(1))?;
        let log = service.process.log_since_start()?;
        // The calls that the API throttles are retried, whatever is permitted.
        let lines = log.lines().filter(|line| !line.contains("call will be retried"));
        let log = lines.collect::<Vec<_>>().join("\n");
        expect_log(&log, &name, &[], &[PASSWORD], LINES_MAX).with_context(|| format!("without {acl:?}"))?;
        println!("without {acl:?}: {} lines", log.lines().count());
        service.process.try_wait()?;
        if service.process.id().is_some() {
            service.process.request_shutdown(DRAIN_MAX)?;
        }
        control.allow(principal, std::slice::from_ref(acl))?;
    }
    Ok(())
}

/// Returns whether the log has a line with the resource and what was refused, and the permission.
fn names_permission(log: &str, acl: &Acl) -> bool {
    let resource = match acl.kind {
        ResourceKind::Cluster => "DESCRIBE_CONFIGS on the cluster",
        ResourceKind::Topic | ResourceKind::Group | ResourceKind::TransactionalId => &acl.name,
    };
    // librdkafka names the topic that a transaction was refused for in its log alone.
    let is_refusal = |line: &str| line.contains("permission") || line.contains("authorization failed");
    let has_resource = log
        .lines()
        .any(|line| line.contains(resource) && is_refusal(line));
    has_resource && log.contains("permission")
}

#[test]
fn permission_that_a_validator_lacks_is_named() {
    /// Longer ago than validators remember keys.
    const OLD_MS: i64 = 40 * 24 * 3_600_000;
    run(|| {
        let kafka = secured_kafka()?;
        let mut pipeline = Pipeline::on(kafka.open.clone(), "validator-lacks", 1)?;
        let topic = pipeline.topics.orders.clone();
        // Orders of any time.
        Administrator::new(&kafka.open)?.create_topic(&topic, 1, &[("retention.ms", "-1")])?;
        pipeline.create_topics()?;
        let (access, principal) = with_certificate(&kafka, "lacking-validator")?;
        let mut allowed = allow(&kafka, &pipeline, User::Validator, &principal)?;
        let mut first = validator(&pipeline, 1, &access)?;
        first.process.start()?;
        await_ready(&mut first, LIMIT)?;
        let old = Timestamp(Timestamp::now().0 - OLD_MS);
        send_at(&kafka.open, &topic, &orders(0, "old", 10), old)?;
        await_verdicts(&pipeline)?;
        // Until the keys are in the file, from which they are forgotten.
        pause(Duration::from_secs(2))?;
        first.process.terminate(DRAIN_MAX)?;

        // First: the old keys are deleted as soon as that is allowed.
        allowed.sort_by_key(|acl| acl.operation != Operation::Delete);
        let mut number = 0;
        let state = pipeline.state_folder(1);
        let start = |acl: &Acl| {
            number += 1;
            // Without its store it reads the changelog.
            if acl.operation == Operation::Read && state.exists() {
                fs::remove_dir_all(&state)?;
            }
            send(&kafka.open, &topic, &[order(0, &format!("order-{number}"))])?;
            validator(&pipeline, 1, &access)
        };
        let mut more = 0;
        let meanwhile = || {
            more += 1;
            pause(Duration::from_millis(200))?;
            send(&kafka.open, &topic, &[order(0, &format!("more-{more}"))])
        };
        expect_each_named(&kafka, (&principal, &allowed), start, meanwhile)?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn permission_that_a_caller_lacks_is_named() {
    run(|| {
        let kafka = secured_kafka()?;
        let mut pipeline = Pipeline::on(kafka.open.clone(), "caller-lacks", 1)?;
        pipeline.create_topics()?;
        pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
        kafka.set_password("lacking-caller", PASSWORD)?;
        let access = Access::to(&kafka.sasl, "SASL_SSL")
            .trusting(&kafka.authority)
            .with_user("SCRAM-SHA-512", "lacking-caller", PASSWORD);
        let principal = "User:lacking-caller";
        let allowed = allow(&kafka, &pipeline, User::Caller, principal)?;
        // Some calls fail again and again while others are accepted, so that callers defer them.
        let faults = ["--failing-orders", "0.2", "--seed", "1"].map(str::to_owned);
        let api = Api::start(&pipeline, &faults)?;
        let start = |_: &Acl| {
            let settings = deferring(&pipeline, &api.url);
            pipeline.service("caller", 1, access.apply(settings))
        };
        let mut sent = 0;
        let meanwhile = || {
            sent += 1;
            pause(Duration::from_millis(200))?;
            send(
                &kafka.open,
                &pipeline.topics.pending,
                &orders(0, &format!("call-{sent}"), 4),
            )
        };
        expect_each_named(&kafka, (principal, &allowed), start, meanwhile)?;
        pipeline.passed();
        Ok(())
    });
}

/// Returns settings of a caller that retries fast and defers a failing call after a second.
fn deferring(pipeline: &Pipeline, api: &str) -> Settings {
    pipeline
        .caller_settings(1, api)
        .with("caller.instance_id", "caller-1")
        .with("retry.backoff_initial", "50ms")
        .with("retry.backoff_max", "200ms")
        .with("retry.retry_after_max", "50ms")
        .with("deferral.window_max", 1_000)
        .with("deferral.defer_after", "1s")
}
