//! The commands that change topics, groups and calls, see [`super`].

use std::fs;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use harness::cluster::Administrator;
use harness::pipeline::Pipeline;
use harness::read_back::topics::{Keep, read_topic};
use kafka::topics::acls::{Acl, Operation, ResourceKind};
use records::Topics;

use super::CHANGING;
use super::data::{fill_after, refused_key};
use super::least::{Form, Lacking, Least};
use crate::run;
use crate::security::fixture::secured_kafka;

#[test]
fn changing_commands_need_what_is_listed() {
    run(|| {
        let kafka = secured_kafka()?;
        let mut pipeline = Pipeline::on(kafka.open.clone(), "changing", 1)?;
        let least = Least::allow(&kafka, &pipeline, &CHANGING, Lacking::Described)?;
        create(&pipeline, &least)?;
        let group = format!("--group {}", pipeline.caller_group);
        fill_after(&pipeline, || {
            let words = format!("group create --at beginning --yes {group}");
            least.prints("group create", &words, "with 1 calls to make")
        })?;
        least.prints("pause", &format!("pause --yes {group}"), "are paused")?;
        least.prints("resume", &format!("resume --yes {group}"), "are running")?;
        settle(&pipeline, &least, &group)?;
        replay(&pipeline, &least, &group)?;
        least.prints(
            "dead-letters replay",
            "dead-letters replay --dead-letter-reason not-json --reason test --yes",
            "1 dead letters were replayed",
        )?;
        let written_back = read_topic(&kafka.open, &pipeline.topics.orders, Keep::Fingerprints)?;
        let refused = written_back
            .iter()
            .filter(|record| record.key_text() == refused_key());
        ensure!(refused.count() == 2, "the order was not written back once");

        least.expect_all_ran()?;
        pipeline.passed();
        Ok(())
    });
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
    let words = |row: &str, name: &str, absent: &str| -> Result<String> {
        let file = pipeline.folder().join(format!("{name}.csv"));
        fs::write(&file, format!("order,state\n{row}\n"))?;
        Ok(format!(
            "parked reconcile --csv {} --order-column order --state-column state --accepted charged --rejected declined \
             --rows 1 --absent {absent} --reason test --yes {group}",
            file.display()
        ))
    };
    let accepted = words("parked-3,charged", "accepted", "leave")?;
    let rejected = words("parked-4,declined", "rejected", "leave")?;
    // Parked, and settled before: a file without any such order is refused. The time has no blank in it.
    let as_of = humantime::format_rfc3339_millis(SystemTime::now());
    let again = words(
        "parked-0,charged",
        "again",
        &format!("send-again --as-of {as_of}"),
    )?;
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
    let words = format!("--json replay plan --dead-letter-reason rejected {group}");
    let plan = |output: &str| -> Result<String> {
        let json = output.find("{\n").map(|at| &output[at..]).context("JSON")?;
        let plan: serde_json::Value = serde_json::from_str(json)?;
        ensure!(plan["calls"] == 3, "not each rejected call is planned: {plan}");
        Ok(plan["plan"].as_str().context("a plan")?.to_owned())
    };
    let run = plan(&least.run("replay plan", &[words.as_str().into()])?.concat())?;
    let cancelled = plan(&least.listed("replay plan", &[words.as_str().into()])?.concat())?;
    least.prints("replay pause", &format!("replay pause {run}"), "paused")?;
    least.prints("replay resume", &format!("replay resume {run}"), "goes on")?;
    least.prints(
        "replay run",
        &format!("replay run {run} --yes"),
        "3 of 3 calls appended",
    )?;
    least.prints(
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
