//! Least permissions of each command of an operator: with what the list of `outbox topics acls` has for it, and nothing
//! else, it has its effect; without any one of them it names the resource and the operation.
//!
//! Set-up: a broker whose authorizer denies what is not allowed, and a pipeline with calls that were accepted, rejected and
//! parked, and with a refused order. Each command runs as a user of its own, and as users that lack one permission each.
//!
//! Must hold: each command that asks a broker is in one of the two scenarios, and shows or changes what it is for.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::cluster::Administrator;
use harness::cluster::secured::SecuredKafka;
use harness::http::Http;
use harness::orders::manual::{InputRecord, order, orders, send};
use harness::pipeline::{Pipeline, SESSION_TIMEOUT};
use harness::process::free_port;
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::{await_until, pause};
use kafka::topics::CHANGELOG_CONFIGS;
use kafka::topics::acls::{self, Acl, Operation, ResourceKind};
use records::Topics;

use super::fixture::secured_kafka;
use super::least::{Form, Lacking, Least, names_permission};
use crate::assertions::{LIMIT, await_verdicts};
use crate::g8_fail_closed::halted_partitions::{recreate, retry_until_accepted};
use crate::run;

/// Commands that change nothing.
const LOOKING: [&str; 13] = [
    "topics verify",
    "status",
    "order",
    "metrics",
    "parked groups",
    "parked list",
    "parked show",
    "notes",
    "dead-letters groups",
    "dead-letters list",
    "dead-letters show",
    "operations list",
    "replay status",
];
/// Commands that change something, and one that needs a stopped validator, in the order in which they run.
const CHANGING: [&str; 16] = [
    "topics create",
    "group create",
    "pause",
    "resume",
    "parked settle",
    "parked reconcile",
    "replay plan",
    "replay pause",
    "replay resume",
    "replay run",
    "replay cancel",
    "dead-letters replay",
    "group recover",
    "state verify",
    "state rebuild",
    "state repartition",
];
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// With another test, which compares the list with the command line, each command is tested with an authorizer.
#[test]
fn each_listed_command_is_run_with_an_authorizer() {
    let run: BTreeSet<_> = LOOKING.into_iter().chain(CHANGING).collect();
    let listed: BTreeSet<_> = acls::commands().collect();
    assert_eq!(run, listed);
}

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
        least.prepare(&format!("replay plan --rejected-for rejected --group {group}"))?;
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
            let output = least.run(command, &[words.as_str().into()])?.concat();
            ensure!(
                output.contains(expected),
                "`outbox {words}` lacks {expected:?}:\n{output}"
            );
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
            Duration::from_secs(20),
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

#[test]
fn changing_commands_need_what_is_listed() {
    run(|| {
        let kafka = secured_kafka()?;
        let mut pipeline = Pipeline::on(kafka.open.clone(), "changing", 1)?;
        let least = Least::allow(&kafka, &pipeline, &CHANGING, Lacking::Described)?;
        create(&pipeline, &least)?;
        let group = format!("--group {}", pipeline.caller_group);
        let stopped = fill_after(&pipeline, || {
            let words = format!("group create --at beginning --yes {group}");
            change(&least, "group create", &words, "with 1 calls to make")
        })?;
        change(&least, "pause", &format!("pause --yes {group}"), "are paused")?;
        change(&least, "resume", &format!("resume --yes {group}"), "are running")?;
        settle(&pipeline, &least, &group)?;
        replay(&pipeline, &least, &group)?;
        change(
            &least,
            "dead-letters replay",
            "dead-letters replay --refused-for not-json --reason test --yes",
            "1 dead letters were replayed",
        )?;
        let written_back = read_topic(&kafka.open, &pipeline.topics.orders, Keep::Fingerprints)?;
        let refused = written_back
            .iter()
            .filter(|record| record.key_text() == refused_key());
        ensure!(refused.count() == 2, "the order was not written back once");

        let administrator = Administrator::new(&kafka.open)?;
        retry_until_accepted("the group is deleted", || {
            administrator.delete_group(&pipeline.caller_group)
        })?;
        change(
            &least,
            "group recover",
            &format!("group recover --yes {group}"),
            "is recovered",
        )?;
        // A static member counts until its session has expired.
        pause((SESSION_TIMEOUT + Duration::from_secs(1)).saturating_sub(stopped.elapsed()))?;
        state(&kafka, &pipeline, &least)?;
        least.expect_all_ran()?;
        pipeline.passed();
        Ok(())
    });
}

/// Runs a command with one form, whose output must have these words.
fn change(least: &Least<'_>, command: &'static str, words: &str, expected: &str) -> Result<()> {
    let output = least.run(command, &[words.into()])?.concat();
    ensure!(
        output.contains(expected),
        "`outbox {words}` lacks {expected:?}:\n{output}"
    );
    Ok(())
}

fn create(pipeline: &Pipeline, least: &Least<'_>) -> Result<()> {
    let administrator = Administrator::new(&pipeline.kafka)?;
    let before = |lacked: Option<&Acl>| {
        // Nothing is created, and nothing recorded, if all are there.
        let missing = match lacked.map(|acl| (acl.kind, acl.operation, &acl.name)) {
            Some((ResourceKind::Topic, Operation::Create, name)) => name,
            Some((_, Operation::Write, _)) => &pipeline.topics.parked,
            _ => return Ok(()),
        };
        // The first time there is none.
        let _not_there = administrator.delete_topics(&[missing]);
        Ok(())
    };
    least.run_after("topics create", "topics create --yes --partitions 1", before)?;
    Ok(())
}

fn settle(pipeline: &Pipeline, least: &Least<'_>, group: &str) -> Result<()> {
    let Topics {
        call_dead_letters,
        pending,
        ..
    } = &pipeline.topics;
    let words =
        |key: &str, decision: &str| format!("parked settle {key} {decision} --reason test --yes {group}");
    let accepted = words("parked-0", "--accepted");
    let rejected = words("parked-1", "--rejected");
    let again = words("parked-2", "--send-again");
    let forms = [
        Form::from(accepted.as_str()),
        Form {
            words: &rejected,
            shows: Some((call_dead_letters, Operation::Write)),
        },
        Form {
            words: &again,
            shows: Some((pending, Operation::Write)),
        },
    ];
    let outputs = least.run("parked settle", &forms)?;
    for output in &outputs {
        ensure!(output.contains("1 parked calls are settled"), "{output}");
    }
    reconcile(pipeline, least, group)?;
    let parked = read_topic(&pipeline.kafka, &pipeline.topics.parked, Keep::Fingerprints)?;
    let settlements = parked
        .iter()
        .filter(|record| record.header(records::settlement::SETTLES).is_some());
    ensure!(settlements.count() == 6, "not each parked call was settled once");
    Ok(())
}

fn reconcile(pipeline: &Pipeline, least: &Least<'_>, group: &str) -> Result<()> {
    let words = |row: &str, absent: &str| -> Result<String> {
        let file = pipeline.folder().join(format!("{}.csv", row.replace(',', "-")));
        fs::write(&file, format!("order,state\n{row}\n"))?;
        Ok(format!(
            "parked reconcile --csv {} --order-column order --state-column state --accepted charged --rejected declined \
             --rows 1 --absent {absent} --reason test --yes {group}",
            file.display()
        ))
    };
    let accepted = words("parked-3,charged", "leave")?;
    let rejected = words("parked-4,declined", "leave")?;
    let again = words("other,charged", "send-again")?;
    let Topics {
        call_dead_letters,
        pending,
        ..
    } = &pipeline.topics;
    let forms = [
        Form::from(accepted.as_str()),
        Form {
            words: &rejected,
            shows: Some((call_dead_letters, Operation::Write)),
        },
        Form {
            words: &again,
            shows: Some((pending, Operation::Write)),
        },
    ];
    for output in least.run("parked reconcile", &forms)? {
        ensure!(output.contains("1 parked calls are settled"), "{output}");
    }
    Ok(())
}

fn replay(pipeline: &Pipeline, least: &Least<'_>, group: &str) -> Result<()> {
    let words = format!("--json replay plan --rejected-for rejected {group}");
    let plan = |output: &str| -> Result<String> {
        let json = output.find("{\n").map(|at| &output[at..]).context("JSON")?;
        let plan: serde_json::Value = serde_json::from_str(json)?;
        ensure!(plan["calls"] == 3, "not each rejected call is planned: {plan}");
        Ok(plan["plan"].as_str().context("a plan")?.to_owned())
    };
    let run = plan(&least.run("replay plan", &[words.as_str().into()])?.concat())?;
    let cancelled = plan(&least.listed("replay plan", &[words.as_str().into()])?.concat())?;
    change(least, "replay pause", &format!("replay pause {run}"), "paused")?;
    change(least, "replay resume", &format!("replay resume {run}"), "goes on")?;
    change(
        least,
        "replay run",
        &format!("replay run {run} --yes"),
        "3 of 3 calls appended",
    )?;
    change(
        least,
        "replay cancel",
        &format!("replay cancel {cancelled}"),
        "cancelled",
    )?;
    let copies = read_topic(&pipeline.kafka, &pipeline.topics.pending, Keep::Fingerprints)?;
    let copies = copies
        .iter()
        .filter(|record| record.header(records::operation::REPLAY).is_some());
    ensure!(copies.count() == 3, "not each rejected call was appended once");
    Ok(())
}

/// Runs the commands on the state of the stopped validator.
fn state(kafka: &SecuredKafka, pipeline: &Pipeline, least: &Least<'_>) -> Result<()> {
    let group = format!("--group {}", pipeline.validator_group);
    let words = format!(
        "state verify --dir {} {group}",
        pipeline.state_folder(1).display()
    );
    change(
        least,
        "state verify",
        &words,
        "The stores are equal to the changelog",
    )?;
    let records = || read_topic(&pipeline.kafka, &pipeline.topics.changelog, Keep::Fingerprints);
    // Some permissions are needed only when the entries are there, so that they are lost again.
    let lose = |_: Option<&Acl>| match records()?.is_empty() {
        true => Ok(()),
        false => recreate(pipeline, &pipeline.topics.changelog, &CHANGELOG_CONFIGS),
    };
    let output = least.run_after("state rebuild", &format!("state rebuild --yes {group}"), lose)?;
    ensure!(output.contains("13 entries were appended"), "{output}");
    let administrator = Administrator::new(&kafka.open)?;
    let Topics {
        orders,
        pending,
        changelog,
        ..
    } = &pipeline.topics;
    for topic in [orders, pending, changelog] {
        administrator.grow_topic(topic, 2)?;
    }
    let words = format!("state repartition --yes {group}");
    change(least, "state repartition", &words, "entries were appended")?;
    let moved = records()?.iter().filter(|record| record.partition.0 == 1).count();
    ensure!(moved > 0, "no key was appended to the new partition");
    Ok(())
}

/// Fills the topics, see [`fill_after`].
fn fill(pipeline: &Pipeline) -> Result<Instant> {
    fill_after(pipeline, || Ok(()))
}

/// Fills the topics: three calls that were rejected, six that are parked, three that were accepted, a refused order, and a
/// call and an order that wait. `begin` runs when the outbox has a call, before the caller starts. Returns when both
/// programs were stopped.
fn fill_after(pipeline: &Pipeline, begin: impl FnOnce() -> Result<()>) -> Result<Instant> {
    let topics = &pipeline.topics;
    let api = Api::start(pipeline, &["--reject".to_owned(), "1".to_owned()])?;
    let mut validator = pipeline.validator(1)?;
    let settings = pipeline
        .caller_settings(1, &api.url)
        .with("caller.on_ambiguous", "park");
    let mut caller = pipeline.service("caller", 1, settings)?;
    validator.process.start()?;
    await_ready(&mut validator, LIMIT)?;
    let put = |records: &[InputRecord]| send(&pipeline.kafka, &topics.orders, records);
    let await_records = |topic: &str, count: usize| {
        await_until(&format!("{topic} has {count} records"), LIMIT, || {
            let found = read_topic(&pipeline.kafka, topic, Keep::Fingerprints)?.len();
            Ok(match found >= count {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(format!("{found}")),
            })
        })
    };
    // So that the control topic has something to read.
    pipeline.switch_calls("pause", "test")?;
    pipeline.switch_calls("resume", "test")?;
    put(&[order(0, "rejected-0")])?;
    await_records(&topics.pending, 1)?;
    begin()?;
    caller.process.start()?;
    put(&[order(0, "rejected-1"), order(0, "rejected-2")])?;
    await_records(&topics.call_dead_letters, 3)?;
    api.change_faults(r#"{"reject":0,"before_500":1}"#)?;
    put(&orders(0, "parked", 6))?;
    await_records(&topics.parked, 6)?;
    api.change_faults(r#"{"before_500":0}"#)?;
    put(&orders(0, "accepted", 3))?;
    let refused = InputRecord {
        value: Some(b"no order".to_vec()),
        ..order(0, &refused_key())
    };
    put(&[refused])?;
    await_records(&topics.processed, 3)?;
    await_verdicts(pipeline)?;
    caller.process.terminate(DRAIN_MAX)?;
    // A call and an order that wait.
    put(&[order(0, &key_of_partition_0("pending"))])?;
    await_verdicts(pipeline)?;
    validator.process.terminate(DRAIN_MAX)?;
    put(&[order(0, &key_of_partition_0("waiting"))])?;
    Ok(Instant::now())
}

/// Returns the key of the refused order.
fn refused_key() -> String {
    key_of_partition_0("refused")
}

/// Returns a key that has the same partition when there are two.
fn key_of_partition_0(prefix: &str) -> String {
    (0..)
        .map(|number| format!("{prefix}-{number}"))
        .find(|key| crc32fast::hash(key.as_bytes()).is_multiple_of(2))
        .expect("one of two keys")
}
