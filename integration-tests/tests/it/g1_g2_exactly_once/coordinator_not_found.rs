//! G1, G2: a coordinator that is never found holds a transaction up until the commit's deadline, and not for ever.
//!
//! librdkafka looks for a group's coordinator without any limit when it adds offsets to a transaction. The validator
//! gives that up at its own deadline and takes a new producer; each one that was given up holds a thread, so at the
//! third it ends, and its supervisor starts it again.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::orders::manual::{orders, send};
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::proxy::withheld_find_coordinator::WithheldFindCoordinator;
use harness::wait::await_until;

use crate::assertions::{LIMIT, await_verdicts, expect_outbox};
use crate::in_turn;

#[test]
fn a_coordinator_that_is_not_found_is_given_up_at_the_deadline() {
    in_turn(|| {
        let (mut broker, proxy, mut pipeline) =
            Pipeline::behind_proxy(WithheldFindCoordinator::default(), "coordinator", 1)?;
        let settings = pipeline
            .validator_settings(1)
            .with("validator.commit_timeout", "2s");
        let mut validator = pipeline.service("validator", 1, settings)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;

        // Its group has a coordinator by now; its producer has not asked for one.
        proxy.rule().withhold(true);
        let sent = orders(0, "order", 20);
        send(&pipeline.kafka, &pipeline.topics.orders, &sent)?;
        await_withheld(proxy.rule())?;
        let status = validator.process.wait_exit(LIMIT)?;
        let life = validator.process.log_since_start()?;
        ensure!(!status.success(), "it has left as if all were well");
        let aborted = life.matches("adding the offsets of").count();
        ensure!(
            aborted >= 3 && life.contains("beside 3 earlier ones"),
            "it ended for another reason, after {aborted} transactions:\n{life}"
        );

        proxy.rule().withhold(false);
        validator.process.start()?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&sent])?;
        validator.process.terminate(Duration::from_secs(30))?;
        pipeline.passed();
        drop(pipeline);
        broker.discard();
        Ok(())
    });
}

fn await_withheld(rule: &WithheldFindCoordinator) -> Result<()> {
    await_until("the producer asks for the coordinator", LIMIT, || {
        Ok(match rule.withheld() {
            0 => ControlFlow::Continue("it has not asked".into()),
            _ => ControlFlow::Break(()),
        })
    })
}
