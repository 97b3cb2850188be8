//! Fixture: orders flow to two validators that share six partitions, and everything is read and checked at
//! the end.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::check::findings;
use harness::check::{Violation, listed, stores};
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Mix, Orders};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::{InstanceLifecycle, ProcessFault, run_all};
use harness::read_back::stores::read_stores;
use harness::read_back::topics::{Keep, read_topic};
use serde::Serialize;

use crate::assertions::await_verdicts_within;

const PARTITIONS: i32 = 6;
const ORDERS_PER_SECOND: u64 = 500;
pub(super) const SETTLE_MAX: Duration = Duration::from_secs(120);

pub(super) const NO_SETTINGS: [(&str, &str); 0] = [];

/// Result of a scenario. It keeps the pipeline, whose logs are deleted only when they are no longer needed.
pub(super) struct Checked {
    pipeline: Pipeline,
    pub(super) violations: Vec<Violation>,
    pub(super) kills: usize,
}

impl Checked {
    /// Fails if a guarantee was broken.
    pub(super) fn expect_no_violations(mut self) -> Result<()> {
        findings::expect_no_violations(&self.violations)?;
        self.pipeline.passed();
        Ok(())
    }

    /// Fails unless a guarantee was broken, in a scenario whose guard is removed.
    // A checker that does not notice a removed guard proves nothing about the scenario with the guard.
    pub(super) fn expect_violations(mut self) -> Result<()> {
        ensure!(
            !self.violations.is_empty(),
            "the guard was removed, and the checker found no violation"
        );
        println!("violations without the guard:\n{}", listed(&self.violations));
        self.pipeline.passed();
        Ok(())
    }
}

/// Feeds orders while `disturb` starts and damages two validators, waits for all verdicts, and checks topics
/// and stores.
///
/// The first validator has additional settings.
pub(super) fn check(
    name: &str,
    seed: u64,
    first_settings: &[(&str, impl Serialize)],
    disturb: impl FnOnce(&Pipeline, &mut [Service; 2]) -> Result<()>,
) -> Result<Checked> {
    let pipeline = Pipeline::create(name, PARTITIONS)?;
    let orders = Orders::Generated(Mix::with_seed(seed));
    let mut validators = [
        first_validator(&pipeline, first_settings)?,
        pipeline.validator(2)?,
    ];
    let feed = Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: PARTITIONS,
        orders: orders.clone(),
        // More than can be sent while the faults last: the feed is stopped below.
        count: 1_000_000,
        per_second: Some(ORDERS_PER_SECOND),
    });
    disturb(&pipeline, &mut validators)?;
    let sent = feed.stop()?;
    await_verdicts_within(&pipeline, SETTLE_MAX)?;
    // The stores can be opened only when their validators have closed them.
    for validator in &mut validators {
        validator.process.terminate(Duration::from_secs(60))?;
    }
    let found = findings::stage_one(&pipeline, &orders, sent)?;
    let changelog = read_topic(&pipeline.kafka, &pipeline.topics.changelog, Keep::Values)?;
    let mut violations = found.violations;
    violations.extend(stores::check(&changelog, &read_stores(&pipeline, &[1, 2])?));
    println!(
        "{name}: {sent} orders, {} valid and distinct, {} in the outbox exactly once, {} duplicates, \
         {} kills and freezes, {} violations",
        found.distinct,
        found.counts.exactly_once,
        found.duplicates,
        kills(&validators),
        violations.len()
    );
    ensure!(
        found.distinct > 1_000,
        "a scenario with {} orders proves little, expected more than 1000",
        found.distinct
    );
    Ok(Checked {
        pipeline,
        violations,
        kills: kills(&validators),
    })
}

fn first_validator(pipeline: &Pipeline, settings: &[(&str, impl Serialize)]) -> Result<Service> {
    let settings = settings
        .iter()
        .fold(pipeline.validator_settings(1), |all, (name, value)| {
            all.with(name, value)
        });
    pipeline.service("validator", 1, settings)
}

fn kills(validators: &[Service]) -> usize {
    validators
        .iter()
        .map(|validator| validator.process.interruptions().len())
        .sum()
}

/// Puts both validators through their faults at the same time, with failpoints in force in each of their
/// lives.
pub(super) fn inject(
    pipeline: &Pipeline,
    validators: &mut [Service; 2],
    faults: &[Vec<ProcessFault>; 2],
    failpoints: &str,
) -> Result<()> {
    let instances = validators
        .iter_mut()
        .zip(1..)
        .map(|(service, number)| InstanceLifecycle {
            service,
            state: Some(pipeline.state_folder(number)),
            failpoints,
        });
    run_all(instances.zip(faults))
}
