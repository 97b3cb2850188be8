//! What the commands show and change.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Result;
use harness::api::Api;
use harness::orders::manual::{InputRecord, order, orders, send};
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;

use crate::assertions::{LIMIT, await_verdicts};

const DRAIN_MAX: Duration = Duration::from_secs(30);

/// Fills the topics, see [`fill_after`].
pub(super) fn fill(pipeline: &Pipeline) -> Result<Instant> {
    fill_after(pipeline, || Ok(()))
}

/// Fills the topics: three calls that were rejected, six that are parked, three that were accepted, a refused order, and a
/// call and an order that wait. `begin` runs when the outbox has a call, before the caller starts. Returns when both
/// programs were stopped.
pub(super) fn fill_after(pipeline: &Pipeline, begin: impl FnOnce() -> Result<()>) -> Result<Instant> {
    let topics = &pipeline.topics;
    let api = Api::start(pipeline, &["--reject".to_owned(), "1".to_owned()])?;
    let mut validator = pipeline.validator(1)?;
    let settings = pipeline
        .caller_settings(1, &api.url)
        .with("caller.on_ambiguous", "park");
    let mut caller = pipeline.service("caller", 1, settings)?;
    validator.process.start()?;
    await_ready(&mut validator, LIMIT)?;
    let put = |records: &[InputRecord]| send(&pipeline.kafka, &topics.orders, records);
    let await_records = |topic: &str, count: usize| {
        await_until(&format!("{topic} has {count} records"), LIMIT, || {
            let found = read_topic(&pipeline.kafka, topic, Keep::Fingerprints)?.len();
            Ok(match found >= count {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(format!("{found}")),
            })
        })
    };
    // So that the control topic has something to read.
    pipeline.outbox(&["pause", "--group", &pipeline.caller_group, "--new-group", "--yes"])?;
    pipeline.switch_calls("resume", "test")?;
    put(&[order(0, "rejected-0")])?;
    await_records(&topics.pending, 1)?;
    begin()?;
    caller.process.start()?;
    put(&[order(0, "rejected-1"), order(0, "rejected-2")])?;
    await_records(&topics.call_dead_letters, 3)?;
    api.change_faults(r#"{"reject":0,"before_500":1}"#)?;
    put(&orders(0, "parked", 6))?;
    await_records(&topics.parked, 6)?;
    api.change_faults(r#"{"before_500":0}"#)?;
    put(&orders(0, "accepted", 3))?;
    let refused = InputRecord {
        value: Some(b"no order".to_vec()),
        ..order(0, &refused_key())
    };
    put(&[refused])?;
    await_records(&topics.processed, 3)?;
    await_verdicts(pipeline)?;
    caller.process.terminate(DRAIN_MAX)?;
    // A call and an order that wait.
    put(&[order(0, &key_of_partition_0("pending"))])?;
    await_verdicts(pipeline)?;
    validator.process.terminate(DRAIN_MAX)?;
    put(&[order(0, &key_of_partition_0("waiting"))])?;
    Ok(Instant::now())
}

/// Returns the key of the refused order.
pub(super) fn refused_key() -> String {
    key_of_partition_0("refused")
}

/// Returns a key that has the same partition when there are two.
fn key_of_partition_0(prefix: &str) -> String {
    (0..)
        .map(|number| format!("{prefix}-{number}"))
        .find(|key| crc32fast::hash(key.as_bytes()).is_multiple_of(2))
        .expect("one of two keys")
}
