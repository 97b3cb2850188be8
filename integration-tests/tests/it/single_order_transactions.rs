//! For stories of single transactions: one partition, and each order in a transaction of its own.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Result;
use harness::cluster;
use harness::orders::Orders;
use harness::orders::feed::{Feed, Plan};
use harness::pipeline::{Pipeline, Service};
use harness::wait::await_until;
use records::{Offset, Partition};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A validator that commits after each order.
pub(crate) fn validator(pipeline: &Pipeline, number: u32) -> Result<Service> {
    let settings = pipeline
        .validator_settings(number)
        .with("validator.batch_orders_max", 1)
        .with("validator.session_timeout", "3s");
    pipeline.service("validator", number, settings)
}

/// Sends so many orders, and waits until Kafka has them.
pub(crate) fn send(pipeline: &Pipeline, orders: &Orders, count: u64) -> Result<u64> {
    Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: pipeline.partitions,
        orders: orders.clone(),
        count,
        per_second: None,
    })
    .finish()
}

/// Until so many orders have their verdict.
pub(crate) fn await_committed(pipeline: &Pipeline, offset: Offset) -> Result<()> {
    await_until(&format!("{offset} orders are committed"), LIMIT, || {
        Ok(match committed_offset(pipeline)? {
            Some(committed) if committed == offset => ControlFlow::Break(()),
            committed => ControlFlow::Continue(format!("{committed:?}")),
        })
    })
}

/// The stable one: a transaction that is pending on it is waited for.
pub(crate) fn committed_offset(pipeline: &Pipeline) -> Result<Option<Offset>> {
    let (group, topic) = (&pipeline.validator_group, &pipeline.topics.orders);
    let committed = cluster::committed(&pipeline.kafka, group, topic)?;
    Ok(committed.get(&Partition(0)).copied())
}
