//! G8: a callers' group that has lost its offsets halts, and begins again where the operator says.
//!
//! Set-up: one caller under `park` has made 20 calls on two partitions and has left. The group is deleted, as
//! brokers do by themselves after `offsets.retention.minutes`. The caller is started again. In the second
//! scenario the caller starts beside an empty outbox and makes no call before it is started again.
//!
//! Must hold: the caller reports the halted partitions, the group and the command, and sends no request.
//! After `outbox group create --at end` it makes the calls that came since, and those alone. A group that
//! began beside an empty outbox needs no command. Without `guard-lost-offsets` all 20 calls are made again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::cluster::{self, Administrator};
use harness::orders::manual::{orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::wait::pause;

use crate::assertions::{LIMIT, await_outbox, await_outcomes, await_unready};
use crate::g8_fail_closed::halted_partitions::retry_until_accepted;
use crate::run;

const PARTITIONS: i32 = 2;
const PER_PARTITION: u32 = 10;
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Time in which a caller that does not halt would send requests.
const QUIET: Duration = Duration::from_secs(3);

/// Topics, an API without faults, a validator that runs, and a caller under `park` that does not.
struct Setup {
    api: Api,
    validator: Service,
    caller: Service,
    pipeline: Pipeline,
    sent: usize,
}

impl Setup {
    fn start(name: &str) -> Result<Self> {
        let pipeline = Pipeline::create(name, PARTITIONS)?;
        let api = Api::start(&pipeline, &[])?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let settings = pipeline
            .caller_settings(1, &api.url)
            .with("caller.on_ambiguous", Policy::Park.as_str());
        Ok(Self {
            caller: pipeline.service("caller", 1, settings)?,
            api,
            validator,
            pipeline,
            sent: 0,
        })
    }

    /// Sends orders to each partition, and waits until they are in the outbox.
    fn order(&mut self, prefix: &str) -> Result<()> {
        for partition in 0..PARTITIONS {
            let orders = orders(partition, &format!("{prefix}-{partition}"), PER_PARTITION);
            send(&self.pipeline.kafka, &self.pipeline.topics.orders, &orders)?;
            self.sent += orders.len();
        }
        await_outbox(&self.pipeline, self.sent)
    }

    fn expect_requests(&self, count: usize) -> Result<()> {
        let requests = self.api.requests()?.len();
        ensure!(
            requests == count,
            "the API had {requests} requests, expected {count}"
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
fn deleted_group_halts_until_it_is_begun() {
    run(|| {
        let mut setup = Setup::start("group-lost")?;
        // The group begins beside an empty outbox, so no command is needed.
        setup.caller.process.start()?;
        await_ready(&mut setup.caller, LIMIT)?;
        setup.order("first")?;
        await_outcomes(&setup.pipeline, setup.sent)?;
        setup.caller.process.terminate(DRAIN_MAX)?;
        let group = setup.pipeline.caller_group.clone();
        ensure!(
            setup.pipeline.begin_caller_group(&group, "end").is_err(),
            "`outbox group create` did not refuse a group that has all its offsets"
        );
        let administrator = Administrator::new(&setup.pipeline.kafka)?;
        // Kafka deletes it only when it has noticed that the caller left.
        retry_until_accepted("the group is deleted", || administrator.delete_group(&group))?;

        setup.caller.process.start()?;
        let command = format!("outbox group create --group {group}");
        let reason = await_unready(
            &mut setup.caller,
            &[&group, "no committed offset", "offsets.retention.minutes"],
        )?;
        // Each partition is loaded by itself, and the second may halt a moment later.
        let topic = &setup.pipeline.topics.pending;
        for partition in 0..PARTITIONS {
            await_unready(
                &mut setup.caller,
                &[&format!("{topic}/{partition} in group {group}")],
            )?;
        }
        ensure!(
            reason.contains("outbox group create --group"),
            "the reason does not name the command: {reason}"
        );
        pause(QUIET)?;
        setup.expect_requests(setup.sent)?;
        ensure!(
            setup.pipeline.begin_caller_group(&group, "end").is_err(),
            "`{command}` did not refuse a group with a member"
        );
        setup.caller.process.terminate(DRAIN_MAX)?;
        setup.expect_requests(setup.sent)?;

        // Refused until the group has noticed that the caller left.
        let output = retry_until_accepted("the group is begun", || {
            setup.pipeline.begin_caller_group(&group, "end")
        })?;
        ensure!(
            output.contains("with 0 calls to make"),
            "`{command} --at end` does not say that nothing is called again:\n{output}"
        );
        setup.order("second")?;
        setup.caller.process.start()?;
        await_ready(&mut setup.caller, LIMIT)?;
        await_outcomes(&setup.pipeline, setup.sent)?;
        // One request per order: none was repeated.
        setup.expect_requests(setup.sent)?;
        setup.finish()
    });
}

#[test]
fn group_begun_beside_an_empty_outbox_goes_on() {
    run(|| {
        let mut setup = Setup::start("group-empty")?;
        setup.caller.process.start()?;
        await_ready(&mut setup.caller, LIMIT)?;
        setup.caller.process.terminate(DRAIN_MAX)?;
        let (kafka, group) = (&setup.pipeline.kafka, &setup.pipeline.caller_group);
        let committed = cluster::committed(kafka, group, &setup.pipeline.topics.pending)
            .context("reading the offsets of a caller that has made no call")?;
        ensure!(
            committed.len() == usize::try_from(PARTITIONS)?,
            "the caller left without an offset of each partition: {committed:?}"
        );
        setup.order("first")?;
        setup.caller.process.start()?;
        await_outcomes(&setup.pipeline, setup.sent)?;
        setup.expect_requests(setup.sent)?;
        setup.finish()
    });
}
