//! G1, G2: the end of a transaction that reaches the broker late ends no other one (KAFKA-17754).
//!
//! The connection breaks after the request to commit was sent, and the producer asks again. The first request
//! comes out of the network while the next transaction is half written: with the same producer and epoch, Kafka
//! would commit that half.

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

use crate::in_turn;
use crate::single_order_transactions::{LIMIT, await_committed, send, validator};

#[test]
fn a_late_end_of_a_transaction_ends_no_other_and_one_that_does_is_found_out() {
    in_turn(|| {
        let (mut broker, proxy) = broker::start_behind_proxy(DelayedEndTxn::default())?;
        findings::expect_no_violations(&story(&proxy, "on-time", "", INVALID_PRODUCER_EPOCH)?)?;
        let unguarded = story(&proxy, "late", "guard-end-on-its-way=return", 0)?;
        ensure!(
            !unguarded.is_empty(),
            "the guard was taken out, and no half of a transaction is found"
        );
        println!("found out:\n{}", listed(&unguarded));
        broker.discard();
        Ok(())
    });
}

/// What Kafka says to a producer that has a successor.
const INVALID_PRODUCER_EPOCH: i16 = 47;

/// Two orders, each in a transaction of its own. The end of the first one reaches the broker when half of the
/// second is written; then the validator dies, and comes back.
fn story(proxy: &Proxy<DelayedEndTxn>, name: &str, failpoints: &str, answer: i16) -> Result<Vec<Violation>> {
    let late = proxy.rule();
    let mut pipeline = Pipeline::on(proxy.address(), name, 1)?;
    pipeline.create_topics()?;
    let orders = Orders::Lines(Arc::new((0..2).map(order).collect()));
    let sent = send(&pipeline, &orders, 2)?;

    late.delay_next();
    let mut validator = validator(&pipeline, 1)?;
    validator.process.start_with(&[("FAILPOINTS", failpoints)])?;
    await_until("the second order is half written", LIMIT, || {
        validator.expect_running()?;
        let written = written(&pipeline)?;
        Ok(if late.is_half_forwarded() && written == HALF_WRITTEN {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{:?}, {written} records", late.step()))
        })
    })?;
    late.release();
    let code = await_until("the late end is answered", LIMIT, || {
        Ok(match late.delayed_response_error() {
            Some(code) => ControlFlow::Break(code),
            None => ControlFlow::Continue("no answer".into()),
        })
    })?;
    ensure!(
        code == answer,
        "Kafka answers the late end with error code {code} in place of {answer}"
    );
    validator.process.kill()?;

    late.pass_all();
    validator.process.start()?;
    await_committed(&pipeline, Offset(2))?;
    await_ready(&mut validator, LIMIT)?;
    validator.process.terminate(LIMIT)?;
    let found = findings::stage_one(&pipeline, &orders, sent)?;
    pipeline.passed();
    Ok(found.violations)
}

/// The first order's pending call and key, a marker behind each, and one of the two of the second order.
const HALF_WRITTEN: i64 = 5;

/// How many records, committed or not, are in the outbox and the changelog.
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
