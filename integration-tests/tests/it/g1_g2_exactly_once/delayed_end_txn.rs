//! G1, G2: an EndTxn request that reaches the broker late ends no later transaction (KAFKA-17754).
//!
//! Set-up: one validator behind a proxy, with a transaction for each order. The connection breaks after the
//! request to commit the first transaction was sent, and the producer sends the request again. The first
//! request reaches the broker while the second transaction is half written. With the same producer and epoch,
//! Kafka would commit that half. Then the validator is killed and started again.
//!
//! Must hold: Kafka rejects the late request, because the validator took a new producer, and each order is in
//! the outbox exactly once. The same scenario runs without the guard `guard-end-txn-in-flight`, which replaces
//! the producer; there the checker must report violations.

use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::{Result, ensure};
use harness::check::findings;
use harness::check::{Violation, listed};
use harness::cluster::broker;
use harness::orders::Orders;
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::proxy::Proxy;
use harness::proxy::delayed_end_txn::DelayedEndTxn;
use harness::read_back::topics::high_watermarks;
use harness::wait::await_until;
use records::Offset;

use crate::run;
use crate::single_order_transactions::{LIMIT, await_committed, send, validator};

#[test]
fn delayed_end_txn_ends_no_later_transaction() {
    run(|| {
        let (mut broker, proxy) = broker::start_behind_proxy(DelayedEndTxn::default())?;
        let guarded = delay_end_txn(&proxy, "end-txn-guarded", "", INVALID_PRODUCER_EPOCH)?;
        findings::expect_no_violations(&guarded)?;
        let unguarded = delay_end_txn(&proxy, "end-txn-unguarded", "guard-end-txn-in-flight=return", 0)?;
        ensure!(
            !unguarded.is_empty(),
            "without its guard the scenario must produce a half-committed transaction, and none was found"
        );
        println!("violations without the guard:\n{}", listed(&unguarded));
        broker.discard();
        Ok(())
    });
}

/// Kafka's error code for a producer that was replaced by a newer one.
const INVALID_PRODUCER_EPOCH: i16 = 47;

/// Sends two orders, delays the EndTxn of the first until the second is half written, kills the validator and
/// starts it again. Fails unless the delayed request is answered with this error code; returns the
/// violations.
fn delay_end_txn(
    proxy: &Proxy<DelayedEndTxn>,
    name: &str,
    failpoints: &str,
    error_code: i16,
) -> Result<Vec<Violation>> {
    let rule = proxy.rule();
    let mut pipeline = Pipeline::on(proxy.address(), name, 1)?;
    pipeline.create_topics()?;
    let orders = Orders::Lines(Arc::new((0..2).map(order).collect()));
    let sent = send(&pipeline, &orders, 2)?;

    rule.delay_next();
    let mut validator = validator(&pipeline, 1)?;
    validator.process.start_with(&[("FAILPOINTS", failpoints)])?;
    await_until("the second order is half written", LIMIT, || {
        validator.expect_running()?;
        let written = written(&pipeline)?;
        Ok(if rule.is_half_forwarded() && written == HALF_WRITTEN {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{:?}, {written} records", rule.step()))
        })
    })?;
    rule.release();
    let code = await_until("the broker answers the delayed EndTxn", LIMIT, || {
        Ok(match rule.delayed_response_error() {
            Some(code) => ControlFlow::Break(code),
            None => ControlFlow::Continue("no response yet".into()),
        })
    })?;
    ensure!(
        code == error_code,
        "Kafka answers the delayed EndTxn with error code {code}, expected {error_code}"
    );
    // Killed with the second transaction open, so that only the late EndTxn could have committed its half.
    validator.process.kill()?;

    rule.pass_all();
    // Without the first guard the outbox has an order that the changelog lacks, and a restore would halt.
    let restore_guards = match failpoints {
        "" => "",
        _ => "guard-newest-order=return;guard-overlap=return",
    };
    validator.process.start_with(&[("FAILPOINTS", restore_guards)])?;
    await_committed(&pipeline, Offset(2))?;
    await_ready(&mut validator, LIMIT)?;
    validator.process.terminate(LIMIT)?;
    let found = findings::stage_one(&pipeline, &orders, sent)?;
    pipeline.passed();
    Ok(found.violations)
}

/// Number of records in outbox and changelog when the second order is half written.
// The pending call and the key of the first order, a commit marker behind each, and one of the two records of
// the second order.
const HALF_WRITTEN: i64 = 5;

/// Returns the number of records in the outbox and the changelog, committed or not.
fn written(pipeline: &Pipeline) -> Result<i64> {
    [&pipeline.topics.pending, &pipeline.topics.changelog]
        .into_iter()
        .flat_map(|topic| match high_watermarks(&pipeline.kafka, topic) {
            Ok(ends) => ends.into_iter().map(|(_, end)| Ok(end.0)).collect(),
            Err(error) => vec![Err(error)],
        })
        .sum()
}

fn order(number: u32) -> Vec<u8> {
    format!(r#"{{"order_id":"k{number}","amount":1250,"currency":"EUR","customer_id":"customer-1"}}"#)
        .into_bytes()
}
