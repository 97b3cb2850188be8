//! G1, G2: a coordinator that cannot be found delays a transaction until the commit timeout, not forever.
//!
//! Set-up: one validator behind a proxy that drops each FindCoordinator request for a group. librdkafka looks
//! for the group's coordinator without any limit when it adds offsets to a transaction, so the
//! validator abandons that transaction at its own deadline and takes a new producer. Each abandoned producer
//! keeps a thread; at the third one the validator exits with an error and leaves the restart to its
//! supervisor.
//!
//! Must hold: the process exits after three transactions, and after a restart with the coordinator back each
//! order is in the outbox exactly once.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::orders::manual::{orders, send};
use harness::process::instance_lifecycle::await_ready;
use harness::proxy::withheld_find_coordinator::WithheldFindCoordinator;
use harness::wait::await_until;

use crate::assertions::{LIMIT, await_verdicts, expect_outbox};
use crate::fixtures::ProxiedPipeline;
use crate::run;

#[test]
fn missing_coordinator_times_out_then_restarts() {
    run(|| {
        let proxied = ProxiedPipeline::start(WithheldFindCoordinator::default(), "coordinator", 1)?;
        let (pipeline, rule) = (&proxied.pipeline, proxied.proxy.rule());
        let settings = pipeline
            .validator_settings(1)
            // Short, so that three transactions time out within the limit of the scenario.
            .with("validator.commit_timeout", "2s");
        let mut validator = pipeline.service("validator", 1, settings)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;

        // The consumer has found its coordinator by now; the producer asks for it with its first transaction.
        rule.withhold(true);
        let sent = orders(0, "order", 20);
        send(&pipeline.kafka, &pipeline.topics.orders, &sent)?;
        await_withheld(rule)?;
        let status = validator.process.wait_exit(LIMIT)?;
        let log = validator.process.log_since_start()?;
        ensure!(
            !status.success(),
            "the validator exited with status 0, although it could not commit"
        );
        let aborted = log.matches("adding the offsets of").count();
        ensure!(
            aborted >= 3 && log.contains("beside 3 earlier clients"),
            "the validator exited for another reason, after {aborted} transactions:\n{log}"
        );

        rule.withhold(false);
        validator.process.start()?;
        await_verdicts(pipeline)?;
        expect_outbox(pipeline, &[&sent])?;
        validator.process.terminate(Duration::from_secs(30))?;
        proxied.passed();
        Ok(())
    });
}

fn await_withheld(rule: &WithheldFindCoordinator) -> Result<()> {
    await_until("the producer asks for the coordinator", LIMIT, || {
        Ok(match rule.withheld() {
            0 => ControlFlow::Continue("it has not asked yet".into()),
            _ => ControlFlow::Break(()),
        })
    })
}
