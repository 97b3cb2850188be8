//! G1, G2: a validator commits its open transaction before it releases a partition or exits.
//!
//! Set-up: one validator with an order of each of two partitions in an open transaction, and a commit
//! interval of minutes, so that nothing but the shutdown or the revocation ends that transaction. Once it
//! gets SIGTERM, once a second validator joins and takes a partition over.
//!
//! Must hold: both orders are in the outbox exactly once, long before the commit interval is over. An open
//! transaction left behind would block the readers of the outbox; committed after the handover it would set
//! back the offsets that the next owner has committed.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Result;
use harness::orders::manual::{InputRecord, order, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::high_watermarks;
use harness::wait::await_until;

use crate::assertions::{LIMIT, await_verdicts, expect_outbox};
use crate::run;

const DRAIN_MAX: Duration = Duration::from_secs(30);

/// Starts a validator that holds two orders, one of each partition, in an open transaction.
fn with_open_transaction(pipeline: &Pipeline) -> Result<(Service, Vec<InputRecord>)> {
    let settings = pipeline
        .validator_settings(1)
        // Nothing but the shutdown or the revocation ends the transaction during the scenario.
        .with("validator.commit_interval", "5m")
        .with("validator.transaction_timeout", "11m");
    let mut validator = pipeline.service("validator", 1, settings)?;
    validator.process.start()?;
    await_ready(&mut validator, LIMIT)?;
    let sent = vec![order(0, "zero"), order(1, "one")];
    send(&pipeline.kafka, &pipeline.topics.orders, &sent)?;
    await_until("both pending calls are written", LIMIT, || {
        let ends = high_watermarks(&pipeline.kafka, &pipeline.topics.pending)?;
        // A commit marker would be a second record.
        Ok(match ends.iter().all(|(_, end)| end.0 == 1) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(format!("{ends:?}")),
        })
    })?;
    Ok((validator, sent))
}

#[test]
fn shutdown_commits_the_open_transaction() {
    run(|| {
        let mut pipeline = Pipeline::create("shutdown", 2)?;
        let (mut validator, sent) = with_open_transaction(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&sent])?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn revocation_commits_the_open_transaction() {
    run(|| {
        let mut pipeline = Pipeline::create("revocation", 2)?;
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
