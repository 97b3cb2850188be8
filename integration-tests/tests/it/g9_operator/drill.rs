//! Drill of an operator: a pipeline under `park` whose API has lost the responses to many calls.

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
use harness::process::settings::Settings;
use harness::read_back::topics::{Keep, Record, read_topic};
use harness::wait::await_until;
use legacy_api::Decision;
use records::continuation::CONTINUES;
use records::settlement;

use crate::assertions::{LIMIT, await_outbox, await_outcomes};

const PARTITIONS: i32 = 2;
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Timeout of each command.
pub(super) const COMMAND_MAX: Duration = Duration::from_secs(60);
/// Failpoints at which a command that settles is killed, and the number of passes before.
pub(super) const STEPS: [(&str, u32); 3] = [
    ("between-settlement-records", 20),
    ("before-settlement-commit", 0),
    ("after-settlement-commit", 0),
];

/// Pipeline with parked calls, and an operator with the callers' settings file.
// The order of the fields is the order in which they are dropped: the pipeline comes last, because it prints
// the logs of the others if the scenario fails.
pub(super) struct Drill {
    pub(super) api: Api,
    validator: Service,
    callers: Vec<Service>,
    config: PathBuf,
    /// Number of orders.
    count: usize,
    pub(super) pipeline: Pipeline,
}

impl Drill {
    /// Sends orders to each of two partitions, and kills a caller meanwhile. Returns when each order is accepted or
    /// parked, with the keys of those that are parked. From then on the API loses nothing.
    pub(super) fn start(name: &str, seed: u64, orders_each: u32) -> Result<(Self, BTreeSet<String>)> {
        let faults = "--latency 10ms --before-500 0.25 --lost-reset 0.15 --lost-502 0.1 --lost-close 0.05";
        let (drill, waiting) = Self::start_with(name, seed, faults, |settings| settings, orders_each)?;
        ensure!(
            waiting.len() > drill.count / 3,
            "only {} of {} calls were parked",
            waiting.len(),
            drill.count
        );
        drill
            .api
            .change_faults(r#"{"before_500":0,"lost_reset":0,"lost_502":0,"lost_close":0}"#)?;
        Ok((drill, waiting))
    }

    /// As [`Self::start`], with these faults of the API, which stay, and settings of the callers.
    pub(super) fn start_with(
        name: &str,
        seed: u64,
        faults: &str,
        with: impl Fn(Settings) -> Settings,
        orders_each: u32,
    ) -> Result<(Self, BTreeSet<String>)> {
        let pipeline = Pipeline::create(name, PARTITIONS)?;
        let faults: Vec<String> = format!("--seed {seed} {faults}")
            .split(' ')
            .map(str::to_owned)
            .collect();
        let api = Api::start(&pipeline, &faults)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        let mut callers = (1..=2)
            .map(|number| {
                let own = pipeline
                    .caller_settings(number, &api.url)
                    .with("caller.on_ambiguous", Policy::Park.as_str())
                    .with("verify.api_processing_max", "1s")
                    .with("api.transport_timeout", "1s");
                pipeline.service("caller", number, with(own))
            })
            .collect::<Result<Vec<_>>>()?;
        for caller in &mut callers {
            caller.process.start()?;
        }
        callers
            .iter_mut()
            .try_for_each(|caller| await_ready(caller, LIMIT))?;
        for partition in 0..PARTITIONS {
            let sent = orders(partition, &format!("p{partition}"), orders_each);
            send(&pipeline.kafka, &pipeline.topics.orders, &sent)?;
        }
        let count = usize::try_from(orders_each)? * usize::try_from(PARTITIONS)?;
        await_outbox(&pipeline, count)?;
        callers[0].process.kill()?;
        callers[0].process.start()?;
        let drill = Self {
            config: pipeline.folder().join("caller-1.toml"),
            api,
            validator,
            callers,
            count,
            pipeline,
        };
        let waiting = drill.await_parked()?;
        drill.await_status(waiting.len())?;
        Ok((drill, waiting))
    }

    /// Fails unless no call waits, each order has an outcome, the API has charged each exactly once, and this number
    /// of calls were settled and sent again.
    pub(super) fn finish(self, settled: usize, sent_again: usize) -> Result<()> {
        let copies = self.copies(|_| true)?;
        ensure!(
            copies == sent_again,
            "{copies} copies for {sent_again} calls that were sent again"
        );
        self.finish_settled(settled, &BTreeSet::new())
    }

    /// Returns the number of copies in the outbox that the filter has.
    pub(super) fn copies(&self, filter: impl Fn(&Record) -> bool) -> Result<usize> {
        let pending = &self.pipeline.topics.pending;
        let records = read_topic(&self.pipeline.kafka, pending, Keep::Fingerprints)?;
        let copies = records
            .iter()
            .filter(|record| record.header(CONTINUES).is_some() && filter(record));
        Ok(copies.count())
    }

    /// As [`Self::finish`], with any number of copies; the API has charged these orders `twice`.
    pub(super) fn finish_settled(mut self, settled: usize, twice: &BTreeSet<String>) -> Result<()> {
        self.expect_settlements(settled)?;
        await_outcomes(&self.pipeline, self.count)?;
        let charged = self.charged()?;
        let allowed = |key: &String| 1 + u32::from(twice.contains(key));
        let wrong: Vec<_> = charged
            .iter()
            .filter(|(key, times)| **times != allowed(key))
            .collect();
        ensure!(
            wrong.is_empty() && charged.len() == self.count,
            "of {} orders the API knows {}, and has charged these not exactly once: {wrong:?}",
            self.count,
            charged.len()
        );
        self.await_status(0)?;
        for service in [&mut self.validator].into_iter().chain(&mut self.callers) {
            service.process.terminate(DRAIN_MAX)?;
        }
        self.pipeline.passed();
        Ok(())
    }

    /// Returns a command of the operator on the calls of the group.
    pub(super) fn command(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        self.command_for(&self.pipeline.caller_group, name, arguments)
    }

    /// Returns a command of the operator on the calls of this group.
    pub(super) fn command_for(&self, group: &str, name: &str, arguments: &[&str]) -> Result<Process> {
        Ok(self
            .command_of_any_group(name, arguments)?
            .arguments(["--group", group]))
    }

    /// Returns the command that settles the calls of these keys.
    pub(super) fn settle(&self, name: &str, keys: &BTreeSet<String>, decision: &str) -> Result<Process> {
        self.settle_for(&self.pipeline.caller_group, name, keys, decision)
    }

    /// As [`Self::settle`], for a group.
    pub(super) fn settle_for(
        &self,
        group: &str,
        name: &str,
        keys: &BTreeSet<String>,
        decision: &str,
    ) -> Result<Process> {
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
        self.command_for(group, name, &arguments)
    }

    /// Returns a command of the operator that takes no group.
    pub(super) fn command_of_any_group(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        Ok(self
            .pipeline
            .process(name, "outbox")?
            .arguments(["--config"])
            .arguments([&self.config])
            .arguments(arguments.iter().copied()))
    }

    /// Returns the keys of the calls that wait.
    pub(super) fn waiting(&self) -> Result<BTreeSet<String>> {
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
                "perhaps_sent",
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

    /// Returns what a command on the calls of the group prints with `--json`.
    pub(super) fn json(&self, name: &str, arguments: &[&str]) -> Result<serde_json::Value> {
        json_in(&finished(
            &mut self.command(name, &[&["--json"], arguments].concat())?,
        )?)
    }

    /// Returns how often the API has charged each order.
    pub(super) fn charged(&self) -> Result<BTreeMap<String, u32>> {
        charged(&self.api)
    }

    /// Fails unless this number of calls were settled, each once.
    pub(super) fn expect_settlements(&self, count: usize) -> Result<()> {
        let parked = read_topic(
            &self.pipeline.kafka,
            &self.pipeline.topics.parked,
            Keep::Fingerprints,
        )?;
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

    /// Returns the keys of the records of a topic.
    pub(super) fn keys_in(&self, topic: &str) -> Result<BTreeSet<String>> {
        let records = read_topic(&self.pipeline.kafka, topic, Keep::Fingerprints)?;
        Ok(records.iter().map(Record::key_text).collect())
    }

    /// Waits until each order has an outcome or a dead letter, or waits for an operator, and returns those that wait.
    fn await_parked(&self) -> Result<BTreeSet<String>> {
        await_until("each order is accepted, rejected or parked", LIMIT, || {
            let waiting = self.waiting()?;
            let mut keys = waiting.clone();
            keys.extend(self.keys_in(&self.pipeline.topics.processed)?);
            keys.extend(self.keys_in(&self.pipeline.topics.call_dead_letters)?);
            Ok(match keys.len() {
                found if found == self.count => ControlFlow::Break(waiting),
                found => ControlFlow::Continue(format!("{found} of {} are", self.count)),
            })
        })
    }
}

/// Returns the JSON in what a command printed, after what it wrote to standard error.
pub(super) fn json_in(output: &str) -> Result<serde_json::Value> {
    let starts = ["{\n", "[\n"].iter().filter_map(|start| output.find(start));
    let json = starts.min().map(|at| &output[at..]);
    Ok(serde_json::from_str(
        json.with_context(|| format!("no JSON in {output}"))?,
    )?)
}

/// Returns how often an API has charged each order.
pub(super) fn charged(api: &Api) -> Result<BTreeMap<String, u32>> {
    let mut charged = BTreeMap::new();
    for request in api.requests()? {
        *charged.entry(request.order_id).or_default() +=
            u32::from(request.decision == Some(Decision::Charged));
    }
    Ok(charged)
}

/// Runs a command to its end, and returns what it printed.
pub(super) fn finished(command: &mut Process) -> Result<String> {
    command.start()?;
    ended(command)
}

/// Waits for the end of a command, and returns what it printed.
pub(super) fn ended(command: &mut Process) -> Result<String> {
    command.wait_exit(COMMAND_MAX)?;
    command.log_since_start()
}
