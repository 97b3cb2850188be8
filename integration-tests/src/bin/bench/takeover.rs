//! Measurement of takeovers: how long orders wait after `kill -9` of one of two validators, each with standby stores of
//! the partitions of the other.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Result;
use comfy_table::Table;
use harness::pipeline::{Pipeline, SESSION_TIMEOUT, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::wait::{await_until, pause};
use serde::Serialize;

use crate::figures::Range;
use crate::resource_usage;
use crate::restart::{LIMIT, Outbox, RUN_TIME, feed_on, fill, milliseconds};

/// Options of `bench takeover`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Number of keys in the stores of both validators together.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Number of partitions of each topic.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(2..=1_000))]
    partitions: i32,
    /// Number of kills, of one validator and the other in turns.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// Orders sent per second during the measurement.
    #[arg(long, default_value_t = 500)]
    per_second: u64,
    /// Seed of the orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// All figures, with what they were measured on.
#[derive(Debug, Serialize)]
struct Report {
    machine: String,
    keys: u64,
    partitions: i32,
    per_second: u64,
    runs: u32,
    seed: u64,
    session_timeout_ms: u128,
    /// From the kill until each partition has a pending call again, the session timeout included.
    each_partition_ms: Range,
}

/// Measures takeovers, and prints a table or JSON.
pub(crate) fn measure(arguments: &Arguments) -> Result<()> {
    let mut pipeline = Pipeline::create("bench-takeover", arguments.partitions)?;
    let with_standby = |number| {
        let settings = pipeline.validator_settings(number).with("store.standby", "all");
        pipeline.service("validator", number, settings)
    };
    let (mut lost, mut survivor) = (with_standby(1)?, with_standby(2)?);
    fill(&pipeline, &mut lost, arguments.keys, arguments.seed)?;
    let feeding = feed_on(&pipeline, arguments.seed, arguments.per_second);
    survivor.process.start()?;
    let mut took = Vec::new();
    for _ in 0..arguments.runs {
        for service in [&mut lost, &mut survivor] {
            await_standby(service, arguments)?;
        }
        pause(RUN_TIME)?;
        lost.process.kill()?;
        let outbox = Outbox::from_end(&pipeline)?;
        let killed = Instant::now();
        outbox.await_calls(0..pipeline.partitions, &mut survivor)?;
        took.push(killed.elapsed());
        lost.process.start()?;
        std::mem::swap(&mut lost, &mut survivor);
    }
    // Not checked: the last orders may be without a verdict, and nothing depends on them.
    feeding.stop()?;
    let report = Report {
        machine: resource_usage::describe(),
        keys: arguments.keys,
        partitions: arguments.partitions,
        per_second: arguments.per_second,
        runs: arguments.runs,
        seed: arguments.seed,
        session_timeout_ms: SESSION_TIMEOUT.as_millis(),
        each_partition_ms: milliseconds(&took),
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    pipeline.passed();
    Ok(())
}

/// Waits until a validator owns half of the partitions, and its standby stores are about as new as those of the other half.
fn await_standby(service: &mut Service, arguments: &Arguments) -> Result<()> {
    await_ready(service, LIMIT)?;
    let half = u64::try_from(arguments.partitions / 2)?;
    await_until(
        "standby stores of the other half of the partitions",
        LIMIT,
        || {
            service.expect_running()?;
            pause(Duration::from_millis(200))?;
            let stores = service.metric("outbox_standby_stores")?;
            let lag = service.metric("outbox_standby_lag_records")?;
            Ok(if stores >= half && lag <= 2 * arguments.per_second {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(format!("{stores} standby stores, {lag} records behind"))
            })
        },
    )
}

impl Report {
    fn print(&self) {
        println!("{}", self.machine);
        println!(
            "two validators with standby stores, {} keys on {} partitions, {} orders per second, {} kills, seed {}, \
             session timeout {} ms",
            self.keys, self.partitions, self.per_second, self.runs, self.seed, self.session_timeout_ms
        );
        let mut table = Table::new();
        table.set_header(vec![
            "minimum / median / maximum ms from kill -9 of the other until each partition has a pending call",
        ]);
        table.add_row(vec![self.each_partition_ms.show(0)]);
        println!("{table}");
    }
}
