//! G1 and G3: keys that are older than the retention window are forgotten, and no order is paid twice for that.
//!
//! Set-up: orders that are 40 days old by their records' times, then orders of today. The validators remember keys for 30
//! days.
//!
//! Must hold: the old keys leave the store and the changelog, whenever the validator is killed meanwhile. Old orders that
//! come again, appended or read again, are dead letters with the reason `too-old`; those of today are duplicates, also of
//! a store that was lost. `outbox state verify` finds no difference. Neither a record from the future nor a wrong clock has a key forgotten. A changelog that was cut
//! further than what is forgotten halts its partition.

use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::check::findings::expect_no_violations;
use harness::check::stores;
use harness::cluster::Administrator;
use harness::orders::manual::{InputRecord, order, orders, send_at};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::stores::read_stores;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;
use kafka::KafkaSettings;
use kafka::changelog::ChangelogReader;
use kafka::consumer::CommitOffset;
use kafka::group_offsets::GroupOffsets;
use records::{Offset, Partition, Timestamp};

use crate::assertions::{LIMIT, await_unready, await_verdicts, counter, expect_outbox};
use crate::g3_restore::verified_stores::state;
use crate::run;

const DAY_MS: i64 = 24 * 3_600_000;
const ORDERS: u32 = 10;
const RETENTION: &str = "30d";
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Longer than the validator takes until it looks for old keys.
const LOOK: Duration = Duration::from_secs(12);

/// Returns the time that was this number of days ago.
fn days_ago(days: i64) -> Timestamp {
    Timestamp(Timestamp::now().0 - days * DAY_MS)
}

fn settings(pipeline: &Pipeline) -> KafkaSettings {
    KafkaSettings {
        bootstrap_servers: pipeline.kafka.clone(),
        group_id: pipeline.validator_group.clone(),
        properties: [].into(),
    }
}

/// Returns the offset of the oldest record of a changelog partition.
fn changelog_start(pipeline: &Pipeline, partition: i32) -> Result<Offset> {
    let reader = ChangelogReader::open(&settings(pipeline), &pipeline.topics.changelog)?;
    Ok(reader.bounds(Partition(partition), LIMIT)?.start)
}

/// Returns the number of dead letters with this reason.
fn dead_letters(pipeline: &Pipeline, reason: &str) -> Result<usize> {
    let letters = read_topic(
        &pipeline.kafka,
        &pipeline.topics.order_dead_letters,
        Keep::Fingerprints,
    )?;
    let has_reason = |letter: &&harness::read_back::topics::Record| {
        letter.header(records::dead_letter::REASON) == Some(reason)
    };
    Ok(letters.iter().filter(has_reason).count())
}

/// Creates a pipeline whose orders may have any time, and keep it.
fn pipeline(name: &str, partitions: i32) -> Result<Pipeline> {
    let pipeline = Pipeline::without_topics(name, partitions)?;
    let settings = [
        ("retention.ms", "-1"),
        ("message.timestamp.after.max.ms", "9223372036854775807"),
    ];
    Administrator::new(&pipeline.kafka)?.create_topic(&pipeline.topics.orders, partitions, &settings)?;
    pipeline.create_topics()?;
    Ok(pipeline)
}

/// Sends orders of a time on each partition, and waits for their verdicts.
fn admit(pipeline: &Pipeline, prefix: &str, at: Timestamp) -> Result<Vec<InputRecord>> {
    let sent: Vec<_> = (0..pipeline.partitions)
        .flat_map(|partition| orders(partition, &format!("{prefix}-{partition}"), ORDERS))
        .collect();
    send_at(&pipeline.kafka, &pipeline.topics.orders, &sent, at)?;
    await_verdicts(pipeline)?;
    // Made durable: keys are forgotten with the file's runs.
    std::thread::sleep(Duration::from_secs(2));
    Ok(sent)
}

/// Sends an order of today to each partition every now and then, until `is_over`. Returns the orders.
fn send_until(
    pipeline: &Pipeline,
    what: &str,
    mut is_over: impl FnMut() -> Result<bool>,
) -> Result<Vec<InputRecord>> {
    let mut sent = Vec::new();
    await_until(what, LIMIT, || {
        if is_over()? {
            return Ok(ControlFlow::Break(()));
        }
        let number = sent.len();
        let more: Vec<_> = (0..pipeline.partitions)
            .map(|partition| order(partition, &format!("more-{partition}-{number}")))
            .collect();
        send_at(&pipeline.kafka, &pipeline.topics.orders, &more, days_ago(0))?;
        sent.extend(more);
        std::thread::sleep(Duration::from_millis(500));
        Ok(ControlFlow::Continue(format!("{number} orders sent")))
    })?;
    Ok(sent)
}

/// Waits until the start of each partition of the changelog has moved, while orders of today come.
fn send_until_cut(pipeline: &Pipeline) -> Result<Vec<InputRecord>> {
    send_until(pipeline, "the old keys leave the changelog", || {
        let starts = (0..pipeline.partitions).map(|partition| changelog_start(pipeline, partition));
        Ok(starts
            .collect::<Result<Vec<_>>>()?
            .iter()
            .all(|start| *start > Offset(0)))
    })
}

/// Has a validator that is stopped read all orders of partition 0 again.
fn rewind(pipeline: &Pipeline) -> Result<()> {
    let offsets = GroupOffsets::open(&settings(pipeline), "rewind")?;
    let commit = [CommitOffset {
        partition: Partition(0),
        offset: Offset(0),
        metadata: String::new(),
        leader_epoch: None,
    }];
    // The group has its static member until the session timeout.
    await_until("the offset can be set", LIMIT, || {
        Ok(match offsets.commit(&pipeline.topics.orders, &commit).result {
            Ok(()) => ControlFlow::Break(()),
            Err(error) => ControlFlow::Continue(error.to_string()),
        })
    })
}

/// Returns a validator that forgets old keys.
fn validator(pipeline: &Pipeline, number: u32) -> Result<Service> {
    let settings = pipeline
        .validator_settings(number)
        .with("store.retention", RETENTION);
    pipeline.service("validator", number, settings)
}

fn restart(validator: &mut Service) -> Result<()> {
    validator.process.start()?;
    await_ready(validator, LIMIT)
}

#[test]
fn forgotten_orders_are_never_paid_twice() {
    run(|| {
        let mut pipeline = pipeline("forgotten", 1)?;
        let topic = pipeline.topics.orders.clone();
        let mut validator = validator(&pipeline, 1)?;
        restart(&mut validator)?;
        let old = admit(&pipeline, "old", days_ago(40))?;
        let new = admit(&pipeline, "new", days_ago(0))?;
        let more = send_until_cut(&pipeline)?;
        await_verdicts(&pipeline)?;
        ensure!(counter(&validator, "outbox_forgettings_total")? == 1);
        let start = changelog_start(&pipeline, 0)?;
        // One of them has all old keys and no other, with the marker of their transaction.
        ensure!(
            start >= Offset(i64::from(ORDERS)),
            "the changelog begins at {start}"
        );
        ensure!(dead_letters(&pipeline, "too-old")? == 0);

        validator.process.terminate(DRAIN_MAX)?;
        fs::remove_dir_all(pipeline.state_folder(1)).context("losing the state directory")?;
        restart(&mut validator)?;
        send_at(&pipeline.kafka, &topic, &old, days_ago(40))?;
        send_at(&pipeline.kafka, &topic, &new, days_ago(1))?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&old, &new, &more])?;
        let refused = dead_letters(&pipeline, "too-old")?;
        ensure!(
            refused == old.len(),
            "{refused} dead letters of {} old orders",
            old.len()
        );

        // All orders once more: the old ones as they were sent first, and again.
        validator.process.terminate(DRAIN_MAX)?;
        let (status, verified) = state(&pipeline, "verify")?;
        ensure!(
            status == Some(0)
                && verified["stores"][0]["state"] == "equal"
                && verified["changelog"][0]["missing"] == 0,
            "{status:?}: {verified}"
        );
        rewind(&pipeline)?;
        restart(&mut validator)?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&old, &new, &more])?;
        let refused = dead_letters(&pipeline, "too-old")?;
        ensure!(
            refused == 3 * old.len(),
            "{refused} dead letters of {} old orders",
            old.len()
        );
        validator.process.terminate(DRAIN_MAX)?;
        let changelog = read_topic(&pipeline.kafka, &pipeline.topics.changelog, Keep::Values)?;
        expect_no_violations(&stores::check(&changelog, &read_stores(&pipeline, &[1])?))?;

        // By hand, and further than what is forgotten.
        let beyond = Offset(start.0 + i64::from(ORDERS) / 2);
        Administrator::new(&pipeline.kafka)?.delete_records(
            &pipeline.topics.changelog,
            Partition(0),
            beyond,
        )?;
        fs::remove_dir_all(pipeline.state_folder(1)).context("losing the state directory")?;
        validator.process.start()?;
        let begins = format!("begins at {beyond}");
        await_unready(
            &mut validator,
            &["partition 0 is halted", &begins, "would be paid twice"],
        )?;
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

/// Scenario: `kill -9` before each step that follows the commit of the note, then the state directory is lost.
#[test]
fn killed_while_forgetting_no_order_is_paid_twice() {
    run(|| {
        for failpoint in ["before-forget", "after-forget", "before-cut", "after-cut"] {
            println!("killed at {failpoint}");
            let mut pipeline = pipeline(failpoint, 1)?;
            let topic = pipeline.topics.orders.clone();
            let mut validator = validator(&pipeline, 1)?;
            validator.process.start_with_crash_at(failpoint, 0)?;
            let old = admit(&pipeline, "old", days_ago(40))?;
            let new = admit(&pipeline, "new", days_ago(0))?;
            let more = send_until(&pipeline, "the validator is killed", || {
                Ok(validator.process.try_wait()?.is_some())
            })?;
            restart(&mut validator)?;
            // What the killed process has not done is done now, without another order.
            await_until("the old keys leave the changelog", LIMIT, || {
                Ok(match changelog_start(&pipeline, 0)? {
                    Offset(0) => ControlFlow::Continue("it begins at 0".into()),
                    _ => ControlFlow::Break(()),
                })
            })?;
            validator.process.terminate(DRAIN_MAX)?;
            fs::remove_dir_all(pipeline.state_folder(1)).context("losing the state directory")?;
            restart(&mut validator)?;
            send_at(&pipeline.kafka, &topic, &old, days_ago(40))?;
            send_at(&pipeline.kafka, &topic, &new, days_ago(0))?;
            await_verdicts(&pipeline)?;
            expect_outbox(&pipeline, &[&old, &new, &more])?;
            let refused = dead_letters(&pipeline, "too-old")?;
            ensure!(
                refused == old.len(),
                "{refused} dead letters of {} old orders",
                old.len()
            );
            validator.process.terminate(DRAIN_MAX)?;
            pipeline.passed();
        }
        Ok(())
    });
}

/// Scenario: a record is a year ahead; then the clock of the validator is, and then it is a year behind.
#[test]
fn wrong_clock_forgets_no_key() {
    run(|| {
        let mut pipeline = pipeline("clocks", 1)?;
        let topic = pipeline.topics.orders.clone();
        let mut validator = validator(&pipeline, 1)?;
        restart(&mut validator)?;
        let older = admit(&pipeline, "older", days_ago(20))?;
        send_at(&pipeline.kafka, &topic, &orders(0, "ahead", 1), days_ago(-365))?;
        let new = admit(&pipeline, "new", days_ago(0))?;
        let refused = dead_letters(&pipeline, "from-the-future")?;
        ensure!(refused == 1, "{refused} dead letters");

        validator.process.terminate(DRAIN_MAX)?;
        validator
            .process
            .start_with(&[("FAILPOINTS", "guard-clock-not-ahead=return")])?;
        await_ready(&mut validator, LIMIT)?;
        let began = std::time::Instant::now();
        let more = send_until(&pipeline, "the validator has looked for old keys", || {
            Ok(began.elapsed() > LOOK)
        })?;
        send_at(&pipeline.kafka, &topic, &older, days_ago(20))?;
        await_verdicts(&pipeline)?;
        ensure!(counter(&validator, "outbox_forgettings_total")? == 0);
        ensure!(changelog_start(&pipeline, 0)? == Offset(0));
        expect_outbox(&pipeline, &[&older, &new, &more])?;

        validator.process.terminate(DRAIN_MAX)?;
        validator
            .process
            .start_with(&[("FAILPOINTS", "guard-clock-not-behind=return")])?;
        let last = orders(0, "last", 3);
        send_at(&pipeline.kafka, &topic, &last, days_ago(0))?;
        let words = [
            "partition 0 is halted",
            "the clock of this machine is at",
            "Correct the clock",
        ];
        await_unready(&mut validator, &words)?;
        validator.process.terminate(DRAIN_MAX)?;
        restart(&mut validator)?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&older, &new, &more, &last])?;
        ensure!(dead_letters(&pipeline, "too-old")? == 0);
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

/// Scenario: a validator with standby stores is away while the changelog is cut, comes back, and takes over.
#[test]
fn standby_store_follows_a_changelog_that_is_cut() {
    run(|| {
        let mut pipeline = pipeline("forgotten-standby", 2)?;
        let topic = pipeline.topics.orders.clone();
        let mut first = validator(&pipeline, 1)?;
        restart(&mut first)?;
        let standby = pipeline
            .validator_settings(2)
            .with("store.retention", RETENTION)
            .with("store.standby", "all");
        let mut second = pipeline.service("validator", 2, standby)?;
        restart(&mut second)?;
        let old = admit(&pipeline, "old", days_ago(40))?;
        second.process.terminate(DRAIN_MAX)?;
        let new = admit(&pipeline, "new", days_ago(0))?;
        let more = send_until_cut(&pipeline)?;
        await_verdicts(&pipeline)?;

        restart(&mut second)?;
        await_until("the standby store follows", LIMIT, || {
            let stores = counter(&second, "outbox_standby_stores")?;
            let lag = counter(&second, "outbox_standby_lag_records")?;
            Ok(if stores == 1 && lag == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(format!("{stores} stores, {lag} records behind"))
            })
        })?;
        first.process.kill()?;
        await_until("the second validator owns both partitions", LIMIT, || {
            Ok(match counter(&second, r#"outbox_partitions{state="running"}"#)? {
                2 => ControlFlow::Break(()),
                running => ControlFlow::Continue(format!("{running} running")),
            })
        })?;
        send_at(&pipeline.kafka, &topic, &old, days_ago(40))?;
        send_at(&pipeline.kafka, &topic, &new, days_ago(0))?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&old, &new, &more])?;
        // A standby store may have read the keys together with later ones. Then they are known for longer.
        let refused = dead_letters(&pipeline, "too-old")?;
        ensure!(
            refused <= old.len(),
            "{refused} dead letters of {} old orders",
            old.len()
        );
        second.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}
