//! G9: a parked call whose outcome may have been deleted is not sent again.
//!
//! Set-up: a caller under `park` is killed between the outcome of the order `a` and the commit of its note, so that the next
//! one parks the call. The API fails before it charges `b`, which is parked, too, and rejects `r`. Then the outcomes are deleted, as the
//! retention of their topic does, while the parked records stay.
//!
//! Must hold: neither is sent again, by `parked settle` or by `parked reconcile` (`guard-kept-outcomes`), and each command
//! that shows them says so. `b`, which the provider does not have, is settled as rejected and made again by its number.
//! A call that was admitted after the first outcome that the topic still has is sent again. A plan no longer takes `r` as
//! one that was never processed (`guard-kept-outcomes`): the API may have rejected it as a duplicate. At the end
//! the API has charged each order once.
//!
//! In the second scenario callers under `retry` lose their group after the outcomes were deleted. Must hold: `group recover`
//! asks what becomes of the calls whose outcome may be gone, and charges none of them again (`guard-kept-outcomes`); the
//! one that was never made is made by its key.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::cluster::Administrator;
use harness::orders::manual::{order, send, send_copies};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::{Keep, Record, high_watermarks, read_topic};
use harness::wait::await_until;
use records::call_dead_letter;
use serde_json::Value;

use super::drill::{charged, finished, json_in};
use crate::assertions::{LIMIT, await_outbox, await_outcomes};
use crate::g8_fail_closed::halted_partitions::retry_until_accepted;
use crate::run;

const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Age of the first outcome that the topic still has, more than clocks may differ by.
const EARLIER_MS: i64 = 2 * 60 * 60 * 1000;

// The order of the fields is the order in which they are dropped: the pipeline comes last, because it prints
// the logs of the others if the scenario fails.
struct Fixture {
    api: Api,
    validator: Service,
    caller: Service,
    pipeline: Pipeline,
}

impl Fixture {
    fn start(name: &str, policy: Policy) -> Result<Self> {
        let pipeline = Pipeline::create(name, 1)?;
        let api = Api::start(&pipeline, &["--latency".to_owned(), "2ms".to_owned()])?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let settings = pipeline
            .caller_settings(1, &api.url)
            .with("caller.on_ambiguous", policy.as_str())
            .with("verify.api_processing_max", "1s")
            .with("api.timeout", "2s")
            .with("api.transport_timeout", "1s");
        let caller = pipeline.service("caller", 1, settings)?;
        Ok(Self {
            api,
            validator,
            caller,
            pipeline,
        })
    }

    fn send(&self, key: &str) -> Result<()> {
        send(
            &self.pipeline.kafka,
            &self.pipeline.topics.orders,
            &[order(0, key)],
        )
    }

    /// Sends an order that the API fails before it charges it, and waits until its call is parked as the last of this
    /// number.
    fn park(&self, key: &str, count: usize) -> Result<()> {
        self.api.change_faults(r#"{"before_500":1}"#)?;
        self.send(key)?;
        self.await_parked(count)?;
        self.api.change_faults(r#"{"before_500":0}"#)
    }

    /// Sends an order that the API rejects, and waits until a plan has it as one that was never processed.
    fn reject(&self, key: &str) -> Result<()> {
        self.api.change_faults(r#"{"reject":1}"#)?;
        self.send(key)?;
        await_until("the rejected call can be planned", LIMIT, || {
            let planned = self.json(&["replay", "plan", key])?;
            Ok(match planned["by_state"]["rejected"] == 1 {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(planned.to_string()),
            })
        })?;
        self.api.change_faults(r#"{"reject":0}"#)
    }

    fn await_parked(&self, count: usize) -> Result<()> {
        let (kafka, topic) = (&self.pipeline.kafka, &self.pipeline.topics.parked);
        await_until(&format!("{count} calls are parked"), LIMIT, || {
            let records = read_topic(kafka, topic, Keep::Fingerprints)?;
            let calls = records
                .iter()
                .filter(|record| record.header(call_dead_letter::CALL).is_some());
            Ok(match calls.count() {
                found if found == count => ControlFlow::Break(()),
                found => ControlFlow::Continue(format!("{found} are")),
            })
        })
    }

    fn outcomes(&self) -> Result<Vec<Record>> {
        read_topic(
            &self.pipeline.kafka,
            &self.pipeline.topics.processed,
            Keep::Values,
        )
    }

    fn delete_outcomes(&self) -> Result<()> {
        let (kafka, topic) = (&self.pipeline.kafka, &self.pipeline.topics.processed);
        for (partition, end) in high_watermarks(kafka, topic)? {
            Administrator::new(kafka)?.delete_records(topic, partition, end)?;
        }
        Ok(())
    }

    /// Returns what a command prints, with the callers' settings file.
    fn outbox(&self, arguments: &[&str]) -> Result<String> {
        let config = self.pipeline.folder().join("caller-1.toml");
        let mut command = self
            .pipeline
            .process("outbox", "outbox")?
            .arguments(["--config"])
            .arguments([&config])
            .arguments(arguments.iter().copied());
        finished(&mut command)
    }

    /// As [`Self::outbox`], for a command on the calls of the group.
    fn outbox_of_group(&self, arguments: &[&str]) -> Result<String> {
        self.outbox(&[arguments, &["--group", &self.pipeline.caller_group]].concat())
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        json_in(&self.outbox_of_group(&[&["--json"], arguments].concat())?)
    }

    fn settle(&self, keys: &[&str], decision: &str) -> Result<String> {
        let arguments = ["parked", "settle", decision, "--reason", "drill", "--yes"];
        self.outbox_of_group(&[&arguments, keys].concat())
    }

    /// Runs a command again until what it prints has these words. It must not send a call again before.
    fn await_words(&self, words: &[&str], mut command: impl FnMut() -> Result<String>) -> Result<String> {
        await_until(&format!("a command says {words:?}"), LIMIT, || {
            let output = command()?;
            if words.iter().all(|words| output.contains(words)) {
                return Ok(ControlFlow::Break(output));
            }
            ensure!(
                output.contains("0 parked calls are settled"),
                "a call was settled:\n{output}"
            );
            Ok(ControlFlow::Continue(output))
        })
    }

    fn charged(&self) -> Result<BTreeMap<String, u32>> {
        charged(&self.api)
    }

    /// Waits until the API has charged an order, and fails if one is charged twice.
    fn await_charged(&self, key: &str) -> Result<()> {
        await_until(&format!("{key} is charged"), LIMIT, || {
            let charged = self.charged()?;
            ensure!(charged.values().all(|times| *times < 2), "{charged:?}");
            Ok(match charged.get(key) {
                Some(1) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(format!("{charged:?}")),
            })
        })
    }

    /// Settles `a` by a file of the provider, whose row it is; `b` is absent in it.
    fn reconcile(&self) -> Result<String> {
        let file = self.pipeline.folder().join("provider.csv");
        std::fs::write(&file, "order,state\na,charged\n")?;
        let as_of = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let arguments = "parked reconcile --order-column order --state-column state --accepted charged --absent \
                         send-again --rows 1 --reason drill --yes --csv";
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let file = file.to_str().context("a path of text")?;
        self.outbox_of_group(&[&arguments, &[file, "--as-of", &as_of][..]].concat())
    }

    fn finish(mut self) -> Result<()> {
        for service in [&mut self.validator, &mut self.caller] {
            service.process.terminate(DRAIN_MAX)?;
        }
        self.pipeline.passed();
        Ok(())
    }

    /// Makes a call again that was settled as rejected.
    fn replay(&self, key: &str) -> Result<()> {
        let plan = await_until("the rejected call can be planned", LIMIT, || {
            let planned = self.json(&["replay", "plan", key, "--state", "settled"])?;
            Ok(match planned["plan"].as_str() {
                Some(plan) => ControlFlow::Break(plan.to_owned()),
                None => ControlFlow::Continue(planned.to_string()),
            })
        })?;
        let refused = self.outbox(&["replay", "run", &plan, "--reason", "drill", "--yes"])?;
        ensure!(refused.contains("--charge-again 1"), "not asked for:\n{refused}");
        let run = "--reason drill --yes --charge-again 1".split_whitespace();
        let run: Vec<&str> = ["replay", "run", &plan].into_iter().chain(run).collect();
        println!("{}", self.outbox(&run)?);
        Ok(())
    }
}

#[test]
fn call_whose_outcome_was_deleted_is_not_repeated() {
    run(|| {
        let mut fixture = Fixture::start("deleted-outcomes", Policy::Park)?;
        fixture
            .caller
            .process
            .start_with_crash_at("after-outcome-ack", 0)?;
        await_ready(&mut fixture.caller, LIMIT)?;
        fixture.send("a")?;
        fixture.caller.process.wait_killed(LIMIT)?;
        fixture.caller.process.start()?;
        fixture.await_parked(1)?;
        let outcomes = fixture.outcomes()?;
        ensure!(outcomes.len() == 1, "outcomes of one order: {outcomes:?}");
        let hidden = fixture.json(&["parked", "list"])?;
        ensure!(hidden["waiting"] == 0, "it has an outcome: {hidden}");
        fixture.park("b", 2)?;
        fixture.reject("r")?;

        fixture.delete_outcomes()?;
        let planned = fixture.json(&["replay", "plan", "r"])?;
        let told = fixture.outbox_of_group(&["order", "r"])?;
        ensure!(
            planned["plan"].is_null() && planned.to_string().contains("ambiguous"),
            "it may have been processed: {planned}"
        );
        ensure!(told.contains("may have been accepted before"), "{told}");
        for key in ["a", "b"] {
            // Until the caller has committed that the call is final, this is the reason.
            let words = ["0 parked calls are settled", "its outcome may be gone"];
            let refused = fixture.await_words(&words, || fixture.settle(&[key], "--send-again"))?;
            println!("{refused}");
        }
        let list = fixture.json(&["parked", "list"])?;
        let calls = list["calls"].as_array().context("a list of calls")?;
        ensure!(
            calls.len() == 2 && calls.iter().all(|call| call["outcome_may_be_gone"] == true),
            "they wait, and may have an outcome: {list}"
        );
        let groups = fixture.outbox_of_group(&["parked", "groups"])?;
        let shown = fixture.outbox_of_group(&["parked", "show", "a"])?;
        let told = fixture.outbox_of_group(&["order", "a"])?;
        println!("{groups}\n{shown}\n{told}");
        ensure!(
            groups.contains("outcome may be gone")
                && shown.contains("It may have been accepted before")
                && told.contains("a must not be called again unless"),
            "the outcome may be gone, and a command does not say so"
        );

        let charged = fixture.reconcile()?;
        ensure!(
            charged.contains("1 parked calls are settled, 1 are left alone"),
            "the file has `a` alone:\n{charged}"
        );
        // Until a file covers all that may have been processed, this is the reason.
        let words = ["0 parked calls are settled", "its outcome may be gone"];
        println!("{}", fixture.await_words(&words, || fixture.reconcile())?);
        let settled = fixture.settle(&["b"], "--rejected")?;
        ensure!(settled.contains("1 parked calls are settled"), "{settled}");
        fixture.replay("b")?;
        fixture.await_charged("b")?;

        fixture.delete_outcomes()?;
        let earlier = outcomes.into_iter().map(|outcome| Record {
            timestamp_ms: outcome.timestamp_ms - EARLIER_MS,
            ..outcome
        });
        let earlier: Vec<_> = earlier.collect();
        send_copies(
            &fixture.pipeline.kafka,
            &fixture.pipeline.topics.processed,
            &earlier,
        )?;
        fixture.park("c", 3)?;
        let list = fixture.json(&["parked", "list"])?;
        ensure!(
            list["waiting"] == 1 && list["calls"][0]["outcome_may_be_gone"] == false,
            "an outcome of it would be there: {list}"
        );
        let words = ["1 parked calls are settled"];
        fixture.await_words(&words, || fixture.settle(&["c"], "--send-again"))?;
        fixture.await_charged("c")?;
        let charged = fixture.charged()?;
        let expected = [("a", 1), ("b", 1), ("c", 1), ("r", 0)].map(|(key, times)| (key.to_owned(), times));
        ensure!(charged == BTreeMap::from(expected), "charged: {charged:?}");
        fixture.finish()
    });
}

#[test]
fn group_recovered_without_its_outcomes_repeats_no_call() {
    run(|| {
        let mut fixture = Fixture::start("deleted-outcomes-group", Policy::Retry)?;
        fixture.caller.process.start()?;
        await_ready(&mut fixture.caller, LIMIT)?;
        fixture.send("a")?;
        await_outcomes(&fixture.pipeline, 1)?;
        fixture.caller.process.terminate(DRAIN_MAX)?;
        fixture.send("p")?;
        await_outbox(&fixture.pipeline, 2)?;
        fixture.delete_outcomes()?;
        let administrator = Administrator::new(&fixture.pipeline.kafka)?;
        // Kafka deletes it only when it has noticed that the caller left.
        retry_until_accepted("the group is deleted", || {
            administrator.delete_group(&fixture.pipeline.caller_group)
        })?;

        let recover = ["group", "recover", "--yes"];
        let refused = fixture.outbox_of_group(&recover)?;
        ensure!(
            refused.contains("2 calls have no outcome") && refused.contains("--if-outcome-gone"),
            "it did not ask what becomes of them:\n{refused}"
        );
        let recovered = fixture.outbox_of_group(&[&recover[..], &["--if-outcome-gone", "final"]].concat())?;
        ensure!(
            recovered.contains("2 calls whose outcome may be gone count as final"),
            "it is not recovered:\n{recovered}"
        );
        fixture.caller.process.start()?;
        await_ready(&mut fixture.caller, LIMIT)?;
        fixture.send("n")?;
        fixture.await_charged("n")?;
        let charged = fixture.charged()?;
        ensure!(
            charged.get("a") == Some(&1) && !charged.contains_key("p"),
            "{charged:?}"
        );

        let planned = fixture.json(&["replay", "plan", "p", "--state", "unknown"])?;
        let plan = planned["plan"].as_str().context("a plan")?;
        // Until no request of it can be processed any more, it is refused.
        await_until("the call is replayed", LIMIT, || {
            let run = "--reason drill --yes --charge-again 1".split_whitespace();
            let run: Vec<&str> = ["replay", "run", plan].into_iter().chain(run).collect();
            let output = fixture.outbox(&run)?;
            Ok(match output.contains("1 of 1 calls appended") {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(output),
            })
        })?;
        fixture.await_charged("p")?;
        let expected = ["a", "n", "p"].map(|key| (key.to_owned(), 1));
        let charged = fixture.charged()?;
        ensure!(charged == BTreeMap::from(expected), "charged: {charged:?}");
        fixture.finish()
    });
}
