//! G1, G2: a transaction whose end nobody has heard of is neither committed nor aborted until Kafka says so.
//!
//! Once the request to commit is lost, once its answer: the validator cannot tell the two apart. Who took both for an
//! abort would admit the orders of the second one twice; who took both for a commit would lose those of the first.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::orders::manual::{order, orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::proxy::lost_end_txn::{Loss, LostEndTxn};
use harness::wait::await_until;

use crate::assertions::{LIMIT, await_verdicts, counter, expect_outbox};
use crate::in_turn;

#[test]
fn a_commit_without_an_answer_is_looked_up() {
    in_turn(|| {
        let (mut broker, proxy, mut pipeline) = Pipeline::behind_proxy(LostEndTxn::default(), "unknown", 1)?;
        let topic = pipeline.topics.orders.clone();
        let settings = pipeline
            .validator_settings(1)
            .with("validator.commit_timeout", "2s");
        let mut validator = pipeline.service("validator", 1, settings)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;

        let mut sent = Vec::new();
        for (loses, prefix) in [(Loss::Requests, "unasked"), (Loss::Responses, "unanswered")] {
            let before = counter(&validator, UNKNOWN)?;
            proxy.rule().lose(loses);
            let orders = orders(0, prefix, 20);
            send(&pipeline.kafka, &topic, &orders)?;
            sent.extend(orders);
            await_unknown(&mut validator, before)?;
            proxy.rule().lose(Loss::Nothing);
            await_verdicts(&pipeline)?;
            expect_outbox(&pipeline, &[&sent])?;
        }

        // What was looked up is remembered, too.
        let again = sent.clone();
        sent.push(order(0, "last"));
        send(&pipeline.kafka, &topic, &[again, sent.clone()].concat())?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&sent])?;
        ensure!(
            counter(&validator, "outbox_stores_rebuilt_total")? == 0,
            "a store was rebuilt"
        );
        validator.process.terminate(Duration::from_secs(30))?;
        pipeline.passed();
        drop(pipeline);
        broker.discard();
        Ok(())
    });
}

/// The validator's own count of transactions that it heard no end of.
const UNKNOWN: &str = r#"outbox_transactions_total{result="unknown"}"#;

fn await_unknown(validator: &mut Service, before: u64) -> Result<()> {
    await_until("a transaction has an unknown end", LIMIT, || {
        validator.expect_running()?;
        Ok(match counter(validator, UNKNOWN)? {
            now if now > before => ControlFlow::Break(()),
            now => ControlFlow::Continue(format!("{now} have one")),
        })
    })
}
