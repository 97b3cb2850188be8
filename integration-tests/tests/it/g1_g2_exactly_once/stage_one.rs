//! G1, G2, G3: orders flow, validators are killed at the worst steps and at random, frozen, and lose their
//! disks; in the end each order is in the outbox exactly once, nothing is lost, and the stores are right.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::check::findings;
use harness::check::{Violation, listed, stores};
use harness::cluster;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Mix, Orders};
use harness::pipeline::{Pipeline, SESSION_TIMEOUT, Service};
use harness::process::instance_lifecycle::{InstanceLifecycle, ProcessFault, await_ready, run_all};
use harness::read_back::stores::read_stores;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::{in_turn, seed};

const PARTITIONS: i32 = 6;
const ORDERS_PER_SECOND: u64 = 500;
const SETTLE_MAX: Duration = Duration::from_secs(120);

const NO_SETTINGS: [(&str, &str); 0] = [];

/// Each step at which a validator is killed, and how many passes it may be let through before.
const STEPS: [(&str, u32); 8] = [
    ("before-begin", 30),
    ("after-produce", 30),
    ("after-offsets", 30),
    ("before-end", 30),
    ("after-end", 30),
    ("before-store", 30),
    ("after-store", 30),
    ("during-restore", 3),
];

/// What happens to the two validators, from a seed: each step three times each, kills at random, long
/// absences, freezes, lost and damaged disks.
fn faults(random: &mut ChaCha8Rng) -> Vec<ProcessFault> {
    let longer_than_session = SESSION_TIMEOUT + Duration::from_secs(2);
    let mut faults = vec![
        ProcessFault::KillAndStayDown(longer_than_session),
        ProcessFault::Freeze(longer_than_session),
        ProcessFault::LoseDisk,
        ProcessFault::DamageDisk,
    ];
    for (step, passes_max) in STEPS {
        for _ in 0..3 {
            faults.push(ProcessFault::CrashAt(step, random.random_range(0..passes_max)));
        }
    }
    for _ in 0..4 {
        faults.push(ProcessFault::Kill(Duration::from_millis(
            random.random_range(0..1_000),
        )));
    }
    faults.shuffle(random);
    faults
}

/// A story that has come to its end. Its logs go only when they are no longer needed.
struct GroupStatus {
    pipeline: Pipeline,
    violations: Vec<Violation>,
    kills: usize,
}

impl GroupStatus {
    /// Every guarantee was held.
    fn held(mut self) -> Result<()> {
        findings::expect_no_violations(&self.violations)?;
        self.pipeline.passed();
        Ok(())
    }

    /// A guard was taken out, so a guarantee must be broken: otherwise the other stories prove nothing.
    fn found_out(mut self) -> Result<()> {
        ensure!(
            !self.violations.is_empty(),
            "the guard was taken out, and no violation was found"
        );
        println!("found out:\n{}", listed(&self.violations));
        self.pipeline.passed();
        Ok(())
    }
}

/// Feeds orders while `happen` does its worst to two validators, of which the first has settings of its own,
/// and tells what came of it.
fn story(
    name: &str,
    seed: u64,
    first_settings: &[(&str, impl Serialize)],
    happen: impl FnOnce(&Pipeline, &mut [Service; 2]) -> Result<()>,
) -> Result<GroupStatus> {
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
        count: 1_000_000,
        per_second: Some(ORDERS_PER_SECOND),
    });
    happen(&pipeline, &mut validators)?;
    let sent = feed.stop()?;
    settle(&pipeline)?;
    for validator in &mut validators {
        validator.process.terminate(Duration::from_secs(60))?;
    }
    let found = findings::stage_one(&pipeline, &orders, sent)?;
    let changelog = read_topic(&pipeline.kafka, &pipeline.topics.changelog, Keep::Values)?;
    let mut violations = found.violations;
    violations.extend(stores::check(&changelog, &read_stores(&pipeline, &[1, 2])?));
    println!(
        "{name}: {sent} orders, {} distinct, {} in the outbox exactly once, {} duplicates, {} kills and freezes, {} violations",
        found.distinct,
        found.counts.exactly_once,
        found.duplicates,
        kills(&validators),
        violations.len()
    );
    ensure!(
        found.distinct > 1_000,
        "a story of {} orders shows little",
        found.distinct
    );
    Ok(GroupStatus {
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

/// Until each order has its verdict.
fn settle(pipeline: &Pipeline) -> Result<()> {
    await_until("each order has its verdict", SETTLE_MAX, || {
        let lag = cluster::lag(
            &pipeline.kafka,
            &pipeline.validator_group,
            &pipeline.topics.orders,
        )?;
        Ok(match lag {
            0 => ControlFlow::Break(()),
            lag => ControlFlow::Continue(format!("{lag} orders without one")),
        })
    })
}

/// Both validators live through their faults at the same time.
fn run(
    pipeline: &Pipeline,
    validators: &mut [Service; 2],
    faults: &[Vec<ProcessFault>; 2],
    failpoints: &str,
) -> Result<()> {
    let lanes = validators
        .iter_mut()
        .zip(1..)
        .map(|(service, number)| InstanceLifecycle {
            service,
            state: Some(pipeline.state_folder(number)),
            failpoints,
        });
    run_all(lanes.zip(faults))
}

#[test]
fn validators_are_killed_fifty_times_and_each_order_is_in_the_outbox_exactly_once() {
    in_turn(|| {
        let seed = seed();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let faults = [faults(&mut random), faults(&mut random)];
        let told = story("chaos", seed, &NO_SETTINGS, |pipeline, validators| {
            run(pipeline, validators, &faults, "")
        })
        .with_context(|| format!("seed {seed}"))?;
        ensure!(told.kills >= 50, "only {} kills", told.kills);
        told.held().with_context(|| format!("seed {seed}"))
    });
}

/// Every kill strikes after the offsets are sent and before the transaction ends, so that each of them is
/// aborted.
fn dies_before_the_end() -> [Vec<ProcessFault>; 2] {
    [0, 1].map(|lane| {
        (0..4)
            .map(|number| ProcessFault::CrashAt("before-end", 10 + 7 * lane + 5 * number))
            .collect()
    })
}

#[test]
fn a_store_is_written_after_the_commit() {
    in_turn(|| {
        story("commit-first", seed(), &NO_SETTINGS, |pipeline, validators| {
            run(pipeline, validators, &dies_before_the_end(), "")
        })?
        .held()
    });
}

/// The same story, with a store that is written before Kafka's commit: orders of aborted transactions are
/// taken for duplicates and lost.
#[test]
fn a_store_that_is_written_before_the_commit_is_found_out() {
    in_turn(|| {
        story("store-first", seed(), &NO_SETTINGS, |pipeline, validators| {
            run(
                pipeline,
                validators,
                &dies_before_the_end(),
                "guard-store-after-commit=return",
            )
        })?
        .found_out()
    });
}

/// It ends a transaction with its first order, so that one which wakes commits what it has in its hands
/// before it asks the group, and hears that it was shut out.
const ZOMBIE: [(&str, u64); 1] = [("validator.batch_orders_max", 1)];

/// A validator stands still with a decided order in its hands, for longer than its session; another takes
/// its partitions over; then it wakes, finishes what it had begun, and must be shut out.
fn zombie(pipeline: &Pipeline, validators: &mut [Service; 2], guard: &str) -> Result<()> {
    let [first, second] = validators;
    fall_asleep(pipeline, first, "before-begin", guard)?;
    second.process.start()?;
    await_progress(pipeline, 1_000)?;
    first.process.thaw()?;
    await_progress(pipeline, 1_000)?;
    // Without the guard it is slow, since it makes a client for each transaction; the rest needs none.
    first.process.kill()?;
    first.process.start()?;
    await_ready(first, SETTLE_MAX)
}

#[test]
fn a_zombie_is_shut_out() {
    in_turn(|| {
        story("zombie", seed(), &ZOMBIE, |pipeline, validators| {
            zombie(pipeline, validators, "")
        })?
        .held()
    });
}

/// The same story without the group's generation in the commit: the zombie's order is in the outbox twice. It
/// has some tries, because the order in its hands may be a duplicate, of which nothing is written.
#[test]
fn a_zombie_that_commits_without_its_generation_is_found_out() {
    const TRIES_MAX: usize = 4;
    in_turn(|| {
        for left in (0..TRIES_MAX).rev() {
            let told = story("zombie-admitted", seed(), &ZOMBIE, |pipeline, validators| {
                zombie(pipeline, validators, "guard-group-metadata=return")
            })?;
            if !told.violations.is_empty() || left == 0 {
                return told.found_out();
            }
            told.held()?;
        }
        Ok(())
    });
}

/// The open transaction outlives the take-over.
const OPEN_TRANSACTION: [(&str, &str); 1] = [("validator.transaction_timeout", "30s")];

/// A validator stands still in an open transaction; another takes over, admits orders behind it in the
/// changelog, dies and loses its disk: its next life must not begin with a changelog that is cut off at
/// the open transaction.
fn open_transaction(pipeline: &Pipeline, validators: &mut [Service; 2], guard: &str) -> Result<()> {
    let [first, second] = validators;
    fall_asleep(pipeline, first, "after-produce", "")?;
    let mut second = InstanceLifecycle {
        service: second,
        state: Some(pipeline.state_folder(2)),
        failpoints: guard,
    };
    second.start()?;
    await_progress(pipeline, 1_000)?;
    second.service.process.kill()?;
    std::fs::remove_dir_all(pipeline.state_folder(2)).context("losing the state directory")?;
    second.start()?;
    await_progress(pipeline, 2_000)?;
    // Its next life ends the open transaction, so that readers need not wait for its time-out.
    first.process.kill()?;
    first.process.start()?;
    await_ready(first, SETTLE_MAX)
}

#[test]
fn a_restore_waits_for_open_transactions() {
    in_turn(|| {
        story(
            "open-transaction",
            seed(),
            &OPEN_TRANSACTION,
            |pipeline, validators| open_transaction(pipeline, validators, ""),
        )?
        .held()
    });
}

/// The same story with the last stable offset instead of the high watermark: orders are admitted twice.
#[test]
fn a_restore_that_stops_at_an_open_transaction_is_found_out() {
    in_turn(|| {
        story(
            "open-transaction-missed",
            seed(),
            &OPEN_TRANSACTION,
            |pipeline, validators| open_transaction(pipeline, validators, "guard-high-watermark=return"),
        )?
        .found_out()
    });
}

/// Starts a validator alone, lets it work for a while, sends its main thread to sleep at a named step, and
/// then freezes all of it, so that its session ends too.
fn fall_asleep(pipeline: &Pipeline, validator: &mut Service, step: &str, guard: &str) -> Result<()> {
    // Over when it is thawed: it goes on at once, and does not yet know that it was shut out.
    const SLEEP_MS: u32 = 6_000;
    // One pass before it sleeps, it says so in its log.
    let mut failpoints = format!("{step}=50*off->1*print({ASLEEP})->1*sleep({SLEEP_MS})");
    if !guard.is_empty() {
        failpoints = format!("{guard};{failpoints}");
    }
    validator.process.start_with(&[("FAILPOINTS", &failpoints)])?;
    await_until("the validator falls asleep", Duration::from_secs(90), || {
        validator.expect_running()?;
        // Its start is logged too, with the failpoints; only the second mention is the step.
        Ok(match validator.process.log()?.matches(ASLEEP).count() {
            2.. => ControlFlow::Break(()),
            _ => ControlFlow::Continue("it has not come to the step".into()),
        })
    })?;
    let mut seen = (0, Instant::now());
    await_until("the validator stands still", Duration::from_secs(5), || {
        let committed = committed_sum(pipeline)?;
        if committed != seen.0 {
            seen = (committed, Instant::now());
        }
        Ok(if seen.1.elapsed() > Duration::from_secs(1) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{committed} orders are committed"))
        })
    })?;
    validator.process.freeze()
}

/// What a validator writes before it falls asleep.
const ASLEEP: &str = "falls-asleep-at-the-next-pass";

/// Waits until the validators have committed so many orders more.
fn await_progress(pipeline: &Pipeline, more: i64) -> Result<()> {
    let before = committed_sum(pipeline)?;
    let what = format!("{more} orders more than {before} are committed");
    await_until(&what, Duration::from_secs(120), || {
        let committed = committed_sum(pipeline)?;
        Ok(if committed >= before + more {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{committed}"))
        })
    })
}

fn committed_sum(pipeline: &Pipeline) -> Result<i64> {
    let committed = cluster::committed(
        &pipeline.kafka,
        &pipeline.validator_group,
        &pipeline.topics.orders,
    )?;
    Ok(committed.values().map(|offset| offset.0).sum())
}
