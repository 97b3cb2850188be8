//! Simulation of stage one: random validators, group, brokers and faults; the guarantees hold in each run.
//!
//! The decision code is the program's own: the state machine, the verdicts and the steps of a restore. Around
//! it are a simulated Kafka (`broker`, `group`), disks that lose data (`disk`), a shell that performs actions one
//! at a time (`process`, `producer`, `restore_job`), a scheduler that draws each step from a seed (`simulation`),
//! and a checker that knows what one correct process would have written (`checker`). At the end the faults stop,
//! and all orders must be processed.
//!
//! `SEED=n cargo test -p pipeline --test simulation each_order -- --nocapture` replays one seed with a trace;
//! `SEEDS=n` sets the number of seeds. `mutations` removes one guard at a time, and expects a violation.

mod broker;
mod checker;
mod disk;
mod group;
mod mutations;
mod orders;
mod process;
mod producer;
mod restore_job;
mod simulation;

use std::collections::BTreeMap;
use std::time::Instant;

use self::checker::Violation;
use self::simulation::Simulation;

#[test]
fn each_order_is_admitted_exactly_once() {
    if let Ok(seed) = std::env::var("SEED") {
        match Simulation::new(seed.parse().expect("a number"), None, true, true).run() {
            Ok(counts) => println!("{counts:#?}"),
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
        return;
    }
    let seeds = std::env::var("SEEDS").map_or(10_000, |seeds| seeds.parse().expect("a number"));
    let began = Instant::now();
    let (counts, failed) = run_all(seeds);
    println!("{seeds} seeds in {:?}: {counts:#?}", began.elapsed());
    for (seed, violation) in &failed {
        println!("SEED={seed}: {violation}");
    }
    assert!(failed.is_empty(), "{} seeds failed", failed.len());
    // A simulation without faults proves nothing.
    for what in FAULTS {
        let count = counts.get(what).copied().unwrap_or_default();
        assert!(count * 100 >= seeds, "{what}: {count} in {seeds} seeds");
    }
}

/// Events that must occur once in a hundred seeds on average.
const FAULTS: [&str; 19] = [
    "changelogs cut",
    "commits with a resent EndTxn",
    "disks lost",
    "keys forgotten",
    "kills",
    "members evicted",
    "rejoins",
    "unknown outcomes",
    "partitions lost",
    "pauses",
    "pauses for refusals",
    "processes fenced",
    "requests of producers that are gone",
    "second processes",
    "stops",
    "stores corrupted",
    "stores failed",
    "transactions committed during faults",
    "transactions timed out",
];

type Counts = BTreeMap<&'static str, u64>;

/// Runs the seeds from 0 on, shared among one thread for each processor.
fn run_all(seeds: u64) -> (Counts, Vec<(u64, Violation)>) {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let run_share = |thread: u64| {
        let (mut counts, mut failed) = (Counts::new(), Vec::new());
        for seed in (0..seeds).filter(|seed| seed % threads == thread) {
            match Simulation::new(seed, None, true, false).run() {
                Ok(of_seed) => add(&mut counts, of_seed),
                Err(violation) => failed.push((seed, violation)),
            }
        }
        (counts, failed)
    };
    std::thread::scope(|scope| {
        let shares: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || run_share(thread)))
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
