//! G9: refused orders are written back after the cause was repaired, and each is admitted and charged once.
//!
//! Set-up: a validator that reads amounts as minor units, and 1,200 orders on two partitions whose amounts are
//! decimals: it refuses them. It is restarted with the setting corrected. Some of the orders are sent again by their
//! producer, and are admitted. The operator replays all dead letters of that reason; the command is killed at each of
//! its steps, then two of them run at once, and then it runs once more.
//!
//! Must hold: each dead letter is written back once, to its partition, with its bytes and its order's own headers;
//! each order is in the outbox once, has an outcome, and is charged once. Dead letters for another reason stay, and
//! only those are counted as waiting. While brokers write their own time into the orders, nothing is written back. Without `guard-resubmission` nothing tells that a dead letter was replayed, and
//! the same orders are written back again.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::cluster::Administrator;
use harness::orders::manual::{InputRecord, send, send_with};
use harness::pipeline::Pipeline;
use harness::process::Process;
use harness::read_back::topics::{Keep, Record, read_topic};
use harness::wait::await_until;
use rdkafka::message::{Header, OwnedHeaders};
use records::{Partition, Position, dead_letter, resubmission};

use super::drill::{COMMAND_MAX, ended, finished};
use crate::assertions::{LIMIT, await_outcomes, await_verdicts};
use crate::run;

const PARTITIONS: i32 = 2;
/// More than one transaction of the command holds.
const REFUSED_EACH: u32 = 600;
const SENT_AGAIN: usize = 10;
/// Failpoints at which the command is killed, and the number of passes before. The first transaction of the last
/// command is committed.
const STEPS: [(&str, u32); 3] = [
    ("between-resubmission-records", 20),
    ("before-resubmission-commit", 0),
    ("after-resubmission-commit", 0),
];

fn order(partition: i32, id: &str, amount: &str) -> InputRecord {
    let value = format!(r#"{{"order_id":"{id}","amount":{amount},"currency":"EUR","customer_id":"c"}}"#);
    InputRecord {
        partition: Partition(partition),
        key: Some(id.into()),
        value: Some(value.into()),
    }
}

/// Fails unless nothing is written back while brokers write their own time into the orders.
fn expect_refused_without_times(operator: &Operator<'_>, orders: &str) -> Result<()> {
    const SETTING: &str = "message.timestamp.type";
    let administrator = Administrator::new(&operator.pipeline.kafka)?;
    administrator.configure_topic(orders, SETTING, "LogAppendTime")?;
    let refused = finished(&mut operator.replay("outbox-replay")?)?;
    ensure!(
        refused.contains("looks new") && refused.contains("message.timestamp.type=CreateTime"),
        "orders would look new:\n{refused}"
    );
    administrator.configure_topic(orders, SETTING, "CreateTime")
}

/// The operator, with the validators' settings file.
struct Operator<'a> {
    pipeline: &'a Pipeline,
    config: PathBuf,
}

impl Operator<'_> {
    fn command(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        Ok(self
            .pipeline
            .process(name, "outbox")?
            .arguments(["--config".as_ref(), self.config.as_os_str()])
            .arguments(arguments.iter().copied()))
    }

    fn replay(&self, name: &str) -> Result<Process> {
        let reason = "amounts are decimals";
        let arguments = [
            "dead-letters",
            "replay",
            "--dead-letter-reason",
            "not-an-order",
            "--reason",
            reason,
            "--yes",
        ];
        self.command(name, &arguments)
    }

    fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let output = finished(&mut self.command("outbox-json", &[&["--json"], arguments].concat())?)?;
        let json = output.find("{\n").map(|at| &output[at..]);
        Ok(serde_json::from_str(
            json.with_context(|| format!("no JSON in {output}"))?,
        )?)
    }

    /// Returns the number of dead letters of orders that wait.
    fn waiting(&self) -> Result<u64> {
        self.status()?["order_dead_letters"].as_u64().context("a number")
    }

    fn status(&self) -> Result<serde_json::Value> {
        let (callers, validators) = (&self.pipeline.caller_group, &self.pipeline.validator_group);
        self.json(&["status", "--group", callers, "--validators", validators])
    }
}

#[test]
fn replayed_dead_letters_are_charged_once() {
    run(|| {
        let mut pipeline = Pipeline::create("replayed", PARTITIONS)?;
        pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
        let api = Api::start(&pipeline, &["--seed=1".into()])?;
        // Nearly all orders are refused, which would pause the partitions.
        let settings = pipeline.validator_settings(1).with("refusals.threshold", 0);
        let mut validator = pipeline.service("validator", 1, settings)?;
        let mut caller = pipeline.caller(1, &api.url)?;
        validator.process.start()?;
        caller.process.start()?;

        let kafka = pipeline.kafka.clone();
        let orders = pipeline.topics.orders.clone();
        let trace = OwnedHeaders::new().insert(Header {
            key: "trace",
            value: Some("t-1"),
        });
        let refused: Vec<_> = (0..PARTITIONS)
            .flat_map(|partition| {
                (0..REFUSED_EACH)
                    .map(move |number| order(partition, &format!("p{partition}-{number}"), "12.50"))
            })
            .collect();
        let valid = [order(0, "valid-0", "1250"), order(1, "valid-1", "1250")];
        let not_json = InputRecord {
            value: Some(b"{".to_vec()),
            ..order(0, "not-json", "1")
        };
        send(&kafka, &orders, &valid)?;
        send_with(&kafka, &orders, &refused, trace)?;
        send(&kafka, &orders, &[not_json])?;
        await_verdicts(&pipeline)?;
        validator.process.terminate(LIMIT)?;

        let settings = pipeline.validator_settings(1).with("order.amount", "decimal");
        let mut validator = pipeline.service_as("validator-repaired", "validator", settings)?;
        validator.process.start()?;
        let sent_again: Vec<_> = refused.iter().step_by(100).take(SENT_AGAIN).cloned().collect();
        send(&kafka, &orders, &sent_again)?;
        await_verdicts(&pipeline)?;

        let operator = Operator {
            config: Path::new(pipeline.folder()).join("validator-repaired.toml"),
            pipeline: &pipeline,
        };
        let count = refused.len();
        ensure!(
            operator.waiting()? == count as u64 + 1,
            "before: {} wait",
            operator.waiting()?
        );
        expect_groups(&operator, count)?;
        expect_refused_without_times(&operator, &orders)?;
        for (step, passes) in STEPS {
            let mut killed = operator.replay("outbox-replay")?;
            killed.start_with_crash_at(step, passes)?;
            killed.wait_killed(COMMAND_MAX)?;
        }
        let mut two = ["outbox-replay-1", "outbox-replay-2"]
            .into_iter()
            .map(|name| operator.replay(name))
            .collect::<Result<Vec<_>>>()?;
        two.iter_mut().try_for_each(Process::start)?;
        for command in &mut two {
            println!("{}", ended(command)?);
        }
        await_until("each dead letter is replayed", LIMIT, || {
            let last = finished(&mut operator.replay("outbox-replay")?)?;
            let done = format!("0 dead letters were replayed, {count} had been replayed before, 0 are");
            Ok(match last.contains(&done) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(last),
            })
        })?;

        expect_written_once(&pipeline, &refused, &sent_again)?;
        await_until("no order waits", LIMIT, || {
            let status = operator.status()?;
            Ok(match status["orders_waiting"] == 0 {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(status.to_string()),
            })
        })?;
        // Behind the markers of the command's transactions, for which no offset is committed.
        let last = [order(0, "last-0", "1"), order(1, "last-1", "1")];
        send(&kafka, &orders, &last)?;
        await_verdicts(&pipeline)?;
        let admitted = count + valid.len() + last.len();
        await_outcomes(&pipeline, admitted)?;
        let mut calls: BTreeMap<String, u32> = BTreeMap::new();
        for call in read_topic(&kafka, &pipeline.topics.pending, Keep::Fingerprints)? {
            *calls.entry(call.key_text()).or_default() += 1;
        }
        ensure!(
            calls.len() == admitted && calls.values().all(|times| *times == 1),
            "the outbox does not have each order once: {calls:?}"
        );
        let stats = api.stats()?;
        ensure!(
            (stats.charges, stats.orders_charged_more_than_once) == (admitted as u64, 0),
            "{count} replayed orders: {stats:?}"
        );
        ensure!(operator.waiting()? == 1, "after: {} wait", operator.waiting()?);
        let list = operator.json(&["dead-letters", "list", "--orders"])?;
        ensure!(
            list["count"] == 1 && list["dead_letters"][0]["key"] == "not-json",
            "{list}"
        );
        let shown = operator.json(&["dead-letters", "show", "p1-7"])?;
        ensure!(
            (&shown["dead_letters"], &shown["replays"]) == (&1.into(), &1.into()),
            "{shown}"
        );
        for service in [&mut validator, &mut caller] {
            service.process.terminate(LIMIT)?;
        }
        drop(operator);
        pipeline.passed();
        Ok(())
    });
}

/// Fails unless the refused orders are one group, with what they are worth.
fn expect_groups(operator: &Operator<'_>, count: usize) -> Result<()> {
    let groups = operator.json(&["dead-letters", "groups", "--orders"])?;
    let largest = &groups["listed"][0];
    let euros = format!("{}.{:02}", count * 1250 / 100, count * 1250 % 100);
    ensure!(
        groups["groups"] == 2
            && largest["dead_letters"] == count
            && largest["amounts"]["EUR"] == euros.as_str(),
        "{groups}"
    );
    let calls = operator.json(&["dead-letters", "list", "--calls"])?;
    ensure!(calls["count"] == 0, "{calls}");
    Ok(())
}

/// Fails unless each refused order was written back once, as it was.
fn expect_written_once(
    pipeline: &Pipeline,
    refused: &[InputRecord],
    sent_again: &[InputRecord],
) -> Result<()> {
    let topics = &pipeline.topics;
    let letters = read_topic(&pipeline.kafka, &topics.order_dead_letters, Keep::Values)?;
    let mut resubmitted: BTreeMap<Position, u32> = BTreeMap::new();
    for letter in &letters {
        if let Some(of) = letter.header(resubmission::RESUBMITS) {
            *resubmitted.entry(of.parse()?).or_default() += 1;
        }
    }
    ensure!(
        resubmitted.len() == refused.len() && resubmitted.values().all(|times| *times == 1),
        "of {} dead letters {} were resubmitted, and these not once: {:?}",
        refused.len(),
        resubmitted.len(),
        resubmitted.iter().find(|(_, times)| **times != 1)
    );
    let mut written: BTreeMap<Vec<u8>, Vec<Record>> = BTreeMap::new();
    for record in read_topic(&pipeline.kafka, &topics.orders, Keep::Values)? {
        written
            .entry(record.key.clone().unwrap_or_default())
            .or_default()
            .push(record);
    }
    for order in refused {
        let key = order.key.clone().unwrap_or_default();
        let times = 2 + usize::from(sent_again.contains(order));
        let found = written.remove(&key).unwrap_or_default();
        let last = found.last().context("an order")?;
        ensure!(
            found.len() == times
                && last.partition == order.partition
                && last.value == order.value
                && last.headers == found[0].headers
                && last.header(dead_letter::REASON).is_none(),
            "{:?} was written {} times, expected {times}; the last is {last:?}",
            String::from_utf8_lossy(&key),
            found.len()
        );
    }
    Ok(())
}
