//! Reads the topics and the API's record after a run, and passes them to the checkers.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;
use records::Topics;
use records::dead_letter::Reason;

use crate::api::Api;
use crate::check::at_most_once::Policy;
use crate::check::expected::expected;
use crate::check::stage_one::{self, StageOne};
use crate::check::stage_two::{self, StageTwo};
use crate::check::{Violation, listed};
use crate::cluster;
use crate::orders::Orders;
use crate::pipeline::{API_TIMEOUT, Pipeline};
use crate::process::Interruption;
use crate::read_back::topics::{Keep, high_watermarks, read_topic};

/// Result of the checks of stage one.
#[derive(Debug)]
pub struct StageOneFindings {
    /// Number of records sent.
    pub sent: u64,
    /// Number of distinct valid idempotency keys among them.
    pub distinct: u64,
    /// Number of duplicates among them.
    pub duplicates: u64,
    /// Number of records to be refused, by reason.
    pub refused: BTreeMap<Reason, u64>,
    /// Counts of the checker.
    pub counts: stage_one::Counts,
    /// All violations that the checker found.
    pub violations: Vec<Violation>,
}

/// Result of the checks of stage two.
#[derive(Debug)]
pub struct StageTwoFindings {
    /// Counts of the checker.
    pub counts: stage_two::Counts,
    /// All violations that the checker found.
    pub violations: Vec<Violation>,
}

/// Reads the topics of stage one and checks them.
///
/// # Errors
/// A topic cannot be read to its end, or the orders topic does not contain exactly what was sent.
pub fn stage_one(pipeline: &Pipeline, orders: &Orders, sent: u64) -> Result<StageOneFindings> {
    stage_one_of(pipeline, orders, sent, false)
}

/// Reads the topics of stage one and checks them, after a loss of the validators' group: records that were
/// refused before it are refused again.
///
/// # Errors
/// A topic cannot be read to its end, or the orders topic does not contain exactly what was sent.
pub fn stage_one_after_lost_group(
    pipeline: &Pipeline,
    orders: &Orders,
    sent: u64,
) -> Result<StageOneFindings> {
    stage_one_of(pipeline, orders, sent, true)
}

fn stage_one_of(
    pipeline: &Pipeline,
    orders: &Orders,
    sent: u64,
    lost_group: bool,
) -> Result<StageOneFindings> {
    let (kafka, topics) = (&pipeline.kafka, &pipeline.topics);
    // Fingerprints suffice for orders: the mix computes their values again.
    let input = read_topic(kafka, &topics.orders, Keep::Fingerprints)?;
    let expected = expected(&input, orders, sent)?;
    let (counts, violations) = StageOne {
        orders_topic: &topics.orders,
        expected: &expected,
        ends: &high_watermarks(kafka, &topics.orders)?,
        committed: &cluster::committed(kafka, &pipeline.validator_group, &topics.orders)?,
        pending: &read_topic(kafka, &topics.pending, Keep::Fingerprints)?,
        // Entries are decoded, not only compared.
        changelog: &read_topic(kafka, &topics.changelog, Keep::Values)?,
        dead_letters: &read_topic(kafka, &topics.order_dead_letters, Keep::Fingerprints)?,
        lost_group,
    }
    .check();
    Ok(StageOneFindings {
        sent,
        distinct: expected.admitted.len() as u64,
        duplicates: expected.duplicates,
        refused: expected.refused_by_reason().into_iter().collect(),
        counts,
        violations,
    })
}

/// Reads the topics of stage two and the API's record, and checks them under this policy.
///
/// # Errors
/// A topic cannot be read to its end, or the API does not answer.
pub fn stage_two_with_policy(
    policy: Policy,
    pipeline: &Pipeline,
    api: &Api,
    interruptions: &[Interruption],
) -> Result<StageTwoFindings> {
    stage_two_of_group(policy, &pipeline.kafka, &pipeline.topics, api, interruptions)
}

/// Reads the topics of one of several groups of callers and the record of its API, and checks them under its policy.
///
/// # Errors
/// A topic cannot be read to its end, or the API does not answer.
pub fn stage_two_of_group(
    policy: Policy,
    kafka: &str,
    topics: &Topics,
    api: &Api,
    interruptions: &[Interruption],
) -> Result<StageTwoFindings> {
    let (counts, violations) = StageTwo {
        pending_topic: &topics.pending,
        pending: &read_topic(kafka, &topics.pending, Keep::Fingerprints)?,
        processed: &read_topic(kafka, &topics.processed, Keep::Values)?,
        dead_letters: &read_topic(kafka, &topics.call_dead_letters, Keep::Fingerprints)?,
        parked: &read_topic(kafka, &topics.parked, Keep::Fingerprints)?,
        requests: &api.requests()?,
        interruptions,
        policy,
        api_timeout: API_TIMEOUT,
    }
    .check();
    Ok(StageTwoFindings { counts, violations })
}

/// Returns the number of distinct keys in the outbox.
///
/// # Errors
/// The outbox cannot be read to its end.
pub fn pending_keys(pipeline: &Pipeline) -> Result<u64> {
    let pending = read_topic(&pipeline.kafka, &pipeline.topics.pending, Keep::Fingerprints)?;
    let keys: HashSet<_> = pending.into_iter().map(|call| call.key).collect();
    Ok(keys.len() as u64)
}

/// Returns an error that lists the violations.
///
/// # Errors
/// There is a violation.
pub fn expect_no_violations(violations: &[Violation]) -> Result<()> {
    anyhow::ensure!(
        violations.is_empty(),
        "{} violations:\n{}",
        violations.len(),
        listed(violations)
    );
    Ok(())
}
