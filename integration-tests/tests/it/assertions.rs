//! What the stories about one validator ask it, and the topics.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::cluster;
use harness::http::Http;
use harness::orders::manual::InputRecord;
use harness::pipeline::{Pipeline, Service};
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;

/// How long anything may take here.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// The sum of a counter over all its labels; 0 if it is not there.
pub(crate) fn counter(service: &Service, name: &str) -> Result<u64> {
    let (_, metrics) = Http::new()?.get(&format!("{}/metrics", service.admin))?;
    metrics
        .lines()
        .filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        })
        .filter_map(|line| line.rsplit(' ').next())
        .map(|value| Ok(value.parse::<u64>()?))
        .sum()
}

/// Waits until the program runs, is not ready, and gives a reason with all these words. The reason.
pub(crate) fn await_unready(service: &mut Service, words: &[&str]) -> Result<String> {
    let http = Http::new()?;
    await_until(&format!("not ready, because of {words:?}"), LIMIT, || {
        service.expect_running()?;
        Ok(match http.get(&format!("{}/readyz", service.admin)) {
            Ok((503, body)) if words.iter().all(|word| body.contains(word)) => ControlFlow::Break(body),
            Ok((status, body)) => ControlFlow::Continue(format!("{status} {body}")),
            Err(error) => ControlFlow::Continue(format!("{error:#}")),
        })
    })
}

/// Waits until each order has its verdict.
pub(crate) fn await_verdicts(pipeline: &Pipeline) -> Result<()> {
    await_until("each order has its verdict", LIMIT, || {
        let (group, topic) = (&pipeline.validator_group, &pipeline.topics.orders);
        Ok(match cluster::lag(&pipeline.kafka, group, topic) {
            Ok(0) => ControlFlow::Break(()),
            Ok(lag) => ControlFlow::Continue(format!("{lag} orders without one")),
            Err(error) => ControlFlow::Continue(format!("{error:#}")),
        })
    })
}

/// Waits until so many orders have an outcome.
pub(crate) fn await_outcomes(pipeline: &Pipeline, count: usize) -> Result<()> {
    await_until("each order has its outcome", LIMIT, || {
        let processed = read_topic(&pipeline.kafka, &pipeline.topics.processed, Keep::Fingerprints)?;
        let keys: HashSet<_> = processed.into_iter().map(|outcome| outcome.key).collect();
        Ok(match keys.len() {
            found if found == count => ControlFlow::Break(()),
            found => ControlFlow::Continue(format!("{found} of {count}")),
        })
    })
}

/// Waits until so many pending calls are committed.
pub(crate) fn await_outbox(pipeline: &Pipeline, count: usize) -> Result<()> {
    await_until(&format!("{count} pending calls"), LIMIT, || {
        let found = read_topic(&pipeline.kafka, &pipeline.topics.pending, Keep::Fingerprints)?.len();
        Ok(if found >= count {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{found}"))
        })
    })
}

/// That each of these orders is in the outbox once, and nothing else.
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
            "{:?} is in the outbox {count} times",
            String::from_utf8_lossy(&key)
        );
    }
    ensure!(
        counts.is_empty(),
        "nobody ordered what is in the outbox: {counts:?}"
    );
    Ok(())
}
