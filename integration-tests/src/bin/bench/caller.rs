//! Measurement of one caller with a full outbox and an API of a fixed latency, next to a bare HTTP client.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::Table;
use harness::api::Api;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Mix, Orders};
use harness::pipeline::Pipeline;
use harness::read_back::tail::Tail;
use harness::wait::await_until;

use crate::resource_usage::Used;
use crate::{bare_client, resource_usage};

/// Timeout of one run.
const LIMIT: Duration = Duration::from_secs(600);

/// Options of `bench caller`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Number of pending calls in the outbox.
    #[arg(long, default_value_t = 20_000)]
    calls: u64,
    /// Number of partitions of each topic.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// Latency of the API, in milliseconds; repeat the option to measure several.
    #[arg(long, default_values_t = [0_u64, 5, 50], value_name = "MS")]
    latency_ms: Vec<u64>,
    /// Maximum number of calls in flight; repeat the option to measure several.
    #[arg(long, default_values_t = [16_u64, 64, 256], value_name = "N")]
    in_flight: Vec<u64>,
    /// Ambiguity policy of the caller (retry, park or verify); repeat the option to measure several.
    #[arg(long, default_values = ["retry"], value_name = "POLICY")]
    policy: Vec<String>,
    /// Seed of the orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Measures one caller with each combination of the options, and prints a table.
pub(crate) fn measure(arguments: &Arguments) -> Result<()> {
    println!("{}", resource_usage::describe());
    println!(
        "one caller, {} pending calls on {} partitions, seed {}, a stand-in API without faults",
        arguments.calls, arguments.partitions, arguments.seed
    );
    let mut pipeline = Pipeline::create("bench-caller", arguments.partitions)?;
    fill_outbox(&pipeline, arguments.calls, arguments.seed)?;
    let mut table = Table::new();
    table.set_header(vec![
        "API latency ms",
        "in flight",
        "policy",
        "calls/s",
        "of the bare client's calls/s",
        "CPU µs/call",
        "bare client CPU µs/call",
        "peak memory MiB",
    ]);
    for &latency_ms in &arguments.latency_ms {
        for &in_flight in &arguments.in_flight {
            // The comparison runs against the same latency and concurrency, for all policies.
            let bare = run_bare(&pipeline, arguments, latency_ms, in_flight)?;
            for policy in &arguments.policy {
                let caller = run(&mut pipeline, arguments.calls, latency_ms, in_flight, policy)?;
                table.add_row(vec![
                    latency_ms.to_string(),
                    in_flight.to_string(),
                    policy.clone(),
                    caller.per_second.to_string(),
                    format!(
                        "{:.1} % of {}",
                        100.0 * as_float(caller.per_second) / as_float(bare.per_second),
                        bare.per_second
                    ),
                    format!("{:.1}", caller.cpu_us_each),
                    format!("{:.1}", bare.cpu_us_each),
                    (caller.used.memory_peak_kib >> 10).to_string(),
                ]);
            }
        }
    }
    println!("{table}");
    pipeline.passed();
    Ok(())
}

/// Result of one run.
struct Measured {
    per_second: u64,
    cpu_us_each: f64,
    used: Used,
}

impl Measured {
    /// Computes the result from the API's own record, between the arrival of the first request and the end of
    /// the last.
    fn by(api: &Api, calls: u64, used: Used) -> Result<Self> {
        let requests = api.requests()?;
        let first_ms = requests.iter().map(|request| request.arrived_at).min();
        let last_ms = requests.iter().filter_map(|request| request.finished_at).max();
        let took_ms = last_ms.unwrap_or(0).saturating_sub(first_ms.unwrap_or(0)).max(1);
        Ok(Self {
            per_second: calls * 1000 / took_ms,
            cpu_us_each: used.cpu.as_secs_f64() * 1e6 / as_float(calls),
            used,
        })
    }
}

fn run_bare(pipeline: &Pipeline, arguments: &Arguments, latency_ms: u64, in_flight: u64) -> Result<Measured> {
    let api = Api::start(pipeline, &[format!("--latency={latency_ms}ms")])?;
    let used = bare_client::measure(&bare_client::Arguments {
        url: api.url.clone(),
        calls: arguments.calls,
        in_flight,
        seed: arguments.seed,
    })?;
    Measured::by(&api, arguments.calls, used)
}

/// Sends orders and lets a validator fill the outbox; returns when all pending calls are committed.
pub(crate) fn fill_outbox(pipeline: &Pipeline, calls: u64, seed: u64) -> Result<()> {
    Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: pipeline.partitions,
        orders: Orders::Generated(Mix::all_new(seed)),
        count: calls,
        per_second: None,
    })
    .finish()?;
    let tail = Tail::start(&pipeline.kafka, &[&pipeline.topics.pending])?;
    let mut validator = pipeline.validator(1)?;
    validator.process.start()?;
    await_until("the outbox is full", LIMIT, || {
        validator.expect_running()?;
        let keys = tail.keys(&pipeline.topics.pending);
        Ok(if keys >= calls {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{keys} of {calls} pending calls"))
        })
    })?;
    validator.process.terminate(Duration::from_secs(60))
}

fn run(
    pipeline: &mut Pipeline,
    calls: u64,
    latency_ms: u64,
    in_flight: u64,
    policy: &str,
) -> Result<Measured> {
    // A group of its own reads the outbox from its beginning.
    pipeline.caller_group = format!("{}-{latency_ms}-{in_flight}-{policy}", pipeline.caller_group);
    pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
    let api = Api::start(pipeline, &[format!("--latency={latency_ms}ms")])?;
    let settings = pipeline
        .caller_settings(1, &api.url)
        // Far above the latency, so that no call times out and is repeated.
        .with("api.timeout", "30s")
        .with("caller.on_ambiguous", policy)
        .with("caller.calls_in_flight_max", in_flight);
    let mut caller = pipeline.service("caller", 1, settings)?;
    caller.process.start()?;
    let id = caller.process.id().context("the caller does not run")?;
    await_until("the API has accepted all calls", LIMIT, || {
        caller.expect_running()?;
        // The API fails nothing here, so charges are calls.
        let charged = api.stats()?.orders_charged;
        Ok(if charged >= calls {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{charged} of {calls}"))
        })
    })?;
    // Before the drain: `/proc` has nothing of a process that has exited.
    let used = resource_usage::used(id)?;
    caller.process.terminate(Duration::from_secs(60))?;
    Measured::by(&api, calls, used)
}

/// Converts a count for ratios.
// A count of calls is far below 2^53, where an f64 loses digits.
#[allow(clippy::cast_precision_loss)]
fn as_float(count: u64) -> f64 {
    count as f64
}
