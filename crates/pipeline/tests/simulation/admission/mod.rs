//! Validators, a group, brokers and faults, at random: what must hold of stage one, holds in each run.
//!
//! The decision code runs unchanged: the machine, the verdicts and the steps of a restore are the program's
//! own. Around them stand a simulated Kafka (`broker`, `group`), disks that forget (`disk`), a shell that does
//! the machine's actions a little at a time (`process`, `producer`, `restoring`), a scheduler that draws each
//! next step from a seed (`world`), and a checker that knows what one correct process would have written
//! (`checker`). At the end the faults stop and everything must come to an end.
//!
//! `SEED=n cargo test -p pipeline --test simulation each_order -- --nocapture` replays one seed and tells it step
//! by step; `SEEDS=n` plays so many. `mutations` takes the guards out, each in turn.

mod broker;
mod checker;
mod disk;
mod group;
mod mutations;
mod orders;
mod process;
mod producer;
mod restoring;
mod world;

use std::collections::BTreeMap;
use std::time::Instant;

use self::checker::Violation;
use self::world::World;

#[test]
fn each_order_is_admitted_exactly_once_whatever_happens() {
    if let Ok(seed) = std::env::var("SEED") {
        match World::new(seed.parse().expect("a number"), None, true, true).play() {
            Ok(counts) => println!("{counts:#?}"),
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
        return;
    }
    let seeds = std::env::var("SEEDS").map_or(10_000, |seeds| seeds.parse().expect("a number"));
    let began = Instant::now();
    let (counts, failed) = play_all(seeds);
    println!("{seeds} seeds in {:?}: {counts:#?}", began.elapsed());
    for (seed, violation) in &failed {
        println!("SEED={seed}: {violation}");
    }
    assert!(failed.is_empty(), "{} seeds failed", failed.len());
    // A world without faults would prove nothing.
    for what in FAULTS {
        let count = counts.get(what).copied().unwrap_or_default();
        assert!(count * 100 >= seeds, "{what}: {count} in {seeds} seeds");
    }
}

/// What must have happened at least once in a hundred seeds.
const FAULTS: [&str; 16] = [
    "commits that were sent again",
    "disks lost",
    "kills",
    "members expelled",
    "memberships begun again",
    "outcomes unknown",
    "partitions lost",
    "pauses",
    "processes replaced",
    "requests after their sender's end",
    "second processes",
    "stops",
    "stores corrupted",
    "stores failed",
    "transactions committed amid faults",
    "transactions timed out",
];

type Counts = BTreeMap<&'static str, u64>;

/// Plays the seeds from 0 on, shared out to one thread for each processor.
fn play_all(seeds: u64) -> (Counts, Vec<(u64, Violation)>) {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let play_share = |thread: u64| {
        let (mut counts, mut failed) = (Counts::new(), Vec::new());
        for seed in (0..seeds).filter(|seed| seed % threads == thread) {
            match World::new(seed, None, true, false).play() {
                Ok(of_seed) => add(&mut counts, of_seed),
                Err(violation) => failed.push((seed, violation)),
            }
        }
        (counts, failed)
    };
    std::thread::scope(|scope| {
        let shares: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || play_share(thread)))
            .collect();
        let (mut counts, mut failed) = (Counts::new(), Vec::new());
        for share in shares {
            let (of_share, failed_there) = share.join().expect("a thread");
            add(&mut counts, of_share);
            failed.extend(failed_there);
        }
        (counts, failed)
    })
}

fn add(counts: &mut Counts, more: Counts) {
    for (what, count) in more {
        *counts.entry(what).or_default() += count;
    }
}
