//! Set-ups that several scenarios begin with.

use std::path::PathBuf;

use anyhow::{Context, Result};
use harness::cluster::broker::Broker;
use harness::orders::manual::{InputRecord, orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::proxy::{Proxy, Rule};

use crate::assertions::await_verdicts;

/// Creates a pipeline of one partition, and starts a validator that has processed this number of orders.
///
/// The pipeline comes first in the result, so that it is dropped last: it prints the logs of its programs.
pub(crate) fn validator_with_orders(name: &str, count: u32) -> Result<(Pipeline, Service, Vec<InputRecord>)> {
    validator_with_orders_and_failpoints(name, count, "")
}

/// Does the same with failpoints in force in the validator.
pub(crate) fn validator_with_orders_and_failpoints(
    name: &str,
    count: u32,
    failpoints: &str,
) -> Result<(Pipeline, Service, Vec<InputRecord>)> {
    let pipeline = Pipeline::create(name, 1)?;
    let sent = orders(0, "order", count);
    send(&pipeline.kafka, &pipeline.topics.orders, &sent)?;
    let mut validator = pipeline.validator(1)?;
    validator.process.start_with(&[("FAILPOINTS", failpoints)])?;
    await_verdicts(&pipeline)?;
    Ok((pipeline, validator, sent))
}

/// A pipeline on a broker of its own that clients reach only through a proxy.
// The order of the fields is the order in which they are dropped: the pipeline deletes its topics on a broker
// that still runs.
pub(crate) struct ProxiedPipeline<R: Rule> {
    pub(crate) pipeline: Pipeline,
    pub(crate) proxy: Proxy<R>,
    broker: Broker,
}

impl<R: Rule> ProxiedPipeline<R> {
    /// Starts a broker behind a proxy with this rule, and creates the topics through it.
    pub(crate) fn start(rule: R, name: &str, partitions: i32) -> Result<Self> {
        let (broker, proxy, pipeline) = Pipeline::behind_proxy(rule, name, partitions)?;
        Ok(Self {
            pipeline,
            proxy,
            broker,
        })
    }

    /// Deletes everything that the scenario leaves behind; call it only if the scenario has passed.
    pub(crate) fn passed(self) {
        let Self {
            mut pipeline,
            proxy: _proxy,
            mut broker,
        } = self;
        pipeline.passed();
        drop(pipeline);
        broker.discard();
    }
}

/// Returns a broker for this scenario alone, and the folder to delete when the scenario has passed.
pub(crate) fn own_broker() -> Result<(Broker, PathBuf)> {
    let folder = tempfile::Builder::new()
        .prefix("outbox-own-broker-")
        .tempdir()
        .context("making a folder for a broker")?
        .keep();
    Ok((
        Broker::new(folder.join("1"), ["--heap", "384"].map(str::to_owned).to_vec()),
        folder,
    ))
}
