//! Chaos: three validators on three brokers, and whatever can happen to them, for as long as one likes; then a
//! checker that believes nobody.
//!
//! `plan` draws what happens from the seed, `validators` and `brokers` do it, `load` sends orders meanwhile, some
//! of them in transactions that are aborted, `observer` looks on, `scenario` brings them together, and `report` is
//! the table at the end.

mod brokers;
mod load;
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

/// Kills, freezes and restarts validators and brokers at random, loses disks, and checks at the end that each
/// order is in the outbox exactly once. The exit status is 0 only if no guarantee was broken.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Arguments {
    /// For how long, in minutes; starting three brokers and the checks at the end come on top.
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    minutes: f64,
    /// The seed of the orders and of what happens; a fresh one is drawn and printed by default. The same seed
    /// draws the same faults, though not the same instants.
    #[arg(long)]
    seed: Option<u64>,
    /// How many validators share the work.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=16))]
    validators: u32,
    /// How many partitions the topics get.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=100))]
    partitions: i32,
    /// How many orders come in each second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(10..=20_000))]
    orders_per_second: u64,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.2..=1_440.0).contains(&minutes) => Ok(minutes),
        _ => Err("a number from 0.2 to 1440".into()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let again = format!(
        "scripts/chaos --minutes {} --seed {seed} --validators {} --partitions {} --orders-per-second {}",
        arguments.minutes, arguments.validators, arguments.partitions, arguments.orders_per_second
    );
    println!("seed {seed}; to see this story again: {again}");
    match signals::interrupt_waits().and_then(|()| scenario::tell(&arguments, seed)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) if wait::interrupted() => {
            eprintln!("stopped");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}\nto see this story again: {again}");
            ExitCode::FAILURE
        }
    }
}
