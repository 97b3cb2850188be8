//! Pause: an operator stops the calls of a group, and resumes them.
//!
//! Set-up: a caller under `park` has made the first calls. It runs, or is started again, while the group is
//! paused.
//!
//! Must hold: no request is sent while the group is paused, by a caller that ran before or by one that starts,
//! even if it is killed meanwhile. Afterwards each call is made once, and none is parked: the pause leaves no
//! intent. `caller.start_paused` holds until the first `outbox resume`. Without `guard-pause` calls are made.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::orders::manual::{orders, send};
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::wait::{await_until, pause};

use crate::assertions::{LIMIT, await_outbox, await_outcomes, counter};
use crate::run;

const ORDERS: u32 = 20;
/// Time in which a caller that does not pause would send requests.
const QUIET: Duration = Duration::from_secs(3);
const DRAIN_MAX: Duration = Duration::from_secs(30);

#[test]
fn paused_group_sends_nothing_until_resumed() {
    run(|| {
        let mut pipeline = Pipeline::create("paused", 1)?;
        let api = Api::start(&pipeline, &[])?;
        let topics = pipeline.topics.clone();
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let settings = pipeline
            .caller_settings(1, &api.url)
            .with("caller.on_ambiguous", Policy::Park.as_str())
            .with("caller.start_paused", true);
        let mut caller = pipeline.service("caller", 1, settings)?;
        caller.process.start()?;
        await_ready(&mut caller, LIMIT)?;
        let (count, mut sent) = (usize::try_from(ORDERS)?, 0);
        let mut order = |prefix: &str| -> Result<usize> {
            send(&pipeline.kafka, &topics.orders, &orders(0, prefix, ORDERS))?;
            sent += count;
            await_outbox(&pipeline, sent)?;
            Ok(sent)
        };
        let expect_requests = |expected: usize| -> Result<()> {
            let requests = api.requests()?.len();
            ensure!(
                requests == expected,
                "the API had {requests} requests, expected {expected}"
            );
            Ok(())
        };

        // No operator has resumed this group yet.
        let first = order("first")?;
        pause(QUIET)?;
        expect_requests(0)?;
        pipeline.switch_calls("resume", "go")?;
        await_outcomes(&pipeline, first)?;

        let output = pipeline.switch_calls("pause", "provider maintenance")?;
        ensure!(
            output.contains("are paused, by"),
            "`outbox pause` does not say what it did:\n{output}"
        );
        let again = pipeline.switch_calls("pause", "once more")?;
        ensure!(
            again.contains("are already paused") && again.contains("provider maintenance"),
            "`outbox pause` of a paused group does not say so:\n{again}"
        );
        await_until("the caller has paused", Duration::from_secs(2), || {
            Ok(match counter(&caller, "outbox_calls_paused")? {
                1 => ControlFlow::Break(()),
                other => ControlFlow::Continue(format!("outbox_calls_paused is {other}")),
            })
        })?;
        let second = order("second")?;
        pause(QUIET)?;
        expect_requests(first)?;
        // Also a caller that starts during the pause, and was killed in it.
        caller.process.kill()?;
        caller.process.start()?;
        await_ready(&mut caller, LIMIT)?;
        pause(QUIET)?;
        expect_requests(first)?;

        pipeline.switch_calls("resume", "maintenance is over")?;
        await_outcomes(&pipeline, second)?;
        expect_requests(second)?;
        for service in [&mut caller, &mut validator] {
            service.process.terminate(DRAIN_MAX)?;
        }
        pipeline.passed();
        Ok(())
    });
}
