//! Demo of the whole pipeline on a real Kafka, with kills and API faults: each guarantee, and the three ambiguity
//! policies side by side.
//!
//! `setup` starts the programs and `groups` the callers of each policy, `scenario` sends orders and injects the
//! faults, `screen` shows the progress, `report` prints the result, and `try_next` what to try next.

mod groups;
mod report;
mod scenario;
mod screen;
mod setup;
mod try_next;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use harness::orders::{Mix, Orders};
use harness::process::signals;
use harness::wait;

/// Runs the whole pipeline on a real Kafka: sends orders, kills each program once with `kill -9`, lets the
/// API lose responses and go down, and checks every guarantee at the end. Three groups of callers make the same calls
/// under the policies retry, park and verify; the last table compares them. The exit status is 0 only if every
/// guarantee held.
#[derive(Debug, Parser)]
#[command(name = "demo")]
pub(crate) struct Arguments {
    /// Number of orders to send; with --input, all lines of the file are sent.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    orders: u64,
    /// Seed of the orders and of the APIs' faults: the same seed sends the same orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of partitions of each topic.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// File with your own orders to send: one JSON object per line.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Leaves everything running at the end, and prints the addresses and what to try next.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = signals::interrupt_waits().and_then(|()| {
        let (orders, count) = orders(&arguments)?;
        scenario::run(&arguments, orders, count)
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) if wait::interrupted() => {
            eprintln!("interrupted: all processes of the demo are stopped");
            // The status of a process that SIGINT ends, as shells report it.
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the orders to send, and their number.
fn orders(arguments: &Arguments) -> Result<(Orders, u64)> {
    let Some(file) = &arguments.input else {
        let mix = Mix::with_seed(arguments.seed);
        return Ok((Orders::Generated(mix), arguments.orders));
    };
    let orders = Orders::from_file(file)?;
    let count = orders.count().unwrap_or_default();
    ensure!(
        count > 0,
        "{} contains no orders: expected one JSON object per line",
        file.display()
    );
    Ok((orders, count))
}
