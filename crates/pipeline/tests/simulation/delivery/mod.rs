//! Simulation of stage two: random callers, group, API and faults; the guarantees hold in each run.
//!
//! Around real [`Delivery`](pipeline::delivery::Delivery) state machines are a log with the gaps of
//! transaction markers, a group that moves partitions, fences commits by membership and evicts silent
//! members, an API that counts what it processes while responses are lost and requests outlive their senders,
//! and a scheduler that draws each step from a seed. At the end the faults stop, and all calls must become
//! final.
//!
//! Each mutation removes one rule of the protocol, in the shell around the state machine, and expects a
//! violation: a check that cannot fail proves nothing.
//!
//! `DELIVERY_SEED=n cargo test -p pipeline --test simulation delivery` replays one seed.

mod api;
mod caller;
mod checks;
mod group;
mod other_group;
mod outage;
mod simulation;
mod transactions;

use std::collections::BTreeMap;
use std::time::Duration;

use pipeline::ShareLimit;
use pipeline::delivery::Policy;

use self::checks::{Outcome, ViolationKind};
use self::outage::OutageKind;
use self::simulation::{Mutation, Policies, Setup, Simulation};

/// Number of seeds. A quarter of them has each of the three policies, and a quarter has all.
const SEEDS: u64 = 10_000;

/// Events that must occur more than 500 times in all seeds; without them the simulation proves nothing.
const EVENTS: [&str; 31] = [
    "kills",
    "pauses",
    "evictions",
    "revocations",
    "stops",
    "rejoins",
    "processed after the response",
    "late commits",
    "repeated commits",
    "requests withheld",
    "parked",
    "parked at the limit",
    "lookups",
    "hangs",
    "hanging look-ups",
    "found by look-up",
    "deferrals",
    "copies read",
    "copies skipped",
    "ends reached",
    "unknown deferrals",
    "late deferrals",
    "abandoned",
    "outages",
    "breaker openings",
    "openings on rejections",
    "dead letters of mass rejection",
    "dead letters after an intent",
    "probes",
    "groups lost",
    "groups rebuilt",
];

#[test]
fn each_call_has_one_outcome() {
    if let Ok(seed) = std::env::var("DELIVERY_SEED") {
        let seed = seed.parse().expect("a number");
        let simulation = check(Setup::any(seed));
        println!("seed {seed}: {} steps, {:?}", simulation.steps, simulation.counts);
        return;
    }
    let halves = [0..SEEDS / 2, SEEDS / 2..SEEDS].map(|seeds| {
        std::thread::spawn(move || {
            let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
            for seed in seeds {
                for (what, count) in check(Setup::any(seed)).counts {
                    *counts.entry(what).or_default() += count;
                }
            }
            counts
        })
    });
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for half in halves {
        for (what, count) in half.join().expect("no violation") {
            *counts.entry(what).or_default() += count;
        }
    }
    println!("{counts:?}");
    for what in EVENTS {
        let count = counts.get(what).copied().unwrap_or_default();
        assert!(count > 500, "{what}: {count}");
    }
}

/// Partitions move and callers are replaced, but no caller is killed and no commit fails. Then only the
/// responses of the API are ambiguous.
#[test]
fn moves_and_restarts_make_nothing_ambiguous() {
    let seeds = match std::env::var("DELIVERY_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("a number");
            seed..seed + 1
        }
        Err(_) => 0..1_000,
    };
    for seed in seeds {
        check(Setup {
            moves_only: true,
            ..Setup::any(seed)
        });
    }
}

/// Runs seeds until one has a violation of this kind. Other kinds are ignored.
fn assert_detected(mutation: Mutation, policy: Policy, expected: ViolationKind) {
    for seed in 0..10_000 {
        let setup = Setup {
            flow_control: outage::flow_control(seed, Some(mutation)),
            policies: Policies::All(policy),
            mutation: Some(mutation),
            only_kind: Some(expected),
            ..Setup::any(seed)
        };
        if let Err(violation) = Simulation::new(setup).run() {
            println!("{mutation:?} under {policy:?}: seed {seed}, {violation:?}");
            return;
        }
    }
    panic!("{mutation:?} under {policy:?} did not cause {expected:?}");
}

#[test]
fn missing_intents_are_detected() {
    assert_detected(Mutation::NoIntents, Policy::Park, ViolationKind::ProcessedTwice);
    assert_detected(Mutation::NoIntents, Policy::Verify, ViolationKind::ProcessedTwice);
}

#[test]
fn request_before_its_intent_is_detected() {
    assert_detected(
        Mutation::IntentNotAwaited,
        Policy::Park,
        ViolationKind::ProcessedTwice,
    );
    assert_detected(
        Mutation::IntentNotAwaited,
        Policy::Verify,
        ViolationKind::ProcessedTwice,
    );
}

#[test]
fn ignored_unknown_commit_is_detected() {
    assert_detected(
        Mutation::UnknownCommitIgnored,
        Policy::Park,
        ViolationKind::ProcessedTwice,
    );
    assert_detected(
        Mutation::UnknownCommitIgnored,
        Policy::Park,
        ViolationKind::CommitPositionDecreased,
    );
}

#[test]
fn trusted_repeated_commit_is_detected() {
    assert_detected(
        Mutation::RepeatedCommitTrusted,
        Policy::Park,
        ViolationKind::ProcessedTwice,
    );
}

#[test]
fn unacknowledged_outcome_is_detected() {
    assert_detected(
        Mutation::OutcomeNotAcknowledged,
        Policy::Park,
        ViolationKind::FinalWithoutOutcome,
    );
}

#[test]
fn commit_after_revocation_is_detected() {
    assert_detected(
        Mutation::CommitAfterRevocation,
        Policy::Park,
        ViolationKind::ProcessedTwice,
    );
    assert_detected(
        Mutation::CommitAfterRevocation,
        Policy::Park,
        ViolationKind::CommitPositionDecreased,
    );
}

#[test]
fn missing_ownership_lease_is_detected() {
    assert_detected(
        Mutation::NoOwnershipLease,
        Policy::Park,
        ViolationKind::SentAfterParked,
    );
    assert_detected(
        Mutation::NoOwnershipLease,
        Policy::Verify,
        ViolationKind::ProcessedTwice,
    );
}

#[test]
fn lookup_before_quiescence_is_detected() {
    assert_detected(
        Mutation::NoQuiescence,
        Policy::Verify,
        ViolationKind::ProcessedTwice,
    );
}

#[test]
fn lookup_before_arrival_is_detected() {
    assert_detected(
        Mutation::NoTransportTimeout,
        Policy::Verify,
        ViolationKind::ProcessedTwice,
    );
}

#[test]
fn ignored_hang_is_detected() {
    assert_detected(
        Mutation::HangIgnored,
        Policy::Verify,
        ViolationKind::ProcessedTwice,
    );
}

#[test]
fn missing_completions_are_detected() {
    assert_detected(
        Mutation::NoCompletions,
        Policy::Retry,
        ViolationKind::CalledAfterFinal,
    );
}

#[test]
fn copy_before_its_note_is_detected() {
    assert_detected(
        Mutation::CopyBeforeNote,
        Policy::Park,
        ViolationKind::ProcessedTwice,
    );
    assert_detected(
        Mutation::CopyBeforeNote,
        Policy::Verify,
        ViolationKind::ProcessedTwice,
    );
}

#[test]
fn note_before_its_copy_is_detected() {
    assert_detected(
        Mutation::NoteBeforeCopy,
        Policy::Park,
        ViolationKind::FinalWithoutOutcome,
    );
}

#[test]
fn commit_during_a_deferral_is_detected() {
    assert_detected(
        Mutation::CommitDuringDeferral,
        Policy::Park,
        ViolationKind::ProcessedTwice,
    );
    assert_detected(
        Mutation::CommitDuringDeferral,
        Policy::Retry,
        ViolationKind::CalledAfterFinal,
    );
}

#[test]
fn ignored_unknown_deferral_is_detected() {
    assert_detected(
        Mutation::UnknownDeferralIgnored,
        Policy::Park,
        ViolationKind::ProcessedTwice,
    );
}

#[test]
fn notes_of_a_pending_deferral_are_detected() {
    assert_detected(
        Mutation::UnstableNotesRead,
        Policy::Park,
        ViolationKind::ProcessedTwice,
    );
}

#[test]
fn forgotten_ambiguity_is_detected() {
    assert_detected(
        Mutation::AmbiguityForgotten,
        Policy::Verify,
        ViolationKind::ProcessedTwice,
    );
}

#[test]
fn ignored_loss_of_offsets_is_detected() {
    assert_detected(
        Mutation::LostOffsetsIgnored,
        Policy::Park,
        ViolationKind::ProcessedTwice,
    );
}

#[test]
fn recovery_that_forgets_intents_is_detected() {
    let mutation = Mutation::RecoveryWithoutIntents;
    assert_detected(mutation, Policy::Park, ViolationKind::ProcessedTwice);
    assert_detected(mutation, Policy::Verify, ViolationKind::ProcessedTwice);
}

#[test]
fn recovery_that_forgets_parked_is_detected() {
    assert_detected(
        Mutation::RecoveryWithoutParked,
        Policy::Retry,
        ViolationKind::CalledAfterFinal,
    );
}

#[test]
fn recovery_that_forgets_outcomes_is_detected() {
    assert_detected(
        Mutation::RecoveryWithoutOutcomes,
        Policy::Retry,
        ViolationKind::CalledAfterFinal,
    );
}

#[test]
fn recovery_that_forgets_copies_is_detected() {
    assert_detected(
        Mutation::RecoveryWithoutCopies,
        Policy::Retry,
        ViolationKind::CalledAfterFinal,
    );
}

#[test]
fn recovery_with_copies_of_another_group_is_detected() {
    assert_detected(
        Mutation::RecoveryWithOtherCopies,
        Policy::Park,
        ViolationKind::FinalWithoutOutcome,
    );
}

#[test]
fn call_of_another_groups_copy_is_detected() {
    let mutation = Mutation::OtherCopiesCalled;
    assert_detected(mutation, Policy::Park, ViolationKind::ProcessedTwice);
    assert_detected(mutation, Policy::Verify, ViolationKind::ProcessedTwice);
}

#[test]
fn end_that_was_not_reached_is_detected() {
    for policy in [Policy::Park, Policy::Retry] {
        assert_detected(
            Mutation::EndOfLogCounts,
            policy,
            ViolationKind::FinalWithoutOutcome,
        );
    }
}

#[test]
fn missing_limit_on_ambiguous_attempts_is_detected() {
    assert_detected(
        Mutation::NoAmbiguousLimit,
        Policy::Retry,
        ViolationKind::TooManyAmbiguousAttempts,
    );
}

#[test]
fn forgotten_ambiguous_attempts_are_detected() {
    assert_detected(
        Mutation::AmbiguousAttemptsForgotten,
        Policy::Retry,
        ViolationKind::TooManyAmbiguousAttempts,
    );
}

#[test]
fn dead_letter_without_an_inherited_intent_is_detected() {
    assert_detected(
        Mutation::OwnRequestsOnly,
        Policy::Retry,
        ViolationKind::WrongAmbiguity,
    );
}

/// The API is down for ten minutes with a backlog, and nothing else happens. Calls resume within one probe
/// interval after its return, no partition moves, no limit is exceeded, and the API gets a few requests a
/// minute.
#[test]
fn calls_resume_soon_after_ten_minutes_of_outage() {
    const INTERVAL: Duration = Duration::from_secs(5);
    const TEN_MINUTES: Duration = Duration::from_secs(600);
    for seed in 0..12 {
        let mut flow_control = outage::flow_control(4, None).expect("flow control settings");
        (
            flow_control.breaker.failure_threshold,
            flow_control.breaker.probe_interval,
        ) = (10, INTERVAL);
        let simulation = check(Setup {
            flow_control: Some(flow_control),
            outage_only: Some(TEN_MINUTES),
            abandons: false,
            ..Setup::any(seed)
        });
        let stats = &simulation.outage_stats;
        println!("seed {seed}: {} steps, {stats:?}", simulation.steps);
        assert!(!stats.resumed_after.is_empty(), "no caller detected the outage");
        for after in &stats.resumed_after {
            // The next probe, and its response.
            assert!(*after < INTERVAL + Duration::from_millis(300), "{after:?}");
        }
        // Two callers: the failures that open the circuit breaker, the calls in flight, and a probe each 5 s.
        assert!(
            stats.requests <= 2 * (10 + 3 + 121),
            "{} requests",
            stats.requests
        );
        for never in ["evictions", "revocations", "rejoins", "kills", "parked"] {
            let is_park =
                never == "parked" && !matches!(simulation.setup.policies, Policies::All(Policy::Retry));
            assert!(is_park || !simulation.counts.contains_key(never), "{never}");
        }
    }
}

/// The API rejects each call for ten minutes, with a backlog, and nothing else happens. A few calls of each
/// caller become dead letters, and all others are accepted soon after the end.
#[test]
fn mass_rejection_makes_few_dead_letters() {
    const CALLERS: u64 = 2;
    for seed in 0..12 {
        let simulation = check(mass_rejection(seed));
        let (stats, counts) = (&simulation.outage_stats, &simulation.counts);
        println!("seed {seed}: {} steps, {stats:?}, {counts:?}", simulation.steps);
        let allowed = CALLERS * (outage::REJECTIONS.threshold as u64 - 1);
        let dead_letters = counts.get("dead letters of mass rejection").copied();
        assert!(dead_letters.is_some_and(|n| n <= allowed), "{dead_letters:?}");
        assert!(!stats.resumed_after.is_empty(), "no caller stopped");
        let other = simulation.checks.outcomes.values().filter(|outcomes| {
            outcomes
                .keys()
                .any(|outcome| !matches!(outcome, Outcome::Accepted | Outcome::Rejected))
        });
        assert_eq!(other.count(), 0, "neither abandoned nor parked");
        let rejected = simulation.checks.outcomes.values();
        let rejected = rejected.filter(|outcomes| outcomes.contains_key(&Outcome::Rejected));
        assert!(rejected.count() as u64 <= allowed);
    }
}

fn mass_rejection(seed: u64) -> Setup {
    let mut flow_control = outage::flow_control(4, None).expect("flow control settings");
    flow_control.breaker.rejections = outage::REJECTIONS;
    flow_control.breaker.probe_interval = Duration::from_secs(5);
    Setup {
        flow_control: Some(flow_control),
        outage_only: Some(Duration::from_secs(600)),
        outage_kind: OutageKind::RejectsAll,
        ..Setup::any(seed)
    }
}

#[test]
fn missing_limit_on_rejections_is_detected() {
    let mut setup = mass_rejection(0);
    setup.mutation = Some(Mutation::NoRejectionBreaker);
    if let Some(flow_control) = &mut setup.flow_control {
        flow_control.breaker.rejections = ShareLimit::OFF;
    }
    let violation = Simulation::new(setup).run().expect_err("dead letters");
    assert_eq!(violation.kind, ViolationKind::TooManyDeadLetters, "{violation:?}");
}

#[test]
fn circuit_breaker_without_probes_is_detected() {
    assert_detected(Mutation::NoProbes, Policy::Retry, ViolationKind::NotDrained);
    assert_detected(Mutation::NoProbes, Policy::Park, ViolationKind::NotDrained);
}

#[test]
fn missing_circuit_breaker_is_detected() {
    assert_detected(
        Mutation::NoCircuitBreaker,
        Policy::Retry,
        ViolationKind::TooManyProbes,
    );
}

#[test]
fn rejections_counted_as_failures_are_detected() {
    assert_detected(
        Mutation::RejectionsAreFailures,
        Policy::Retry,
        ViolationKind::OpenedUnnecessarily,
    );
}

/// Runs one seed. A violation fails the test, with the command that replays it.
fn check(setup: Setup) -> Simulation {
    let mut simulation = Simulation::new(setup);
    if let Err(violation) = simulation.run() {
        panic!(
            "seed {} ({setup:?}): {violation:?} at step {}; DELIVERY_SEED={} shows it again\n{}",
            setup.seed,
            simulation.steps,
            setup.seed,
            simulation.recent_trace()
        );
    }
    simulation
}
