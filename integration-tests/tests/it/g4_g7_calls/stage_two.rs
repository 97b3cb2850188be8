//! G4, G5: under `retry` each pending call has exactly one outcome, and each repeated request is explained by
//! the API's response or by a kill.
//!
//! Set-up: two callers, and an API that loses responses, throttles and resets connections. In the first
//! scenario the callers crash at each step of a call and at random times, are frozen past their session, and
//! the API goes down for a while. In the others they are drained and restarted one after the other, and
//! nothing is killed.
//!
//! Must hold: one outcome for each call. A rolling restart repeats no request but those that a response
//! explains, writes no outcome twice, and under `park` leaves no intent without a completion behind.

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

use crate::g4_g7_calls::fixture::{API_LATENCY, DRAIN_MAX, Scenario};
use crate::{run, seed};

/// Failpoints at which a caller is killed, and the maximum number of passes before.
const CRASH_POINTS: [(&str, u32); 5] = [
    ("before-send", 200),
    ("after-response", 200),
    ("after-outcome-ack", 200),
    // One commit carries many calls, so there are fewer passes.
    ("before-commit", 20),
    ("after-commit", 20),
];

/// Draws the faults of one caller: a crash at each failpoint, kills at random times, and a freeze past its
/// session.
fn faults(random: &mut ChaCha8Rng) -> Vec<ProcessFault> {
    let longer_than_session = SESSION_TIMEOUT + Duration::from_secs(2);
    let mut faults = vec![ProcessFault::Freeze(longer_than_session)];
    for (failpoint, passes_max) in CRASH_POINTS {
        faults.push(ProcessFault::CrashAt(
            failpoint,
            random.random_range(0..passes_max),
        ));
    }
    for _ in 0..6 {
        faults.push(ProcessFault::Kill(Duration::from_millis(
            random.random_range(0..1_000),
        )));
    }
    faults.shuffle(random);
    faults
}

/// Returns a scenario with two callers, and an API with a few faults of every kind.
fn scenario(name: &str, policy: Policy, seed: u64) -> Scenario<'_> {
    Scenario {
        name,
        policy,
        callers: 2,
        faults: api::faults(seed, API_LATENCY),
        seed,
    }
}

#[test]
fn killed_callers_finish_each_call_once() {
    run(|| {
        let seed = seed();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let faults = [faults(&mut random), faults(&mut random)];
        let (counts, kills) = scenario("callers", Policy::Retry, seed)
            .run(|fixture, callers| {
                fixture.api.go_down(Duration::from_secs(2))?;
                instance_lifecycle::run_stateless(callers, &faults)
            })
            .with_context(|| format!("seed {seed}"))?;
        ensure!(
            kills >= 20,
            "only {kills} kills and freezes, expected at least 20"
        );
        ensure!(
            counts.repeats.contains_key(&Explanation::Interrupted),
            "no kill made a call ambiguous, so the scenario proves nothing about kills"
        );
        Ok(())
    });
}

#[test]
fn rolling_restart_repeats_no_call_without_cause() {
    rolling_restart("rolling", Policy::Retry);
}

#[test]
fn rolling_restart_under_park_leaves_no_intent() {
    rolling_restart("rolling-park", Policy::Park);
}

/// Restarts each caller twice with SIGTERM, and waits for 500 outcomes before each restart.
fn rolling_restart(name: &str, policy: Policy) {
    run(|| {
        let (counts, kills) = scenario(name, policy, seed()).run(|fixture, callers| {
            for caller in callers.iter_mut() {
                caller.process.start()?;
            }
            for _round in 0..2 {
                for caller in callers.iter_mut() {
                    await_ready(caller, Duration::from_secs(60))?;
                    let expected = fixture.outcomes() + 500;
                    fixture.await_outcomes(|| Ok(expected))?;
                    caller.process.terminate(DRAIN_MAX)?;
                    caller.process.start()?;
                }
            }
            Ok(())
        })?;
        ensure!(
            kills == 0,
            "{kills} kills and freezes in a scenario that kills nothing"
        );
        ensure!(
            counts.outcomes_repeated == 0,
            "{} outcomes were written twice, although no caller was killed",
            counts.outcomes_repeated
        );
        ensure!(
            counts.parked_with_intent == 0,
            "{} calls were parked because of an intent without a completion, although no caller was killed",
            counts.parked_with_intent
        );
        Ok(())
    });
}
