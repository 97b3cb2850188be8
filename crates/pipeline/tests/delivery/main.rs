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
//! `DELIVERY_SEED=n cargo test -p pipeline --test delivery` replays one seed.

#![allow(clippy::disallowed_methods, reason = "a test begins somewhere in time")]

mod api;
mod caller;
mod checks;
mod group;
mod transactions;
mod world;

use std::collections::BTreeMap;

use pipeline::delivery::Policy;

use checks::Broken;
use world::{Mutation, Policies, Setup, World};

/// Every seed brings another world; a quarter of them each has one policy, and a quarter has all.
const SEEDS: u64 = 10_000;

/// What each of the worlds together must have seen, or they would prove nothing.
const SEEN: [&str; 17] = [
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
    for seed in 0..4_000 {
        let setup = Setup {
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
