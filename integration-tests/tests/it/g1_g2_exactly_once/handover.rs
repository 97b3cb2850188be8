//! G1, G2: a transaction that is open when a partition goes, or the program, is committed first. Left open it would
//! hold the outbox's readers up; committed later it would set back what the next owner has committed.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Result;
use harness::orders::manual::{InputRecord, order, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::high_watermarks;
use harness::wait::await_until;

use crate::assertions::{LIMIT, await_verdicts, expect_outbox};
use crate::in_turn;

const DRAIN_MAX: Duration = Duration::from_secs(30);

/// A validator that has an order of each of two partitions in its hands, and would keep them for minutes.
fn with_open_transaction(pipeline: &Pipeline) -> Result<(Service, Vec<InputRecord>)> {
    let settings = pipeline
        .validator_settings(1)
        .with("validator.commit_interval", "5m")
        .with("validator.transaction_timeout", "11m");
    let mut validator = pipeline.service("validator", 1, settings)?;
    validator.process.start()?;
    await_ready(&mut validator, LIMIT)?;
    let sent = vec![order(0, "zero"), order(1, "one")];
    send(&pipeline.kafka, &pipeline.topics.orders, &sent)?;
    await_until("both pending calls are written", LIMIT, || {
        let ends = high_watermarks(&pipeline.kafka, &pipeline.topics.pending)?;
        Ok(match ends.iter().all(|(_, end)| end.0 == 1) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(format!("{ends:?}")),
        })
    })?;
    Ok((validator, sent))
}

#[test]
fn a_validator_that_is_told_to_end_commits_what_it_has_in_its_hands() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("told-to-end", 2)?;
        let (mut validator, sent) = with_open_transaction(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&sent])?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn a_validator_commits_what_it_has_in_its_hands_before_it_gives_a_partition_up() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("gives-up", 2)?;
        let (mut first, sent) = with_open_transaction(&pipeline)?;
        let mut second = pipeline.validator(2)?;
        second.process.start()?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&sent])?;
        await_ready(&mut second, LIMIT)?;
        first.process.terminate(DRAIN_MAX)?;
        second.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}
