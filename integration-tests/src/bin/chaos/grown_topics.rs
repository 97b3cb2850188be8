//! The last mishap: all topics grow while every state directory is lost, and the same orders come again.
//!
//! Keys then map to other partitions, where they are unknown. Nothing but the committed offsets remembers the
//! partition count, so each validator must halt each partition, and admit nothing.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::check::{Anomaly, Guarantee, Violation};
use harness::cluster::Administrator;
use harness::orders::manual::{InputRecord, send};
use harness::pipeline::Pipeline;
use harness::read_back::topics::{Keep, high_watermarks, read_topic};
use harness::wait::{await_until, pause};
use records::Partition;

use crate::instance::{READY_MAX, for_each_at_once};
use crate::tally::{Incident, Tally};
use crate::validators::Validator;

/// Number of partitions by which each topic grows.
const GROWTH: i32 = 4;
/// Number of orders that are sent again.
const AGAIN: usize = 500;
/// Time in which a validator that does not halt would admit them.
const QUIET: Duration = Duration::from_secs(5);
/// Part of the reason with which a validator halts.
const HALTED: &str = "a topic has grown";

/// Grows the topics, sends orders again, and returns the violations. The validators are stopped before and
/// after.
pub(crate) fn grow(
    pipeline: &Pipeline,
    validators: &mut [Validator],
    tally: &Tally,
) -> Result<Vec<Violation>> {
    let (kafka, topics) = (&pipeline.kafka, &pipeline.topics);
    let grown = pipeline.partitions + GROWTH;
    let mut orders = read_topic(kafka, &topics.orders, Keep::Values)?;
    orders.truncate(AGAIN);
    validators.iter().try_for_each(Validator::lose_state)?;
    let administrator = Administrator::new(kafka)?;
    for topic in [&topics.orders, &topics.pending, &topics.changelog] {
        administrator.grow_topic(topic, usize::try_from(grown)?)?;
    }
    let ends = || -> Result<Vec<_>> {
        let ends = [&topics.pending, &topics.changelog].map(|topic| high_watermarks(kafka, topic));
        ends.into_iter().collect::<Result<Vec<_>>>()
    };
    let again: Vec<InputRecord> = orders
        .into_iter()
        .map(|order| InputRecord {
            partition: Partition((order.partition.0 + 1) % grown),
            key: order.key,
            value: order.value,
        })
        .collect();
    send(kafka, &topics.orders, &again)?;
    let before = ends()?;
    for validator in &mut *validators {
        validator.instance.service.process.start()?;
    }
    await_until("the validators halt on grown topics", READY_MAX, || {
        let mut reasons = String::new();
        for Validator { instance, .. } in &mut *validators {
            reasons += &instance.readiness().1;
        }
        let is_halted = |partition| reasons.contains(&format!("partition {partition} is halted"));
        Ok(match (0..grown).all(is_halted) && reasons.contains(HALTED) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(reasons),
        })
    })
    .context("topics grown, and all state directories lost")?;
    pause(QUIET)?;
    for_each_at_once(validators, |validator| {
        validator.instance.stop_at_once(tally).map(drop)
    })?;
    tally.count(Incident::TopicsGrown);
    let after = ends()?;
    if before == after {
        return Ok(Vec::new());
    }
    Ok(vec![Violation {
        guarantee: Guarantee::G1,
        anomaly: Anomaly::Duplicated,
        finding: format!("orders were admitted again on grown topics: {before:?} became {after:?}"),
    }])
}
