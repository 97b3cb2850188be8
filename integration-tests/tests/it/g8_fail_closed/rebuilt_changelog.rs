//! G8: a changelog that has lost its keys is rebuilt from the outbox, and no order is admitted twice.
//!
//! Set-up: a validator has admitted 20 orders and has stopped. The changelog is deleted and created again, and
//! the state directory is lost, so that the keys are in the outbox alone.
//!
//! Must hold: the validator halts. `outbox state rebuild` refuses while it runs, appends 20 entries, and
//! appends nothing when it is repeated. The validator goes on: the same orders are duplicates, new ones are
//! admitted.

use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::orders::manual::{orders, send};
use harness::process::instance_lifecycle::await_ready;
use harness::wait::await_until;

use crate::assertions::{LIMIT, await_outbox, await_unready, await_verdicts, expect_outbox};
use crate::fixtures::validator_with_orders;
use crate::g8_fail_closed::halted_partitions::{COMPACTED, recreate};
use crate::run;

const DRAIN_MAX: Duration = Duration::from_secs(30);

#[test]
fn changelog_is_rebuilt_from_the_outbox() {
    run(|| {
        let (mut pipeline, mut validator, sent) = validator_with_orders("rebuilt", 20)?;
        let topics = pipeline.topics.clone();
        validator.process.terminate(DRAIN_MAX)?;
        recreate(&pipeline, &topics.changelog, &COMPACTED)?;
        fs::remove_dir_all(pipeline.state_folder(1)).context("removing the state directory")?;
        validator.process.start()?;
        let words = [
            "partition 0 is halted",
            "is empty, and the outbox",
            "outbox state rebuild",
        ];
        await_unready(&mut validator, &words)?;
        ensure!(
            pipeline.rebuild_state().is_err(),
            "`outbox state rebuild` did not refuse while a validator is a member of the group"
        );
        validator.process.terminate(DRAIN_MAX)?;

        // Refused until the group has noticed that the validator left.
        let rebuild = || {
            await_until("the changelog is rebuilt", LIMIT, || {
                Ok(match pipeline.rebuild_state() {
                    Ok(output) => ControlFlow::Break(output),
                    Err(error) => ControlFlow::Continue(format!("{error:#}")),
                })
            })
        };
        let expect_appended = |count: u32| -> Result<()> {
            let output = rebuild()?;
            ensure!(
                output.contains(&format!("{count} entries were appended")),
                "`outbox state rebuild` did not append {count} entries:\n{output}"
            );
            Ok(())
        };
        expect_appended(20)?;
        expect_appended(0)?;

        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let more = orders(0, "more", 5);
        send(&pipeline.kafka, &topics.orders, &sent)?;
        send(&pipeline.kafka, &topics.orders, &more)?;
        await_verdicts(&pipeline)?;
        await_outbox(&pipeline, 25)?;
        expect_outbox(&pipeline, &[&sent, &more])?;
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}
