//! G1, G2, G3: each order is in the outbox exactly once, none is lost, and the stores equal the changelog,
//! wherever validators crash.
//!
//! Set-up: orders flow all the time, with duplicates, conflicts and invalid records among them, and two
//! validators share six partitions. They crash at each step of their protocol and at random times, are frozen
//! past their session, and lose or damage their disks.
//!
//! Must hold: topics, offsets and stores show no violation. One guard has a scenario of its own, and a second
//! one that removes it and must find violations: a store is written only after Kafka's commit
//! (`guard-store-after-commit`).

use std::time::Duration;

use anyhow::{Context, ensure};
use harness::pipeline::SESSION_TIMEOUT;
use harness::process::instance_lifecycle::ProcessFault;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::g1_g2_exactly_once::two_validators::{NO_SETTINGS, check, inject};
use crate::{run, seed};

/// Failpoints at which a validator is killed, and the maximum number of passes before.
const CRASH_POINTS: [(&str, u32); 8] = [
    ("before-begin", 30),
    ("after-produce", 30),
    ("after-offsets", 30),
    ("before-end", 30),
    ("after-end", 30),
    ("before-store", 30),
    ("after-store", 30),
    // Each of the three partitions of an assignment passes it, even if it has nothing to restore.
    ("during-restore", 3),
];

/// Draws the faults of one validator: three crashes at each failpoint, kills at random times, an absence and
/// a freeze past the session timeout, a lost and a damaged disk.
fn faults(random: &mut ChaCha8Rng) -> Vec<ProcessFault> {
    // Past its session the other validator has taken the partitions over.
    let longer_than_session = SESSION_TIMEOUT + Duration::from_secs(2);
    let mut faults = vec![
        ProcessFault::KillAndStayDown(longer_than_session),
        ProcessFault::Freeze(longer_than_session),
        ProcessFault::LoseDisk,
        ProcessFault::DamageDisk,
    ];
    for (failpoint, passes_max) in CRASH_POINTS {
        for _ in 0..3 {
            faults.push(ProcessFault::CrashAt(
                failpoint,
                random.random_range(0..passes_max),
            ));
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

#[test]
fn fifty_kills_admit_each_order_exactly_once() {
    run(|| {
        let seed = seed();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let faults = [faults(&mut random), faults(&mut random)];
        let checked = check("chaos", seed, &NO_SETTINGS, |pipeline, validators| {
            inject(pipeline, validators, &faults, "")
        })
        .with_context(|| format!("seed {seed}"))?;
        ensure!(
            checked.kills >= 50,
            "only {} kills and freezes, expected at least 50",
            checked.kills
        );
        checked
            .expect_no_violations()
            .with_context(|| format!("seed {seed}"))
    });
}

/// Returns crashes that all strike between the offsets and the commit, so that each aborts a transaction.
fn crashes_before_commit() -> [Vec<ProcessFault>; 2] {
    [0, 1].map(|validator| {
        (0..4)
            .map(|number| ProcessFault::CrashAt("before-end", 10 + 7 * validator + 5 * number))
            .collect()
    })
}

/// Both validators crash before their commits: a store that was written only after the commit holds no key of
/// an aborted transaction.
#[test]
fn store_is_written_after_the_commit() {
    run(|| {
        check("commit-first", seed(), &NO_SETTINGS, |pipeline, validators| {
            inject(pipeline, validators, &crashes_before_commit(), "")
        })?
        .expect_no_violations()
    });
}

/// The same without the guard: orders of aborted transactions count as duplicates and are lost.
#[test]
fn store_written_before_the_commit_is_detected() {
    run(|| {
        check("store-first", seed(), &NO_SETTINGS, |pipeline, validators| {
            inject(
                pipeline,
                validators,
                &crashes_before_commit(),
                "guard-store-after-commit=return",
            )
        })?
        .expect_violations()
    });
}
