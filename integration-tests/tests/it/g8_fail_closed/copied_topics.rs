//! G8, G9: the steps of "Restoring topics from a backup" in docker/README.md, for topics that were copied to another
//! cluster: no order is charged twice, and the operator finds each that was not charged.
//!
//! Set-up: a pipeline under `park` has orders that are called, orders whose calls wait, and an aborted transaction in its
//! outbox. Its topics are copied, as MirrorMaker does it: committed records alone, with other offsets. The orders topic is
//! copied later than the others, so that it has orders which the copied outbox lacks. Meanwhile the calls go on; some
//! orders are called that no copied topic but the first has. Then all topics, both groups and all their offsets are lost,
//! and the topics are created again from the copies.
//!
//! Must hold: a validator with its state directory refuses to start, and the caller halts. After the steps no order is charged
//! twice, also if its key is in no copied outbox; new orders are charged; and an order that was admitted and never called is
//! not called by itself: `outbox order` sends the operator to the provider's list, in which it is missing. By its key, and
//! with the number of calls, `outbox replay` has it called once. It refuses to plan without keys, to run before an earlier
//! request can no longer be processed, and without the number; an order with an outcome is left out, also if the outcome was
//! copied after it was planned (without `guard-replay-states` it is charged twice); and run again, it appends nothing. A
//! parked record whose position is another order's here is not settled (`guard-parked-position`).

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::cluster::Administrator;
use harness::orders::manual::{abort, orders, send, send_copies};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::{Keep, Record, read_topic};
use harness::wait::await_until;
use records::call_dead_letter::CALL;
use records::dead_letter::{AT, REASON};
use records::operation::REPLAY;
use serde_json::Value;

use crate::assertions::{
    LIMIT, await_outbox, await_outcomes, await_unready, await_verdicts, expect_refused_start, outbox_status,
};
use crate::g8_fail_closed::halted_partitions::retry_until_accepted;
use crate::run;

const PARTITIONS: i32 = 2;
/// Orders of each kind in each partition.
const EACH: u32 = 5;
const DRAIN_MAX: Duration = Duration::from_secs(30);
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// The pipeline on either cluster.
struct Setup {
    api: Api,
    validator: Service,
    caller: Service,
    pipeline: Pipeline,
}

/// The records of a topic.
struct Copy {
    topic: String,
    records: Vec<Record>,
}

impl Setup {
    fn start() -> Result<Self> {
        let pipeline = Pipeline::create("copied", PARTITIONS)?;
        let api = Api::start(&pipeline, &[])?;
        let settings = pipeline
            .caller_settings(1, &api.url)
            .with("caller.on_ambiguous", Policy::Park.as_str())
            // The command on unknown calls waits until no earlier request can be processed any more.
            .with("verify.api_processing_max", "1s")
            .with("api.transport_timeout", "1s");
        Ok(Self {
            validator: pipeline.validator(1)?,
            caller: pipeline.service("caller", 1, settings)?,
            api,
            pipeline,
        })
    }

    /// Sends orders of a kind to each partition. Returns their number.
    fn order(&self, kind: &str) -> Result<usize> {
        let mut count = 0;
        for partition in 0..PARTITIONS {
            let orders = orders(partition, &format!("{kind}-{partition}"), EACH);
            send(&self.pipeline.kafka, &self.pipeline.topics.orders, &orders)?;
            count += orders.len();
        }
        Ok(count)
    }

    /// Copies the committed records of all topics but the orders topic.
    fn copy(&self) -> Result<Vec<Copy>> {
        let orders = &self.pipeline.topics.orders;
        let topics = self.pipeline.topic_names().into_iter();
        topics
            .filter(|topic| topic != orders)
            .map(|topic| self.copy_of(topic))
            .collect()
    }

    fn copy_of(&self, topic: &str) -> Result<Copy> {
        Ok(Copy {
            topic: topic.to_owned(),
            records: read_topic(&self.pipeline.kafka, topic, Keep::Values)?,
        })
    }

    /// Loses topics, groups and offsets, and creates the topics again from the copies.
    fn move_to(&self, copies: &[Copy]) -> Result<()> {
        let administrator = Administrator::new(&self.pipeline.kafka)?;
        administrator.delete_topics(&self.pipeline.topic_names())?;
        for group in [&self.pipeline.validator_group, &self.pipeline.caller_group] {
            retry_until_accepted("the group is deleted", || administrator.delete_group(group))?;
        }
        retry_until_accepted("the topics can be created again", || {
            self.pipeline.create_topics()
        })?;
        for copy in copies {
            send_copies(&self.pipeline.kafka, &copy.topic, &copy.records)?;
        }
        Ok(())
    }

    /// Ids of the orders that the API has charged; fails if it has charged one twice.
    fn charged(&self) -> Result<BTreeSet<String>> {
        let requests = self.api.requests()?;
        let ids: BTreeSet<String> = requests.iter().map(|request| request.order_id.clone()).collect();
        ensure!(
            ids.len() == requests.len(),
            "the API has charged {} orders with {} requests",
            ids.len(),
            requests.len()
        );
        Ok(ids)
    }

    /// Does what docker/README.md says.
    fn follow_the_steps(&mut self) -> Result<()> {
        let group = ["--group", &self.pipeline.caller_group];
        let wrong = self.operate(&[], &[&["pause", "--yes"], &group[..]].concat())?;
        ensure!(
            wrong.contains("repeat the command with --new-group"),
            "a group that nobody has ever joined is paused:\n{wrong}"
        );
        let pause = [
            "pause",
            "--reason",
            "restored from a copy",
            "--yes",
            "--new-group",
        ];
        self.pipeline.outbox(&[&pause[..], &group].concat())?;
        expect_refused_start(
            &mut self.validator,
            LIMIT,
            &["was deleted and created again", "remove their state directories"],
        )?;
        let rebuild = [
            "state",
            "rebuild",
            "--validators",
            &self.pipeline.validator_group,
            "--yes",
        ];
        let wrong = self.operate(&[], &rebuild)?;
        ensure!(
            wrong.contains("no section [validator]"),
            "the changelog is rebuilt by the callers' settings:\n{wrong}"
        );
        let of_validators = ("OUTBOX__VALIDATOR__INSTANCE_ID", "validator-1");
        let wrong = self.operate(&[of_validators], &rebuild)?;
        ensure!(
            wrong.contains("validators of another group may be running"),
            "the changelog is rebuilt beside a group that nobody has ever joined:\n{wrong}"
        );
        self.pipeline.outbox(&[&rebuild[..], &["--new-group"]].concat())?;
        fs::remove_dir_all(self.pipeline.state_folder(1)).context("removing the state directory")?;
        self.validator.process.start()?;
        await_ready(&mut self.validator, LIMIT)?;
        await_verdicts(&self.pipeline)?;

        self.caller.process.start()?;
        await_unready(&mut self.caller, &["the group has no committed offset"])?;
        self.caller.process.terminate(DRAIN_MAX)?;
        let group = self.pipeline.caller_group.clone();
        // Refused until the group has noticed that the caller left.
        let begun = retry_until_accepted("the group is begun", || {
            self.pipeline.begin_caller_group(&group, "end")
        })?;
        ensure!(
            begun.contains("with 0 calls to make"),
            "calls of the copy are to be made:\n{begun}"
        );
        for key in ["waiting-0-0", "later-1-0", "uncalled-0-0"] {
            let history = self.pipeline.outbox(&["order", key, "--group", &group])?;
            ensure!(
                history.contains("ask the provider"),
                "of {key} nobody knows the outcome:\n{history}"
            );
        }
        self.pipeline
            .switch_calls("resume", "compared with the provider's list")?;
        self.caller.process.start()?;
        await_ready(&mut self.caller, LIMIT)
    }

    /// Runs a command of the operator with the callers' settings file. Returns what it printed.
    fn operate(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Result<String> {
        let mut outbox = self
            .pipeline
            .process("outbox-operator", "outbox")?
            .arguments(["--config"])
            .arguments([self.pipeline.folder().join("caller-1.toml")])
            .arguments(arguments.iter().copied());
        outbox.start_with(variables)?;
        outbox.wait_exit(COMMAND_MAX)?;
        outbox.log_since_start()
    }

    /// Plans the unknown calls of these keys, of which this number can be planned. Returns the plan.
    fn plan(&self, keys: &[&str], calls: u64) -> Result<String> {
        let group = ["--group", &self.pipeline.caller_group];
        let arguments = [
            &["--json", "replay", "plan", "--state", "unknown"],
            &group[..],
            keys,
        ]
        .concat();
        let output = self.operate(&[], &arguments)?;
        let json = output.find("{\n").map(|at| &output[at..]).context("JSON")?;
        let planned: Value = serde_json::from_str(json)?;
        let accepted = keys.len() as u64 - calls;
        ensure!(
            planned["calls"] == calls
                && planned["again"] == calls
                && planned["money"]["EUR"] == 1250 * calls
                && planned["left_out"]["accepted: made again, they are charged a second time"].as_u64()
                    == Some(accepted).filter(|count| *count > 0),
            "of {keys:?} not {calls} are planned, or the others are not left out as accepted: {planned}"
        );
        Ok(planned["plan"].as_str().context("a plan")?.to_owned())
    }

    fn run_plan(&self, plan: &str, confirmed: &[&str]) -> Result<String> {
        self.operate(&[], &[&["replay", "run", plan, "--yes"], confirmed].concat())
    }

    /// Has orders called that the provider does not have, by their keys. `late` is an outcome that is copied only after
    /// its order was planned by mistake.
    fn call_by_key(&self, late: &Copy) -> Result<()> {
        let group = ["--group", &self.pipeline.caller_group];
        let unnamed = [&["replay", "plan", "--state", "unknown"], &group[..]].concat();
        let all = self.operate(&[], &unnamed)?;
        ensure!(
            all.contains("needs the keys of the orders"),
            "each earlier call can be planned:\n{all}"
        );
        let one = self.plan(&["uncalled-0-0", "called-0-0", "new-0-0"], 1)?;
        let mistaken = self.plan(&["uncalled-1-0", "waiting-0-0"], 2)?;
        send_copies(&self.pipeline.kafka, &late.topic, &late.records)?;

        // Whatever the speed of this machine, it is within an hour.
        let hour = [("OUTBOX__VERIFY__API_PROCESSING_MAX", "1h")];
        let early = self.operate(&hour, &["replay", "run", &one, "--yes", "--charge-again", "1"])?;
        ensure!(
            early.contains("may be processed until"),
            "run too early:\n{early}"
        );
        await_until("no earlier request can be processed", LIMIT, || {
            let unnamed = self.run_plan(&mistaken, &[])?;
            Ok(match unnamed.contains("confirm with --charge-again 2") {
                true => ControlFlow::Break(()),
                false if unnamed.contains("may be processed until") => ControlFlow::Continue(unnamed),
                false => anyhow::bail!("run without a number:\n{unnamed}"),
            })
        })?;
        let runs = [
            (&one, "1", "1 of 1 calls appended, 0 left out"),
            (&mistaken, "2", "1 of 2 calls appended, 1 left out"),
        ];
        for (plan, count, words) in runs.into_iter().chain(runs) {
            let run = self.run_plan(plan, &["--charge-again", count])?;
            ensure!(run.contains(words), "{words}:\n{run}");
        }
        let pending = read_topic(
            &self.pipeline.kafka,
            &self.pipeline.topics.pending,
            Keep::Fingerprints,
        )?;
        let copies = pending.iter().filter(|record| record.header(REPLAY).is_some());
        ensure!(copies.count() == 2, "not each call was appended once");
        await_until("each call is final", LIMIT, || {
            let (_, status) = outbox_status(&self.pipeline, &[])?;
            Ok(match (&status["pending"], &status["perhaps_sent"]) {
                (pending, perhaps_sent) if pending == 0 && perhaps_sent == 0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(status.to_string()),
            })
        })?;
        for (key, words) in [
            ("uncalled-0-0", "it was accepted"),
            ("waiting-0-0", "an outcome with its key"),
            ("uncalled-0-1", "replay plan uncalled-0-1 --state unknown"),
        ] {
            let group = &self.pipeline.caller_group;
            let history = self.pipeline.outbox(&["order", key, "--group", group])?;
            ensure!(history.contains(words), "{key}, {words}:\n{history}");
        }
        Ok(())
    }

    /// Parks an order by a record of the old cluster, whose position is that of another order here, and tries to settle it.
    fn settle_a_copy(&self) -> Result<()> {
        let topics = &self.pipeline.topics;
        let pending = read_topic(&self.pipeline.kafka, &topics.pending, Keep::Values)?;
        let other = pending
            .into_iter()
            .find(|record| record.key_text() == "uncalled-0-1")
            .context("a call")?;
        let call = format!("{}/{}@{}", topics.pending, other.partition, other.offset);
        let header = |name: &str, value: String| (name.to_owned(), Some(value.into_bytes()));
        let parked = Record {
            key: Some(b"parked-0-0".to_vec()),
            headers: vec![
                header(REASON, "ambiguous".into()),
                header(AT, other.timestamp_ms.to_string()),
                header(CALL, call.clone()),
            ],
            ..other
        };
        send_copies(&self.pipeline.kafka, &topics.parked, &[parked])?;
        let group = ["--group", &self.pipeline.caller_group];
        for decision in ["--accepted", "--rejected"] {
            let settle = [
                "parked",
                "settle",
                "parked-0-0",
                decision,
                "--reason",
                "test",
                "--yes",
            ];
            let refused = self.operate(&[], &[&settle[..], &group].concat())?;
            ensure!(
                refused.contains(&format!(
                    "names the call {call}, where the outbox does not have this order"
                )),
                "the call of another order is settled:\n{refused}"
            );
        }
        let history = self
            .pipeline
            .outbox(&[&["order", "uncalled-0-1"], &group[..]].concat())?;
        ensure!(
            history.contains("replay plan uncalled-0-1 --state unknown"),
            "the call of another order has ended:\n{history}"
        );
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        for service in [&mut self.caller, &mut self.validator] {
            service.process.terminate(DRAIN_MAX)?;
        }
        self.pipeline.passed();
        Ok(())
    }
}

#[test]
fn copied_topics_charge_no_order_twice() {
    run(|| {
        let mut setup = Setup::start()?;
        for service in [&mut setup.validator, &mut setup.caller] {
            service.process.start()?;
            await_ready(service, LIMIT)?;
        }
        let mut sent = setup.order("called")?;
        await_outcomes(&setup.pipeline, sent)?;
        setup.caller.process.terminate(DRAIN_MAX)?;
        sent += setup.order("waiting")?;
        await_outbox(&setup.pipeline, sent)?;
        // Moves the offsets of the next records, as its marker does.
        abort(
            &setup.pipeline.kafka,
            &setup.pipeline.topics.pending,
            &orders(0, "aborted", 7),
        )?;
        let mut copies = setup.copy()?;

        // Known to the old cluster, the API and the copied orders topic.
        sent += setup.order("later")?;
        await_outbox(&setup.pipeline, sent)?;
        setup.caller.process.start()?;
        await_outcomes(&setup.pipeline, sent)?;
        setup.caller.process.terminate(DRAIN_MAX)?;
        // Admitted, but called nowhere.
        sent += setup.order("uncalled")?;
        await_outbox(&setup.pipeline, sent)?;
        copies.push(setup.copy_of(&setup.pipeline.topics.orders)?);
        let mut late = setup.copy_of(&setup.pipeline.topics.processed)?;
        late.records.retain(|record| record.key_text() == "waiting-0-0");
        ensure!(late.records.len() == 1, "the order that waited was not called");
        setup.validator.process.terminate(DRAIN_MAX)?;
        let charged = setup.charged()?;
        setup.move_to(&copies)?;

        setup.follow_the_steps()?;
        let new = setup.order("new")?;
        await_verdicts(&setup.pipeline)?;
        await_until("the new orders are charged", LIMIT, || {
            let now = setup.charged()?.len();
            Ok(if now >= charged.len() + new {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(format!("{now} orders are, {} were before", charged.len()))
            })
        })?;
        // An order that was called by itself would have come first: calls are made in the order of the outbox.
        let called: Vec<String> = setup.charged()?.difference(&charged).cloned().collect();
        ensure!(
            called.len() == new && called.iter().all(|id| id.starts_with("new-")),
            "more than the new orders were charged: {called:?}"
        );
        let before = setup.charged()?;
        setup.call_by_key(&late)?;
        let after = setup.charged()?;
        let called: Vec<&str> = after.difference(&before).map(String::as_str).collect();
        ensure!(
            called == ["uncalled-0-0", "uncalled-1-0"],
            "other orders than those of the two keys were charged: {called:?}"
        );
        setup.settle_a_copy()?;
        setup.finish()
    });
}
