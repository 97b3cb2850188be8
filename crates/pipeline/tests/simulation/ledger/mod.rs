//! Simulation of the operator: two operators plan and run replays, while callers make the calls, and all of them
//! crash; the guarantees hold in each run.
//!
//! The decision code is the program's own: the ledger, the plan, and what comes next in a replay. Around it are a
//! simulated outbox with its terminal records and call notes (`world`), callers (`callers`) and operators
//! (`operators`) that act one step at a time, and a scheduler that draws each step from a seed. At the end nobody
//! crashes any more, and each call must become final.
//!
//! Must hold, whatever crashes: a call that was accepted, or that a caller may still make, is appended again only if a
//! person asked for it by name, and so is one that a dead letter ever called ambiguous, that was parked, or that repeats
//! an accepted one; a record is appended again at most once; nothing is lost; and under `park` an order is charged at most once more than a person asked for. Also if
//! terminal records have left their topics: a call of unknown outcome is made again if the provider has not charged its
//! order, and no request of it is left.
//!
//! `SEED=n cargo test -p pipeline --test simulation each_replayed -- --nocapture` runs one seed; `SEEDS=n` sets the
//! number of seeds.

mod callers;
mod operators;
mod world;

use std::collections::BTreeMap;
use std::time::Instant;

use self::world::World;

/// Guard that is removed.
// That the notes are read before the terminal records cannot be missed by a replay: a call that its plan has was noted
// as final before, and stays so. It matters to `parked settle` and to whoever reads the topics once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// The call notes are not asked whether a call is final.
    NotesIgnored,
    /// A run is not fenced by a later one.
    NoFence,
    /// A run does not look at the states again.
    StatesIgnored,
    /// The states are read before earlier runs are fenced.
    FencedLate,
    /// Calls of unknown outcome are made again while an earlier request may be processed.
    QuiescenceIgnored,
    /// The copy of a call that may have been processed does not say so.
    AmbiguityForgotten,
    /// Parked records are not read.
    ParkedIgnored,
    /// The repeat of an accepted call counts as any call.
    RepeatsForgotten,
}

const SEEDS: u64 = 10_000;

#[test]
fn each_replayed_call_is_charged_once() {
    if let Ok(seed) = std::env::var("SEED") {
        let seed = seed.parse().expect("a number");
        match World::new(seed, None).run() {
            Ok(counts) => println!("{counts:#?}"),
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
        return;
    }
    let seeds = std::env::var("SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number"));
    let (began, mut counts) = (Instant::now(), BTreeMap::<_, u64>::new());
    for seed in 0..seeds {
        match World::new(seed, None).run() {
            Ok(of_seed) => {
                for (what, count) in of_seed {
                    *counts.entry(what).or_default() += count;
                }
            }
            Err(violation) => panic!("SEED={seed}: {violation}"),
        }
    }
    println!("{seeds} seeds in {:?}: {counts:#?}", began.elapsed());
    // A simulation without them proves nothing.
    for what in [
        "callers crashed",
        "calls appended",
        "calls appended by name",
        "calls of unknown outcome appended",
        "calls left out",
        "calls parked",
        "operators crashed",
        "operators fenced",
        "parked calls sent again",
        "outcomes expired",
        "rejected after a lost response",
        "responses lost",
        "settled",
    ] {
        let count = counts.get(what).copied().unwrap_or_default();
        assert!(count * 20 >= seeds, "{what}: {count} in {seeds} seeds");
    }
}

#[test]
fn removed_guards_are_noticed() {
    for (mutation, words) in [
        (Mutation::NotesIgnored, "a caller may still make"),
        (Mutation::NoFence, "appended twice"),
        (Mutation::StatesIgnored, "appended twice"),
        (Mutation::FencedLate, "appended twice"),
        (Mutation::QuiescenceIgnored, "and 1 were allowed"),
        (Mutation::AmbiguityForgotten, "may have been processed"),
        (Mutation::ParkedIgnored, "may have been processed"),
        (Mutation::RepeatsForgotten, "may have been processed"),
    ] {
        let found = (0..SEEDS).find_map(|seed| {
            let violation = World::new(seed, Some(mutation)).run().err()?;
            violation.contains(words).then_some((seed, violation))
        });
        let (seed, violation) = found.unwrap_or_else(|| panic!("{mutation:?} was not noticed"));
        println!("{mutation:?}: seed {seed}: {violation}");
    }
}
