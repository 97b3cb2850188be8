//! Grown topics, at the very end: keys map to other partitions, where nothing knows them.

use std::time::Duration;

use anyhow::Result;
use harness::check::{Anomaly, Guarantee, Violation};
use harness::cluster::Administrator;
use harness::orders::Orders;
use harness::orders::feed::{Feed, Plan};
use harness::pipeline::Pipeline;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::pause;

use super::{await_halted, kill_all};
use crate::tally::{Incident, Tally};
use crate::validators::Validator;

/// Number of partitions by which each topic grows.
const MORE: i32 = 2;
/// Maximum number of orders that are sent again.
const SAMPLE_MAX: u64 = 500;
/// Time in which a validator that has not halted would admit them.
const QUIET: Duration = Duration::from_secs(3);

/// Grows the topics while no validator runs and all state directories are lost, and sends the first orders
/// again, now spread differently. Each partition must halt. Returns a violation if anything was admitted.
pub(crate) fn grow_topics(
    pipeline: &Pipeline,
    validators: &mut [Validator],
    orders: &Orders,
    sent: u64,
    tally: &Tally,
) -> Result<Vec<Violation>> {
    let (kafka, topics) = (&pipeline.kafka, &pipeline.topics);
    validators.iter().try_for_each(Validator::lose_state)?;
    let admitted = || Ok::<_, anyhow::Error>(read_topic(kafka, &topics.pending, Keep::Fingerprints)?.len());
    let before = admitted()?;
    let partitions = pipeline.partitions + MORE;
    let administrator = Administrator::new(kafka)?;
    for topic in [&topics.orders, &topics.pending, &topics.changelog] {
        administrator.grow_topic(topic, usize::try_from(partitions)?)?;
    }
    Feed::start(Plan {
        kafka: kafka.clone(),
        topic: topics.orders.clone(),
        partitions,
        orders: orders.clone(),
        count: sent.min(SAMPLE_MAX),
        per_second: None,
    })
    .finish()?;
    let all: Vec<i32> = (0..partitions).collect();
    await_halted(validators, &all, tally)?;
    pause(QUIET)?;
    kill_all(validators, tally)?;
    tally.count(Incident::TopicsGrown);
    let more = admitted()?.saturating_sub(before);
    Ok((more > 0)
        .then(|| Violation {
            guarantee: Guarantee::G1,
            anomaly: Anomaly::Duplicated,
            finding: format!("{more} orders were admitted again after the topics had grown"),
        })
        .into_iter()
        .collect())
}
