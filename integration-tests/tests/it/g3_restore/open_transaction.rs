//! G3: the transaction that a lost validator has left open does not hold up the validator that takes over.
//!
//! Set-up: two validators with a partition each. The first one has an order in an open transaction, which Kafka would end
//! after eleven minutes. Then it is killed and does not come back.
//!
//! Must hold: the second one ends that transaction, takes the partition over, and admits the order and those that follow
//! exactly once.

use std::ops::ControlFlow;

use harness::orders::manual::{order, orders, send};
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::high_watermarks;
use harness::wait::await_until;

use crate::assertions::{LIMIT, await_verdicts, expect_outbox};
use crate::run;

#[test]
fn lost_validator_leaves_no_transaction_open() {
    run(|| {
        let mut pipeline = Pipeline::create("open-transaction", 2)?;
        let settings = pipeline
            .validator_settings(1)
            // Nothing but another validator ends the transaction during the scenario.
            .with("validator.commit_interval", "5m")
            .with("validator.transaction_timeout", "11m");
        let mut lost = pipeline.service("validator", 1, settings)?;
        lost.process.start()?;
        await_ready(&mut lost, LIMIT)?;
        // It finds the first one in the group, before it owns anything.
        let mut survivor = pipeline.validator(2)?;
        survivor.process.start()?;
        await_ready(&mut survivor, LIMIT)?;
        await_ready(&mut lost, LIMIT)?;

        // One order of each partition, so that one of them is in the open transaction, whoever owns which.
        let held = [order(0, "zero"), order(1, "one")];
        send(&pipeline.kafka, &pipeline.topics.orders, &held)?;
        await_until("both pending calls are written", LIMIT, || {
            let ends = high_watermarks(&pipeline.kafka, &pipeline.topics.pending)?;
            // The survivor's has a commit marker behind it, the other one has none.
            let mut records: Vec<i64> = ends.iter().map(|(_, end)| end.0).collect();
            records.sort_unstable();
            Ok(match records[..] {
                [1, 2] => ControlFlow::Break(()),
                _ => ControlFlow::Continue(format!("{ends:?}")),
            })
        })?;
        lost.process.kill()?;

        let new = [orders(0, "new-zero", 20), orders(1, "new-one", 20)].concat();
        send(
            &pipeline.kafka,
            &pipeline.topics.orders,
            &[&held[..], &new].concat(),
        )?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&held, &new])?;
        pipeline.passed();
        Ok(())
    });
}
