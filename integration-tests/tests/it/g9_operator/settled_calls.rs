//! G9: parked calls are settled by what the API's own record says, and no order is charged twice or lost.
//!
//! Set-up: two callers under `park`, and an API that loses many responses, before or after it has charged. One
//! caller is killed. Of some 600 orders half are parked. The operator settles those that the API has charged as
//! accepted, and has the others sent again. The command is killed at each of its steps; then two of them run at
//! once, with the callers at work.
//!
//! Must hold: no call is sent again before its last request can no longer be processed, and none that was settled
//! before. At the end no call waits, each was settled once, each order has an outcome, and the API has charged each
//! exactly once. Without `guard-settlement` nothing tells that a call was settled, and the same calls are settled
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::orders::manual::{orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::Process;
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;
use legacy_api::Decision;
use records::settlement;

use crate::assertions::{LIMIT, await_outbox, await_outcomes};
use crate::{run, seed};

const PARTITIONS: i32 = 2;
const ORDERS: u32 = 300;
const DRAIN_MAX: Duration = Duration::from_secs(60);
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// The operator, with the callers' settings file.
struct Operator<'a> {
    pipeline: &'a Pipeline,
    config: PathBuf,
}

impl Operator<'_> {
    fn command(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        let group = self.pipeline.caller_group.as_str();
        Ok(self
            .pipeline
            .process(name, "outbox")?
            .arguments(["--config"])
            .arguments([&self.config])
            .arguments(arguments.iter().copied())
            .arguments(["--group", group]))
    }

    /// Settles the calls of these keys.
    fn settle(&self, name: &str, keys: &BTreeSet<String>, decision: &str) -> Result<Process> {
        let file = self.pipeline.folder().join(format!("{name}.keys"));
        std::fs::write(&file, keys.iter().cloned().collect::<Vec<_>>().join("\n"))?;
        let file = file.to_str().context("a path of text")?;
        let arguments = [
            "parked",
            "settle",
            "--keys-from",
            file,
            decision,
            "--reason",
            "drill",
            "--yes",
        ];
        self.command(name, &arguments)
    }

    /// Returns the keys of the calls that wait.
    fn waiting(&self) -> Result<BTreeSet<String>> {
        let list = self.json("outbox-list", &["parked", "list", "--limit", "100000"])?;
        let calls = list["calls"].as_array().context("a list of calls")?;
        calls
            .iter()
            .map(|call| Ok(call["key"].as_str().context("a key")?.to_owned()))
            .collect()
    }

    /// Waits until `outbox status` shows this number of parked calls, and none that is pending.
    fn await_status(&self, parked: usize) -> Result<()> {
        let validators = self.pipeline.validator_group.as_str();
        await_until("the status shows no pending call", LIMIT, || {
            let status = self.json("outbox-status", &["status", "--validators", validators])?;
            let shown = [
                "pending",
                "in_flight",
                "orders_waiting",
                "parked",
                "validators",
                "callers",
            ]
            .map(|name| status[name].as_u64());
            let expected = [0, 0, 0, parked as u64, 1, 2].map(Some);
            Ok(match shown == expected {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(status.to_string()),
            })
        })
    }

    fn json(&self, name: &str, arguments: &[&str]) -> Result<serde_json::Value> {
        let output = finished(&mut self.command(name, &[&["--json"], arguments].concat())?)?;
        let json = output.find("{\n").map(|at| &output[at..]);
        Ok(serde_json::from_str(
            json.with_context(|| format!("no JSON in {output}"))?,
        )?)
    }
}

/// Runs a command to its end, and returns what it printed.
fn finished(command: &mut Process) -> Result<String> {
    command.start()?;
    ended(command)
}

fn ended(command: &mut Process) -> Result<String> {
    command.wait_exit(COMMAND_MAX)?;
    command.log_since_start()
}

/// Returns how often the API has charged each order.
fn charged(api: &Api) -> Result<BTreeMap<String, u32>> {
    let mut charged = BTreeMap::new();
    for request in api.requests()? {
        *charged.entry(request.order_id).or_default() +=
            u32::from(request.decision == Some(Decision::Charged));
    }
    Ok(charged)
}

/// Fails unless this number of calls were settled, each once.
fn expect_settlements(pipeline: &Pipeline, count: usize) -> Result<()> {
    let parked = read_topic(&pipeline.kafka, &pipeline.topics.parked, Keep::Fingerprints)?;
    let settled: Vec<_> = parked
        .iter()
        .filter_map(|record| record.header(settlement::SETTLES))
        .collect();
    let different: BTreeSet<_> = settled.iter().collect();
    ensure!(
        settled.len() == count && different.len() == count,
        "{} settlements of {} calls, expected {count}",
        settled.len(),
        different.len()
    );
    Ok(())
}

fn start_callers(callers: &mut [Service]) -> Result<()> {
    for caller in &mut *callers {
        caller.process.start()?;
    }
    callers
        .iter_mut()
        .try_for_each(|caller| await_ready(caller, LIMIT))
}

/// Waits until each order has an outcome or waits for an operator, and returns those that wait.
fn await_parked(pipeline: &Pipeline, operator: &Operator<'_>, count: usize) -> Result<BTreeSet<String>> {
    await_until("each order is accepted or parked", LIMIT, || {
        let mut keys = operator.waiting()?;
        let waiting = keys.clone();
        for outcome in read_topic(&pipeline.kafka, &pipeline.topics.processed, Keep::Fingerprints)? {
            keys.insert(outcome.key_text());
        }
        Ok(match keys.len() {
            found if found == count => ControlFlow::Break(waiting),
            found => ControlFlow::Continue(format!("{found} of {count} are")),
        })
    })
}

#[test]
fn settled_calls_are_charged_once() {
    run(|| {
        let seed = seed();
        let mut pipeline = Pipeline::create("settled", PARTITIONS)?;
        let faults: Vec<String> = format!(
            "--seed {seed} --latency 10ms --before-500 0.25 --lost-reset 0.15 --lost-502 0.1 --lost-close 0.05"
        )
        .split(' ')
        .map(str::to_owned)
        .collect();
        let api = Api::start(&pipeline, &faults)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        let mut callers = (1..=2)
            .map(|number| {
                let settings = pipeline
                    .caller_settings(number, &api.url)
                    .with("caller.on_ambiguous", Policy::Park.as_str())
                    .with("verify.api_processing_max", "1s")
                    .with("api.transport_timeout", "1s");
                pipeline.service("caller", number, settings)
            })
            .collect::<Result<Vec<_>>>()?;
        start_callers(&mut callers)?;
        for partition in 0..PARTITIONS {
            let sent = orders(partition, &format!("p{partition}"), ORDERS);
            send(&pipeline.kafka, &pipeline.topics.orders, &sent)?;
        }
        let count = usize::try_from(ORDERS)? * usize::try_from(PARTITIONS)?;
        await_outbox(&pipeline, count)?;
        callers[0].process.kill()?;
        callers[0].process.start()?;
        let operator = Operator {
            pipeline: &pipeline,
            config: pipeline.folder().join("caller-1.toml"),
        };
        let waiting = await_parked(&pipeline, &operator, count)?;
        ensure!(waiting.len() > 200, "only {} calls were parked", waiting.len());
        operator.await_status(waiting.len())?;
        // From here on the API loses nothing.
        api.change_faults(r#"{"before_500":0,"lost_reset":0,"lost_502":0,"lost_close":0}"#)?;

        let before = charged(&api)?;
        let (accepted, lost): (BTreeSet<String>, BTreeSet<String>) = waiting
            .into_iter()
            .partition(|key| before.get(key).copied().unwrap_or(0) > 0);
        println!(
            "{} calls are parked that were charged, {} that were not",
            accepted.len(),
            lost.len()
        );

        let steps = [
            ("between-settlement-records", 20),
            ("before-settlement-commit", 0),
            ("after-settlement-commit", 0),
        ];
        for (step, passes) in steps {
            let mut killed = operator.settle("outbox-accept", &accepted, "--accepted")?;
            killed.start_with_crash_at(step, passes)?;
            killed.wait_killed(COMMAND_MAX)?;
        }
        expect_settlements(&pipeline, accepted.len())?;
        let again = finished(&mut operator.settle("outbox-accept", &accepted, "--accepted")?)?;
        ensure!(
            again.contains("0 parked calls are settled"),
            "settled again:\n{again}"
        );

        // Retried while the requests of the latest ones may still be processed.
        for (step, passes) in steps {
            await_until(&format!("the command is killed at {step}"), LIMIT, || {
                let mut killed = operator.settle("outbox-send", &lost, "--send-again")?;
                killed.start_with_crash_at(step, passes)?;
                Ok(match killed.wait_killed(COMMAND_MAX) {
                    Ok(()) => ControlFlow::Break(()),
                    Err(error) => {
                        let output = killed.log_since_start()?;
                        ensure!(output.contains("may be processed until"), "{error:#}\n{output}");
                        ControlFlow::Continue(output)
                    }
                })
            })?;
        }
        let mut two = ["outbox-send-1", "outbox-send-2"]
            .into_iter()
            .map(|name| operator.settle(name, &lost, "--send-again"))
            .collect::<Result<Vec<_>>>()?;
        two.iter_mut().try_for_each(Process::start)?;
        for command in &mut two {
            println!("{}", ended(command)?);
        }
        await_until("no call waits", LIMIT, || {
            let last = finished(&mut operator.settle("outbox-send", &lost, "--send-again")?)?;
            let waiting = operator.waiting()?.len();
            Ok(match waiting {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(format!("{waiting} wait:\n{last}")),
            })
        })?;

        expect_settlements(&pipeline, accepted.len() + lost.len())?;
        await_outcomes(&pipeline, count)?;
        let charged = charged(&api)?;
        let wrong: Vec<_> = charged.iter().filter(|(_, times)| **times != 1).collect();
        ensure!(
            wrong.is_empty() && charged.len() == count,
            "of {count} orders the API knows {}, and has charged these not exactly once: {wrong:?}",
            charged.len()
        );
        operator.await_status(0)?;
        let copies = read_topic(&pipeline.kafka, &pipeline.topics.pending, Keep::Fingerprints)?.len() - count;
        ensure!(
            copies == lost.len(),
            "{copies} copies for {} calls that were sent again",
            lost.len()
        );
        for service in [&mut validator].into_iter().chain(&mut callers) {
            service.process.terminate(DRAIN_MAX)?;
        }
        pipeline.passed();
        Ok(())
    });
}
