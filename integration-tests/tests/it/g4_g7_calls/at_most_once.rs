//! G6 under `park` and `verify`: callers die at every step and at random, stand still past their session with a request
//! about to leave, and partitions move between them; the API's own count is at most 1 for each order.

use std::time::Duration;

use anyhow::{Context, ensure};
use harness::api;
use harness::check::at_most_once::Policy;
use harness::pipeline::SESSION_TIMEOUT;
use harness::process::instance_lifecycle::{self, ProcessFault};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::g4_g7_calls::fixture::{API_LATENCY, API_PROCESSING_MAX, Plot, story};
use crate::{in_turn, seed};

/// Steps at which a caller dies under the policies that note beginnings: before a note is committed, after it,
/// before and after sending, after the answer, after the outcome's acknowledgement.
const NOTED_STEPS: [(&str, u32); 6] = [
    ("before-commit", 50),
    ("after-commit", 50),
    ("before-send", 200),
    ("after-send", 20),
    ("after-answer", 200),
    ("after-outcome-ack", 200),
];

/// How often everything happens: once, or as often as `OUTBOX_TEST_ROUNDS` says, for a long story by hand. Six rounds
/// are more than fifty kills and 20,000 calls.
fn rounds() -> usize {
    match std::env::var("OUTBOX_TEST_ROUNDS") {
        Ok(text) => text.parse().expect("OUTBOX_TEST_ROUNDS is a number"),
        Err(_) => 1,
    }
}

/// A caller that stands still for so long with a request that is about to leave wakes when another one has settled it:
/// after the session, what its last commit proves, what the API may take, and some seconds to move and to look up. Until
/// then the request could leave without harm, as the only one.
fn longer_than_settling() -> Duration {
    SESSION_TIMEOUT + SESSION_TIMEOUT / 2 + API_PROCESSING_MAX + Duration::from_secs(5)
}

/// What happens to three callers, from a seed: one dies at each step, one at random and by standing still at the worst
/// moment, and one is killed and stays away, so that partitions move.
fn faults(random: &mut ChaCha8Rng, rounds: usize) -> [Vec<ProcessFault>; 3] {
    let longer_than_session = SESSION_TIMEOUT + Duration::from_secs(3);
    let mut lanes = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        let mut steps: Vec<ProcessFault> = NOTED_STEPS
            .iter()
            .map(|(step, passes_max)| ProcessFault::CrashAt(step, random.random_range(0..*passes_max)))
            .collect();
        let mut others: Vec<ProcessFault> = (0..2)
            .map(|_| ProcessFault::Kill(Duration::from_millis(random.random_range(0..1_000))))
            .collect();
        let passes = random.random_range(50..150);
        others.push(ProcessFault::FreezeAt(
            "frozen-before-send",
            passes,
            longer_than_settling(),
        ));
        steps.shuffle(random);
        others.shuffle(random);
        // In this order: its partitions come back from callers that live, and if these said more of them, nobody would
        // contradict once it is killed.
        let moves = vec![
            ProcessFault::KillAndStayDown(longer_than_session),
            ProcessFault::Kill(Duration::from_millis(random.random_range(0..1_000))),
        ];
        for (lane, more) in lanes.iter_mut().zip([steps, others, moves]) {
            lane.extend(more);
        }
    }
    lanes
}

fn at_most_once(name: &str, policy: Policy) {
    in_turn(|| {
        let seed = seed();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let rounds = rounds();
        let faults = faults(&mut random, rounds);
        let plot = Plot {
            name,
            policy,
            callers: 3,
            faults: api::many_faults(seed, API_LATENCY),
            seed,
        };
        let (counts, killed) = story(&plot, |_, callers| {
            instance_lifecycle::run_stateless(callers, &faults)
        })
        .with_context(|| format!("seed {seed}"))?;
        ensure!(killed >= 11 * rounds, "only {killed} kills");
        match policy {
            Policy::Park => ensure!(
                counts.parked > 0,
                "nothing was parked: the kills struck beside the point"
            ),
            Policy::Verify => ensure!(
                counts.parked == 0,
                "{} calls were parked that a look-up could settle",
                counts.parked
            ),
            Policy::Retry => {}
        }
        Ok(())
    });
}

#[test]
fn under_park_no_order_is_processed_twice_whoever_is_killed_wherever() {
    at_most_once("park", Policy::Park);
}

#[test]
fn under_verify_no_order_is_processed_twice_and_none_is_parked() {
    at_most_once("verify", Policy::Verify);
}
