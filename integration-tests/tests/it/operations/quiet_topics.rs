//! Quiet topics: all orders are decided, all calls are made, and the ends of the logs are transaction markers and
//! aborted orders.
//!
//! Must hold: the lag of both groups is 0, by which autoscalers and alerts go, and both programs continue from there
//! after a kill. Without the markers being passed it stays 1 for each partition.

use std::ops::ControlFlow;

use anyhow::Result;
use harness::api::Api;
use harness::cluster;
use harness::orders::manual::{abort, orders, send};
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::wait::await_until;

use crate::assertions::{LIMIT, await_outcomes};
use crate::run;

const ORDERS: u32 = 20;

#[test]
fn lag_of_quiet_topics_is_zero() {
    run(|| {
        let mut pipeline = Pipeline::create("quiet-topics", 2)?;
        let api = Api::start(&pipeline, &[])?;
        let mut validator = pipeline.validator(1)?;
        let mut caller = pipeline.caller(1, &api.url)?;
        let topic = pipeline.topics.orders.clone();
        for round in 1..3 {
            for service in [&mut validator, &mut caller] {
                service.process.start()?;
                // A new group of callers begins while the outbox is empty.
                await_ready(service, LIMIT)?;
            }
            for partition in [0, 1] {
                let of = |prefix, count| orders(partition, &format!("{prefix}-{round}-{partition}"), count);
                send(&pipeline.kafka, &topic, &of("order", ORDERS))?;
                abort(&pipeline.kafka, &topic, &of("aborted", 3))?;
            }
            await_outcomes(&pipeline, usize::try_from(2 * ORDERS)? * round)?;
            await_no_lag(&pipeline, &pipeline.validator_group, &topic)?;
            await_no_lag(&pipeline, &pipeline.caller_group, &pipeline.topics.pending)?;
            for service in [&mut validator, &mut caller] {
                service.process.kill()?;
            }
        }
        pipeline.passed();
        Ok(())
    });
}

fn await_no_lag(pipeline: &Pipeline, group: &str, topic: &str) -> Result<()> {
    await_until(&format!("group {group} has no lag on {topic}"), LIMIT, || {
        Ok(match cluster::lag(&pipeline.kafka, group, topic)? {
            0 => ControlFlow::Break(()),
            lag => ControlFlow::Continue(format!("its lag is {lag}")),
        })
    })
}
