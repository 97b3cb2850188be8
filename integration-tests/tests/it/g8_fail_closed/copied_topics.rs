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
//! not called by itself: `outbox order` sends the operator to the provider's list, in which it is missing.

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

use crate::assertions::{
    LIMIT, await_outbox, await_outcomes, await_unready, await_verdicts, expect_refused_start,
};
use crate::g8_fail_closed::halted_partitions::retry_until_accepted;
use crate::run;

const PARTITIONS: i32 = 2;
/// Orders of each kind in each partition.
const EACH: u32 = 5;
const DRAIN_MAX: Duration = Duration::from_secs(30);

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
            .with("caller.on_ambiguous", Policy::Park.as_str());
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
        self.pipeline.switch_calls("pause", "restored from a copy")?;
        expect_refused_start(
            &mut self.validator,
            LIMIT,
            &["was deleted and created again", "remove their state directories"],
        )?;
        self.pipeline.rebuild_state()?;
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
        setup.finish()
    });
}
