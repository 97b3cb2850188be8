//! Set-up of the scenarios about single transactions: one partition, and a transaction of its own for each
//! order.

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

/// Returns a validator that commits after each order; it does not run yet.
pub(crate) fn validator(pipeline: &Pipeline, number: u32) -> Result<Service> {
    let settings = pipeline
        .validator_settings(number)
        .with("validator.batch_orders_max", 1)
        .with("validator.session_timeout", "3s");
    pipeline.service("validator", number, settings)
}

/// Sends this number of orders, and waits until Kafka has acknowledged them.
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

/// Waits until the validators' group has committed exactly this offset.
pub(crate) fn await_committed(pipeline: &Pipeline, offset: Offset) -> Result<()> {
    await_until(&format!("{offset} orders are committed"), LIMIT, || {
        Ok(match committed_offset(pipeline)? {
            Some(committed) if committed == offset => ControlFlow::Break(()),
            committed => ControlFlow::Continue(format!("{committed:?}")),
        })
    })
}

/// Returns the stable committed offset of the partition, waiting for pending transactional offsets.
pub(crate) fn committed_offset(pipeline: &Pipeline) -> Result<Option<Offset>> {
    let (group, topic) = (&pipeline.validator_group, &pipeline.topics.orders);
    let committed = cluster::committed(&pipeline.kafka, group, topic)?;
    Ok(committed.get(&Partition(0)).copied())
}
