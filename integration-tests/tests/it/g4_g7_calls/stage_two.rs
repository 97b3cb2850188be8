//! G4, G5: the API loses answers, turns calls away and goes down, callers are killed at the worst steps and
//! at random; in the end each pending call has one outcome, and each repeated request is explained.

use std::time::Duration;

use anyhow::{Context, ensure};
use harness::api;
use harness::check::at_most_once::Policy;
use harness::check::explain::Explanation;
use harness::pipeline::SESSION_TIMEOUT;
use harness::process::instance_lifecycle::{self, ProcessFault, await_ready};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::g4_g7_calls::fixture::{API_LATENCY, DRAIN_MAX, Plot, SETTLE_MAX, story};
use crate::{in_turn, seed};

/// Each step at which a caller is killed, and how many passes it may be let through before.
const STEPS: [(&str, u32); 5] = [
    ("before-send", 200),
    ("after-answer", 200),
    ("after-outcome-ack", 200),
    ("before-commit", 20),
    ("after-commit", 20),
];

/// What happens to a caller, from a seed.
fn faults(random: &mut ChaCha8Rng) -> Vec<ProcessFault> {
    let longer_than_session = SESSION_TIMEOUT + Duration::from_secs(2);
    let mut faults = vec![ProcessFault::Freeze(longer_than_session)];
    for (step, passes_max) in STEPS {
        faults.push(ProcessFault::CrashAt(step, random.random_range(0..passes_max)));
    }
    for _ in 0..6 {
        faults.push(ProcessFault::Kill(Duration::from_millis(
            random.random_range(0..1_000),
        )));
    }
    faults.shuffle(random);
    faults
}

/// Two callers, and an API with a few faults of every kind.
fn plot(name: &str, policy: Policy, seed: u64) -> Plot<'_> {
    Plot {
        name,
        policy,
        callers: 2,
        faults: api::faults(seed, API_LATENCY),
        seed,
    }
}

#[test]
fn callers_are_killed_twenty_times_and_each_call_ends_once_with_each_repeat_explained() {
    in_turn(|| {
        let seed = seed();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let faults = [faults(&mut random), faults(&mut random)];
        let (counts, killed) = story(&plot("callers", Policy::Retry, seed), |scene, callers| {
            scene.api.go_down(Duration::from_secs(2))?;
            instance_lifecycle::run_stateless(callers, &faults)
        })
        .with_context(|| format!("seed {seed}"))?;
        ensure!(killed >= 20, "only {killed} kills");
        ensure!(
            counts.repeats.contains_key(&Explanation::Interrupted),
            "no kill made a call ambiguous: they struck beside the point"
        );
        Ok(())
    });
}

/// Without kills nothing but the API's answers explains a repeat, and outcomes are told once; not even a
/// rolling restart makes anything ambiguous.
#[test]
fn a_rolling_restart_repeats_nothing_that_the_answers_do_not_explain() {
    rolling_restart("rolling", Policy::Retry);
}

#[test]
fn a_rolling_restart_under_park_leaves_no_call_begun() {
    rolling_restart("rolling-park", Policy::Park);
}

fn rolling_restart(name: &str, policy: Policy) {
    in_turn(|| {
        let (counts, killed) = story(&plot(name, policy, seed()), |scene, callers| {
            for caller in callers.iter_mut() {
                caller.process.start()?;
            }
            for _round in 0..2 {
                for caller in callers.iter_mut() {
                    await_ready(caller, Duration::from_secs(60))?;
                    scene.await_outcomes(scene.outcomes() + 500, SETTLE_MAX)?;
                    caller.process.terminate(DRAIN_MAX)?;
                    caller.process.start()?;
                }
            }
            Ok(())
        })?;
        ensure!(killed == 0, "{killed} kills in a story without any");
        ensure!(
            counts.outcomes_repeated == 0,
            "{} outcomes were told twice",
            counts.outcomes_repeated
        );
        ensure!(
            counts.parked_with_intent == 0,
            "{} calls were begun and left without an end, and nobody was killed",
            counts.parked_with_intent
        );
        Ok(())
    });
}
