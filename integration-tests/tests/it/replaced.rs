//! A second process under the same instance id: the first leaves, says why, and does no harm.

use std::time::Duration;

use anyhow::ensure;
use harness::lane::await_ready;
use harness::pipeline::Pipeline;
use harness::sending::{orders, send};

use crate::asking::{LIMIT, await_verdicts, expect_outbox};
use crate::in_turn;

#[test]
fn a_validator_whose_name_another_has_taken_leaves() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("replaced", 2)?;
        let topic = pipeline.topics.orders.clone();
        let mut first = pipeline.validator(1)?;
        first.process.start()?;
        await_ready(&mut first, LIMIT)?;
        let mut sent = orders(0, "first", 100);
        send(&pipeline.kafka, &topic, &sent)?;
        await_verdicts(&pipeline)?;

        // The same name, another state directory: a copy of the settings, made in a hurry.
        let settings = pipeline.validator_settings(1);
        let settings = settings.with("store.dir", pipeline.folder().join("state-of-the-other"));
        let mut second = pipeline.service("validator", 2, settings)?;
        second.process.start()?;
        let status = first.process.wait_exit(LIMIT)?;
        ensure!(!status.success(), "the first has left as if all were well");
        let log = first.process.last_life()?;
        for words in [
            "another validator has joined group",
            "validator-1",
            "validator.instance_id of its own",
        ] {
            ensure!(log.contains(words), "its log does not say {words:?}:\n{log}");
        }
        await_ready(&mut second, LIMIT)?;
        let more = orders(1, "second", 100);
        send(&pipeline.kafka, &topic, &[sent.clone(), more.clone()].concat())?;
        sent.extend(more);
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&sent])?;
        second.process.terminate(Duration::from_secs(30))?;

        // Its store stays, and is brought up to date when it comes back.
        first.process.start()?;
        await_ready(&mut first, LIMIT)?;
        ensure!(
            crate::asking::counter(&first, "outbox_stores_rebuilt_total")? == 0,
            "its store was rebuilt"
        );
        first.process.terminate(Duration::from_secs(30))?;
        pipeline.passed();
        Ok(())
    });
}
