//! Chaos: validators and callers on three brokers, random faults for as long as wanted, and a check of every
//! record and every charge at the end.
//!
//! `plan` draws the faults from the seed. `validators`, `callers` and `brokers` inject those of one process,
//! with `instance` for what validators and callers share, and `mishaps` those of all validators together.
//! `aborted_orders` sends orders that must never be processed, `observer` reads along, `tally` counts,
//! `scenario` runs it all, and `report` prints the tables at the end.

mod aborted_orders;
mod brokers;
mod callers;
mod instance;
mod mishaps;
mod observer;
mod plan;
mod report;
mod scenario;
mod tally;
mod validators;

use std::process::ExitCode;

use clap::Parser;
use harness::process::signals;
use harness::wait;

/// Kills, freezes and restarts validators, callers and brokers at random, deletes and damages stores, loses
/// groups and the end of the changelog, and checks at the end that each order is in the outbox exactly once
/// and is charged at most once. The exit status is 0 only if every guarantee held.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Arguments {
    /// Duration of the faults, in minutes; the start of three brokers and the checks at the end come on top.
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    minutes: f64,
    /// Seed of the orders and of the faults; by default a new one is drawn and printed. The same seed draws
    /// the same faults, but their timing differs.
    #[arg(long)]
    seed: Option<u64>,
    /// Number of validators, which share the partitions.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=16))]
    validators: u32,
    /// Number of callers, which share the outbox.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    callers: u32,
    /// Number of partitions of each topic.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=100))]
    partitions: i32,
    /// Orders sent per second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(10..=20_000))]
    orders_per_second: u64,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.2..=1_440.0).contains(&minutes) => Ok(minutes),
        _ => Err("expected a number from 0.2 to 1440".into()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let again = format!(
        "scripts/chaos --minutes {} --seed {seed} --validators {} --callers {} --partitions {} --orders-per-second {}",
        arguments.minutes,
        arguments.validators,
        arguments.callers,
        arguments.partitions,
        arguments.orders_per_second
    );
    println!("seed {seed}; to repeat this run: {again}");
    match signals::interrupt_waits().and_then(|()| scenario::run(&arguments, seed)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) if wait::interrupted() => {
            eprintln!("interrupted: all processes of the run are stopped");
            // The status of a process that SIGINT ends, as shells report it.
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}\nto repeat this run: {again}");
            ExitCode::FAILURE
        }
    }
}
