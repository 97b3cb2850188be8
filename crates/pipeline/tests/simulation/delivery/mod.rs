//! Callers, a group, an API and faults, at random: what must hold of stage two, holds in each run.
//!
//! A world stands around real [`Delivery`](pipeline::delivery::Delivery)s: a log with the gaps of transaction
//! markers, a group that moves partitions, fences commits by membership and expels who is silent, an API that
//! counts what it processes while answers are lost and requests outlive their senders, and a scheduler that
//! draws the next step from a seed. At the end the faults stop and everything must finish.
//!
//! The mutations take one rule of the protocol away, each by what the world does to the delivery, and expect
//! that this is found out: a check that cannot fail proves nothing.
//!
//! `DELIVERY_SEED=n cargo test -p pipeline --test simulation delivery` replays one seed.

mod api;
mod caller;
mod checks;
mod group;
mod outage;
mod transactions;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use pipeline::delivery::Policy;

use self::checks::Broken;
use self::world::{Mutation, Policies, Setup, World};

/// Every seed brings another world; a quarter of them each has one policy, and a quarter has all.
const SEEDS: u64 = 10_000;

/// What each of the worlds together must have seen, or they would prove nothing.
const SEEN: [&str; 20] = [
    "kills",
    "pauses",
    "expelled",
    "revokes",
    "stops",
    "rejoins",
    "late landings",
    "late commits",
    "withheld",
    "parked",
    "look-ups",
    "found",
    "deferrals",
    "continued",
    "unknown deferrals",
    "late deferrals",
    "given up",
    "outages",
    "openings",
    "probes",
];

#[test]
fn each_call_ends_whatever_happens_and_nothing_is_broken_on_the_way() {
    if let Ok(seed) = std::env::var("DELIVERY_SEED") {
        let seed = seed.parse().expect("a number");
        let world = check(Setup::any(seed));
        println!("seed {seed}: {} steps, {:?}", world.steps, world.counts);
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
        for (what, count) in half.join().expect("no seed broke a promise") {
            *counts.entry(what).or_default() += count;
        }
    }
    println!("{counts:?}");
    for what in SEEN {
        let count = counts.get(what).copied().unwrap_or_default();
        assert!(count > 500, "{what}: {count}");
    }
}

/// Story: partitions move and callers are replaced, but nobody is killed and no commit fails. Then nothing
/// is ambiguous but what the API's own answers make so.
#[test]
fn moves_and_rolling_restarts_make_nothing_ambiguous() {
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

/// Plays worlds until one breaks this promise. What else breaks on the way is passed over.
fn found_out(mutation: Mutation, policy: Policy, expected: Broken) {
    for seed in 0..10_000 {
        let setup = Setup {
            pace: outage::pace(seed, Some(mutation)),
            policies: Policies::All(policy),
            mutation: Some(mutation),
            looks_for: Some(expected),
            ..Setup::any(seed)
        };
        if let Err(violation) = World::new(setup).run() {
            println!("{mutation:?} under {policy:?}: seed {seed}, {violation:?}");
            return;
        }
    }
    panic!("{mutation:?} under {policy:?} did not break {expected:?}");
}

#[test]
fn without_noted_beginnings_a_move_calls_twice() {
    found_out(Mutation::NoBeginnings, Policy::Park, Broken::ProcessedTwice);
    found_out(Mutation::NoBeginnings, Policy::Verify, Broken::ProcessedTwice);
}

#[test]
fn a_call_sent_before_its_beginning_is_acknowledged_is_made_twice() {
    found_out(Mutation::NotAwaited, Policy::Park, Broken::ProcessedTwice);
    found_out(Mutation::NotAwaited, Policy::Verify, Broken::ProcessedTwice);
}

#[test]
fn going_on_after_an_unknown_commit_calls_twice() {
    found_out(Mutation::UnknownCarriesOn, Policy::Park, Broken::ProcessedTwice);
    found_out(Mutation::UnknownCarriesOn, Policy::Park, Broken::WatermarkBack);
}

#[test]
fn a_parked_record_that_was_not_acknowledged_is_lost() {
    found_out(
        Mutation::ParkedNotAcknowledged,
        Policy::Park,
        Broken::FinalWithoutEnd,
    );
}

#[test]
fn a_commit_for_a_revoked_partition_overwrites_what_its_new_owner_noted() {
    found_out(Mutation::RevokedCommits, Policy::Park, Broken::ProcessedTwice);
    found_out(Mutation::RevokedCommits, Policy::Park, Broken::WatermarkBack);
}

#[test]
fn without_the_ownership_deadline_a_call_is_sent_after_it_was_settled() {
    found_out(Mutation::NoDeadline, Policy::Park, Broken::SentAfterParked);
    found_out(Mutation::NoDeadline, Policy::Verify, Broken::ProcessedTwice);
}

#[test]
fn a_look_up_before_everything_has_settled_calls_twice() {
    found_out(Mutation::LooksUpAtOnce, Policy::Verify, Broken::ProcessedTwice);
}

#[test]
fn without_the_map_of_finals_a_final_call_is_made_again() {
    found_out(Mutation::NoFinals, Policy::Retry, Broken::CalledAfterFinal);
}

#[test]
fn a_copy_written_apart_from_its_note_is_called_beside_its_original() {
    found_out(Mutation::CopyAlone, Policy::Park, Broken::ProcessedTwice);
    found_out(Mutation::CopyAlone, Policy::Verify, Broken::ProcessedTwice);
}

#[test]
fn a_note_committed_before_its_copy_loses_the_call() {
    found_out(Mutation::NoteAlone, Policy::Park, Broken::FinalWithoutEnd);
}

#[test]
fn a_commit_beside_a_deferral_opens_the_call_again_beside_its_copy() {
    found_out(Mutation::CommitMeanwhile, Policy::Park, Broken::ProcessedTwice);
    found_out(Mutation::CommitMeanwhile, Policy::Retry, Broken::CalledAfterFinal);
}

#[test]
fn going_on_after_an_unknown_deferral_calls_twice() {
    found_out(
        Mutation::UnknownDeferralCarriesOn,
        Policy::Park,
        Broken::ProcessedTwice,
    );
}

#[test]
fn notes_read_while_a_deferral_is_undecided_call_twice() {
    found_out(Mutation::UnstableNotes, Policy::Park, Broken::ProcessedTwice);
}

#[test]
fn a_copy_that_forgets_a_doubt_is_processed_twice() {
    found_out(Mutation::DoubtForgotten, Policy::Verify, Broken::ProcessedTwice);
}

/// Story: the API is down for ten minutes, with a backlog, and nothing else happens. Calls go on within one probe interval
/// of its return, no partition moves, no more is held than ever, and the API is asked a few times a minute.
#[test]
fn ten_minutes_without_the_api_lose_nothing_and_end_within_one_probe_interval() {
    const INTERVAL: Duration = Duration::from_secs(5);
    const TEN_MINUTES: Duration = Duration::from_secs(600);
    for seed in 0..12 {
        let mut pace = outage::pace(4, None).expect("a pace");
        (pace.breaker.failure_threshold, pace.breaker.probe_interval) = (10, INTERVAL);
        let world = check(Setup {
            pace: Some(pace),
            outage_only: Some(TEN_MINUTES),
            gives_up: false,
            ..Setup::any(seed)
        });
        let seen = &world.seen;
        println!("seed {seed}: {} steps, {seen:?}", world.steps);
        assert!(!seen.over_after.is_empty(), "nobody noticed");
        for after in &seen.over_after {
            // One that begins, and its answer.
            assert!(*after < INTERVAL + Duration::from_millis(300), "{after:?}");
        }
        // Two callers: the failures that it takes to see it, those under way, and a probe each 5 s.
        assert!(seen.requests <= 2 * (10 + 3 + 121), "{} requests", seen.requests);
        for never in ["expelled", "revokes", "rejoins", "kills", "parked"] {
            let is_park = never == "parked" && !matches!(world.setup.policies, Policies::All(Policy::Retry));
            assert!(is_park || !world.counts.contains_key(never), "{never}");
        }
    }
}

#[test]
fn a_breaker_that_never_probes_leaves_calls_waiting_for_ever() {
    found_out(Mutation::NeverProbes, Policy::Retry, Broken::Stuck);
    found_out(Mutation::NeverProbes, Policy::Park, Broken::Stuck);
}

#[test]
fn without_a_breaker_an_api_that_is_down_is_hammered() {
    found_out(Mutation::NoBreaker, Policy::Retry, Broken::Hammered);
}

#[test]
fn a_breaker_that_counts_rejected_orders_opens_without_need() {
    found_out(
        Mutation::CountsRejections,
        Policy::Retry,
        Broken::OpenedWithoutNeed,
    );
}

/// One world; a broken promise ends the test, with how to see it again.
fn check(setup: Setup) -> World {
    let mut world = World::new(setup);
    if let Err(violation) = world.run() {
        panic!(
            "seed {} ({setup:?}): {violation:?} at step {}; DELIVERY_SEED={} shows it again\n{}",
            setup.seed,
            world.steps,
            setup.seed,
            world.story()
        );
    }
    world
}
