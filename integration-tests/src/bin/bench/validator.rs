//! Measurement of one validator with a full orders topic.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Mix, Orders};
use harness::pipeline::Pipeline;
use harness::read_back::tail::Tail;
use harness::wait::await_until;

use crate::resource_usage;

/// Timeout of each wait.
const LIMIT: Duration = Duration::from_secs(600);

/// Options of `bench validator`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Number of orders on the topic, about 264 bytes each, without duplicates.
    #[arg(long, default_value_t = 200_000)]
    orders: u64,
    /// Number of partitions of each topic.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// Commit interval of the validator; repeat the option to measure several.
    #[arg(long, default_values = ["20ms"], value_name = "DURATION")]
    commit_interval: Vec<String>,
    /// Number of runs before the measurement: a broker that has just started compiles its own code, and would
    /// be measured with the validator.
    #[arg(long, default_value_t = 5)]
    warm_ups: u32,
    /// Seed of the orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Measures one validator with each commit interval, and prints a table.
pub(crate) fn measure(arguments: &Arguments) -> Result<()> {
    println!("{}", resource_usage::describe());
    println!(
        "one validator, {} orders of about 264 bytes on {} partitions, seed {}",
        arguments.orders, arguments.partitions, arguments.seed
    );
    if let Some(interval) = arguments.commit_interval.first() {
        for _ in 0..arguments.warm_ups {
            let _unmeasured = run(arguments, interval)?;
        }
    }
    let mut table = Table::new();
    table.set_header(vec![
        "commit interval",
        "orders/s, first to last order",
        "orders/s, from the start",
        "CPU µs/order",
        "peak memory MiB",
    ]);
    for interval in &arguments.commit_interval {
        table.add_row(run(arguments, interval)?);
    }
    println!("{table}");
    Ok(())
}

fn run(arguments: &Arguments, interval: &str) -> Result<Vec<String>> {
    // Topics and stores of its own, so that no run finds the keys of another.
    let mut pipeline = Pipeline::create("bench-validator", arguments.partitions)?;
    let sent = Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: arguments.partitions,
        orders: Orders::Generated(Mix::all_new(arguments.seed)),
        count: arguments.orders,
        per_second: None,
    })
    .finish()?;
    let settings = pipeline
        .validator_settings(1)
        .with("validator.commit_interval", interval);
    let mut validator = pipeline.service("validator", 1, settings)?;
    let started = Instant::now();
    validator.process.start()?;
    let id = validator.process.id().context("the validator does not run")?;
    // The lag is polled, and the outbox not read meanwhile: on few cores a reader would be measured too.
    await_until("each order has its verdict", LIMIT, || {
        validator.expect_running()?;
        let lag = harness::cluster::lag(
            &pipeline.kafka,
            &pipeline.validator_group,
            &pipeline.topics.orders,
        )?;
        // Rarely, because each question takes CPU time from the validator.
        harness::wait::pause(Duration::from_millis(200))?;
        Ok(match lag {
            0 => ControlFlow::Break(()),
            lag => ControlFlow::Continue(format!("{lag} orders have none")),
        })
    })?;
    // Before the shutdown: `/proc` has nothing of a process that has exited.
    let used = resource_usage::used(id)?;
    validator.process.terminate(Duration::from_secs(60))?;
    let (first_ms, last_ms) = outbox_times(&pipeline, sent)?;
    // The timestamps of the records are wall-clock times, and the start was taken from the monotonic clock.
    let started_ms = records::Timestamp::now().0 - i64::try_from(started.elapsed().as_millis())?;
    pipeline.passed();
    Ok(vec![
        interval.to_owned(),
        per_second(sent, last_ms - first_ms),
        per_second(sent, last_ms - started_ms),
        format!("{:.1}", used.cpu.as_secs_f64() * 1e6 / as_float(sent)),
        format!("{}", used.memory_peak_kib >> 10),
    ])
}

/// Returns the producer timestamps of the first and the last pending call, in ms; fails unless all are there.
fn outbox_times(pipeline: &Pipeline, sent: u64) -> Result<(i64, i64)> {
    let topic = &pipeline.topics.pending;
    let tail = Tail::start(&pipeline.kafka, &[topic])?;
    await_until("the outbox is read to its end", LIMIT, || {
        let keys = tail.keys(topic);
        Ok(if keys >= sent {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{keys} of {sent} pending calls"))
        })
    })?;
    ensure!(
        tail.records(topic) == sent,
        "the outbox has {} records for {sent} orders",
        tail.records(topic)
    );
    tail.times_ms(topic).context("the outbox is empty")
}

/// Returns the rate of this count over a time in ms.
fn per_second(count: u64, ms: i64) -> String {
    let ms = u64::try_from(ms).unwrap_or(0).max(1);
    format!("{}", count * 1000 / ms)
}

/// Converts a count for ratios.
// A count of orders is far below 2^53, where an f64 loses digits.
#[allow(clippy::cast_precision_loss)]
fn as_float(count: u64) -> f64 {
    count as f64
}
