//! Waits and assertions on what programs report and what the topics hold.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::cluster;
use harness::http::Http;
use harness::orders::manual::InputRecord;
use harness::pipeline::{Pipeline, Service};
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;
use serde_json::Value;

/// Timeout of each wait of the scenarios.
// The default session, transaction and drain timeouts fit in, one after the other, on two loaded cores.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// Returns the sum of a counter or gauge over all its labels, or the value of one whose labels are named with it.
pub(crate) fn counter(service: &Service, name: &str) -> Result<u64> {
    service.metric(name)
}

/// Waits until the program runs, is not ready, and gives a reason with all these words. Returns the reason.
pub(crate) fn await_unready(service: &mut Service, words: &[&str]) -> Result<String> {
    let http = Http::new()?;
    let what = format!("{} is not ready because of {words:?}", service.process.name());
    await_until(&what, LIMIT, || {
        service.expect_running()?;
        Ok(match http.get(&format!("{}/readyz", service.admin)) {
            Ok((503, body)) if words.iter().all(|word| body.contains(word)) => ControlFlow::Break(body),
            Ok((status, body)) => ControlFlow::Continue(format!("{status} {body}")),
            Err(error) => ControlFlow::Continue(format!("{error:#}")),
        })
    })
}

/// Runs `outbox status`, which asks the programs at these addresses. Returns its exit status, and what it prints with
/// `--json`.
pub(crate) fn outbox_status(pipeline: &Pipeline, programs: &[&str]) -> Result<(Option<i32>, Value)> {
    let file = pipeline.folder().join("outbox-status.toml");
    pipeline
        .settings(&pipeline.caller_group)
        .with("status.programs", programs)
        .write(&file)?;
    let (callers, validators) = (&pipeline.caller_group, &pipeline.validator_group);
    let mut outbox = pipeline
        .process("outbox-status", "outbox")?
        .arguments(["--json".as_ref(), "--config".as_ref(), file.as_os_str()])
        .arguments(["status", "--group", callers, "--validators", validators]);
    outbox.start()?;
    let status = outbox.wait_exit(LIMIT)?;
    let output = outbox.log_since_start()?;
    let json = output.find("{\n").map(|at| &output[at..]);
    let json = json.with_context(|| format!("`outbox status` printed no JSON:\n{output}"))?;
    Ok((status.code(), serde_json::from_str(json)?))
}

/// Starts the program, which must exit by itself with an error within this time, and name the reason in its
/// log.
pub(crate) fn expect_refused_start(service: &mut Service, within: Duration, words: &[&str]) -> Result<()> {
    service.process.start()?;
    let status = service.process.wait_exit(within)?;
    let log = service.process.log_since_start()?;
    let name = service.process.name();
    ensure!(
        !status.success(),
        "{name} exited with status 0 where it had to refuse to start:\n{log}"
    );
    for word in words {
        ensure!(
            log.contains(word),
            "{name} refused to start, and its log does not contain {word:?}:\n{log}"
        );
    }
    Ok(())
}

/// Waits until each order has its verdict. Brokers may be down meanwhile.
pub(crate) fn await_verdicts(pipeline: &Pipeline) -> Result<()> {
    await_until("each order has its verdict", LIMIT, || {
        Ok(match orders_without_verdict(pipeline) {
            Ok(0) => ControlFlow::Break(()),
            Ok(lag) => ControlFlow::Continue(format!("{lag} orders have none")),
            // A broker that is down, or a pending transaction, only delays the answer.
            Err(error) => ControlFlow::Continue(format!("{error:#}")),
        })
    })
}

/// Waits until each order has its verdict, with a timeout. Kafka must answer all the time.
pub(crate) fn await_verdicts_within(pipeline: &Pipeline, limit: Duration) -> Result<()> {
    await_until("each order has its verdict", limit, || {
        // An error fails the scenario: committed offsets that stay pending for 30 s are a defect here.
        Ok(match orders_without_verdict(pipeline)? {
            0 => ControlFlow::Break(()),
            lag => ControlFlow::Continue(format!("{lag} orders have none")),
        })
    })
}

fn orders_without_verdict(pipeline: &Pipeline) -> Result<i64> {
    cluster::lag(
        &pipeline.kafka,
        &pipeline.validator_group,
        &pipeline.topics.orders,
    )
}

/// Waits until exactly this number of orders have an outcome.
pub(crate) fn await_outcomes(pipeline: &Pipeline, count: usize) -> Result<()> {
    await_until("each order has its outcome", LIMIT, || {
        let processed = read_topic(&pipeline.kafka, &pipeline.topics.processed, Keep::Fingerprints)?;
        let keys: HashSet<_> = processed.into_iter().map(|outcome| outcome.key).collect();
        Ok(match keys.len() {
            found if found == count => ControlFlow::Break(()),
            found => ControlFlow::Continue(format!("{found} of {count} orders have one")),
        })
    })
}

/// Waits until at least this number of pending calls are committed.
pub(crate) fn await_outbox(pipeline: &Pipeline, count: usize) -> Result<()> {
    await_until(&format!("{count} pending calls are committed"), LIMIT, || {
        let found = read_topic(&pipeline.kafka, &pipeline.topics.pending, Keep::Fingerprints)?.len();
        Ok(if found >= count {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{found} are"))
        })
    })
}

/// Fails unless the outbox holds each of these orders exactly once, and nothing else.
pub(crate) fn expect_outbox(pipeline: &Pipeline, orders: &[&[InputRecord]]) -> Result<()> {
    let mut counts: BTreeMap<Vec<u8>, i32> = BTreeMap::new();
    for call in read_topic(&pipeline.kafka, &pipeline.topics.pending, Keep::Fingerprints)? {
        *counts.entry(call.key.unwrap_or_default()).or_default() += 1;
    }
    for order in orders.iter().copied().flatten() {
        let key = order.key.clone().unwrap_or_default();
        let count = counts.remove(&key).unwrap_or(0);
        ensure!(
            count == 1,
            "order {:?} is in the outbox {count} times, expected once",
            String::from_utf8_lossy(&key)
        );
    }
    ensure!(
        counts.is_empty(),
        "the outbox holds pending calls that belong to no order: {counts:?}"
    );
    Ok(())
}
