//! G6, G7: under `park` and under `verify` the API processes each order at most once, wherever callers are
//! killed.
//!
//! Set-up: three callers, and an API that often loses responses after it has processed the request. One
//! caller crashes at each step around the commit of an intent and around a request. One is killed at random
//! times, and frozen with a request about to leave until another caller has resolved that call. One stays
//! down past its session, so that partitions move.
//!
//! Must hold: the API's own record has each order at most once. Under `park` some calls are parked; under
//! `verify` none is, because the look-up resolves each ambiguous call. The guards are the recorded intents
//! (`guard-intents`), the wait for their commit (`guard-await-commit`) and the ownership lease
//! (`guard-ownership-lease`); `OUTBOX_TEST_GUARDS="guard-intents=return"` removes one from all
//! programs, and the scenarios fail.

use std::time::Duration;

use anyhow::{Context, ensure};
use harness::api;
use harness::check::at_most_once::Policy;
use harness::pipeline::SESSION_TIMEOUT;
use harness::process::instance_lifecycle::{self, ProcessFault};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::g4_g7_calls::fixture::{API_LATENCY, API_PROCESSING_MAX, Scenario};
use crate::{run, seed};

/// Failpoints at which a caller is killed, and the maximum number of passes before: around the commit of an
/// intent, around the request, after the response, and after the acknowledgement of the outcome.
const CRASH_POINTS: [(&str, u32); 6] = [
    ("before-commit", 50),
    ("after-commit", 50),
    ("before-send", 200),
    ("after-send", 20),
    ("after-response", 200),
    ("after-outcome-ack", 200),
];

/// Returns the number of times that all faults are drawn: 1, or that of `OUTBOX_TEST_ROUNDS`.
///
/// Six rounds are more than fifty kills and 20,000 calls.
fn rounds() -> usize {
    match std::env::var("OUTBOX_TEST_ROUNDS") {
        Ok(text) => text.parse().expect("OUTBOX_TEST_ROUNDS is a number"),
        Err(_) => 1,
    }
}

/// Returns the time after which another caller has resolved the call of a caller that is frozen before it
/// sends.
// The session, the ownership lease of the last commit, the API's longest processing time, and some seconds
// for the rebalance and the look-up. Sent earlier, the request would be the only one of its call, and
// harmless.
fn longer_than_resolution() -> Duration {
    SESSION_TIMEOUT + SESSION_TIMEOUT / 2 + API_PROCESSING_MAX + Duration::from_secs(5)
}

/// Draws the faults of three callers: crashes at each failpoint; kills at random times and a freeze before a
/// request leaves; an absence, so that partitions move.
fn faults(random: &mut ChaCha8Rng, rounds: usize) -> [Vec<ProcessFault>; 3] {
    let longer_than_session = SESSION_TIMEOUT + Duration::from_secs(3);
    let mut faults = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        let mut crashes: Vec<ProcessFault> = CRASH_POINTS
            .iter()
            .map(|(failpoint, passes_max)| {
                ProcessFault::CrashAt(failpoint, random.random_range(0..*passes_max))
            })
            .collect();
        let mut kills: Vec<ProcessFault> = (0..2)
            .map(|_| ProcessFault::Kill(Duration::from_millis(random.random_range(0..1_000))))
            .collect();
        let passes = random.random_range(50..150);
        kills.push(ProcessFault::FreezeAt(
            "frozen-before-send",
            passes,
            longer_than_resolution(),
        ));
        crashes.shuffle(random);
        kills.shuffle(random);
        // In this order: after the absence its partitions come back from callers that still run. If one of
        // those went on committing for a partition that it has lost, the owner's next commit would hide it,
        // unless the owner is killed.
        let absence = vec![
            ProcessFault::KillAndStayDown(longer_than_session),
            ProcessFault::Kill(Duration::from_millis(random.random_range(0..1_000))),
        ];
        for (all, more) in faults.iter_mut().zip([crashes, kills, absence]) {
            all.extend(more);
        }
    }
    faults
}

fn at_most_once(name: &str, policy: Policy) {
    run(|| {
        let seed = seed();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let rounds = rounds();
        let faults = faults(&mut random, rounds);
        let scenario = Scenario {
            name,
            policy,
            callers: 3,
            faults: api::many_faults(seed, API_LATENCY),
            seed,
        };
        let (counts, kills) = scenario
            .run(|_, callers| instance_lifecycle::run_stateless(callers, &faults))
            .with_context(|| format!("seed {seed}"))?;
        ensure!(
            kills >= 11 * rounds,
            "only {kills} kills and freezes, expected at least {}",
            11 * rounds
        );
        match policy {
            Policy::Park => ensure!(
                counts.parked > 0,
                "no call was parked, so the kills and faults made none ambiguous"
            ),
            Policy::Verify => ensure!(
                counts.parked == 0,
                "{} calls were parked that a look-up could have resolved",
                counts.parked
            ),
            Policy::Retry => {}
        }
        Ok(())
    });
}

#[test]
fn under_park_each_order_is_processed_at_most_once() {
    at_most_once("park", Policy::Park);
}

#[test]
fn under_verify_each_order_is_processed_at_most_once() {
    at_most_once("verify", Policy::Verify);
}
