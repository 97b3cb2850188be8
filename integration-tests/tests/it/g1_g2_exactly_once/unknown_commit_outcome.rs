//! G1, G2: a transaction whose commit has an unknown outcome counts as neither committed nor aborted until
//! Kafka says which.
//!
//! Set-up: one validator behind a proxy. First the EndTxn request of a transaction is lost, then the response
//! of another one. The validator cannot tell the two cases apart: it has to read the committed offsets and
//! the changelog.
//!
//! Must hold: each order is in the outbox exactly once, duplicates of them are still recognized, and no store
//! is rebuilt. A validator that took both for aborted would admit the orders of the second transaction twice;
//! one that took both for committed would lose the orders of the first.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::orders::manual::{order, orders, send};
use harness::pipeline::Service;
use harness::process::instance_lifecycle::await_ready;
use harness::proxy::lost_end_txn::{Loss, LostEndTxn};
use harness::wait::await_until;

use crate::assertions::{LIMIT, await_verdicts, counter, expect_outbox};
use crate::fixtures::ProxiedPipeline;
use crate::run;

#[test]
fn unknown_commit_outcome_is_resolved_by_kafka() {
    run(|| {
        let proxied = ProxiedPipeline::start(LostEndTxn::default(), "unknown", 1)?;
        let (pipeline, rule) = (&proxied.pipeline, proxied.proxy.rule());
        let topic = &pipeline.topics.orders;
        let settings = pipeline
            .validator_settings(1)
            // Short, so that the outcome becomes unknown soon.
            .with("validator.commit_timeout", "2s");
        let mut validator = pipeline.service("validator", 1, settings)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;

        let mut sent = Vec::new();
        for (loss, prefix) in [
            (Loss::Requests, "lost-request"),
            (Loss::Responses, "lost-response"),
        ] {
            let before = counter(&validator, UNKNOWN)?;
            rule.lose(loss);
            let orders = orders(0, prefix, 20);
            send(&pipeline.kafka, topic, &orders)?;
            sent.extend(orders);
            await_unknown(&mut validator, before)?;
            rule.lose(Loss::Nothing);
            await_verdicts(pipeline)?;
            expect_outbox(pipeline, &[&sent])?;
        }

        // The store knows the orders of both transactions, so all of them are duplicates now.
        let again = sent.clone();
        sent.push(order(0, "last"));
        send(&pipeline.kafka, topic, &[again, sent.clone()].concat())?;
        await_verdicts(pipeline)?;
        expect_outbox(pipeline, &[&sent])?;
        ensure!(
            counter(&validator, "outbox_stores_rebuilt_total")? == 0,
            "a store was rebuilt, although none was damaged"
        );
        validator.process.terminate(Duration::from_secs(30))?;
        proxied.passed();
        Ok(())
    });
}

/// The validator's counter of transactions whose commit had an unknown outcome.
const UNKNOWN: &str = r#"outbox_transactions_total{result="unknown"}"#;

fn await_unknown(validator: &mut Service, before: u64) -> Result<()> {
    await_until("a transaction has an unknown outcome", LIMIT, || {
        validator.expect_running()?;
        Ok(match counter(validator, UNKNOWN)? {
            now if now > before => ControlFlow::Break(()),
            now => ControlFlow::Continue(format!("{now} have one")),
        })
    })
}
