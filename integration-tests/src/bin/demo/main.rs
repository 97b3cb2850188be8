//! The demo: the whole pipeline on a real Kafka, with kills and faults, and a table that says whether each
//! guarantee was held.
//!
//! `scenario` is what happens, `screen` what is seen of it meanwhile, `report` the table at the end.

mod report;
mod scenario;
mod screen;
mod setup;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use harness::orders::{Mix, Orders};
use harness::process::signals;
use harness::wait;

/// Sends orders through the pipeline, kills its programs on the way, and checks every guarantee at the end.
#[derive(Debug, Parser)]
#[command(name = "demo")]
pub(crate) struct Arguments {
    /// How many orders to send; with --input, all lines of the file.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    orders: u64,
    /// The seed of the orders and of the API's faults: the same seed sends the same orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many partitions the topics get.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// Sends your own orders: a file with one JSON object in each line.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Leaves everything running at the end, and prints where it is and what to try next.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let told = signals::interrupt_waits().and_then(|()| {
        let (orders, count) = orders(&arguments)?;
        scenario::tell(&arguments, orders, count)
    });
    match told {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) if wait::interrupted() => {
            eprintln!("stopped");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn orders(arguments: &Arguments) -> Result<(Orders, u64)> {
    let Some(file) = &arguments.input else {
        let mix = Mix::with_seed(arguments.seed);
        return Ok((Orders::Generated(mix), arguments.orders));
    };
    let orders = Orders::from_file(file)?;
    let count = orders.count().unwrap_or_default();
    ensure!(count > 0, "{} holds no order", file.display());
    Ok((orders, count))
}
