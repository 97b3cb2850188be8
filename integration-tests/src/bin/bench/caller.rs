//! One caller against a full outbox and an API of a known latency, and the bare client's loop beside it.

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

const LIMIT: Duration = Duration::from_secs(600);

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many pending calls lie ready.
    #[arg(long, default_value_t = 20_000)]
    calls: u64,
    /// Over how many partitions.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// What the API takes for an answer, in milliseconds; repeat it to measure several.
    #[arg(long, default_values_t = [0_u64, 5, 50], value_name = "MS")]
    latency_ms: Vec<u64>,
    /// How many calls may be in flight; repeat it to measure several.
    #[arg(long, default_values_t = [16_u64, 64, 256], value_name = "N")]
    in_flight: Vec<u64>,
    /// What the caller does with ambiguous answers; repeat it to measure several.
    #[arg(long, default_values = ["retry"], value_name = "POLICY")]
    policy: Vec<String>,
    /// The seed of the orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Measures and prints.
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
        "calls/s, first to last",
        "of the bare loop's",
        "CPU µs/call",
        "bare µs/call",
        "peak memory MiB",
    ]);
    for &latency_ms in &arguments.latency_ms {
        for &in_flight in &arguments.in_flight {
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

/// What one run came to.
struct Measured {
    per_second: u64,
    cpu_us_each: f64,
    used: Used,
}

impl Measured {
    /// By the API's own record, from the first request's arrival to the last one's end.
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

/// A validator fills the outbox once; each run reads it with a group of its own.
pub(crate) fn fill_outbox(pipeline: &Pipeline, calls: u64, seed: u64) -> Result<()> {
    Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: pipeline.partitions,
        orders: Orders::Generated(Mix::all_fresh(seed)),
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
            ControlFlow::Continue(format!("{keys} pending calls"))
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
    pipeline.caller_group = format!("{}-{latency_ms}-{in_flight}-{policy}", pipeline.caller_group);
    let api = Api::start(pipeline, &[format!("--latency={latency_ms}ms")])?;
    let settings = pipeline
        .caller_settings(1, &api.url)
        .with("api.timeout", "30s")
        .with("caller.on_ambiguous", policy)
        .with("caller.calls_in_flight_max", in_flight);
    let mut caller = pipeline.service("caller", 1, settings)?;
    caller.process.start()?;
    let id = caller.process.id().context("the caller runs")?;
    await_until("all calls are answered", LIMIT, || {
        caller.expect_running()?;
        let charged = api.stats()?.orders_charged;
        Ok(if charged >= calls {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{charged} of {calls}"))
        })
    })?;
    let used = resource_usage::used(id)?;
    caller.process.terminate(Duration::from_secs(60))?;
    Measured::by(&api, calls, used)
}

/// For ratios; a count of calls is far below where an f64 loses digits.
#[allow(clippy::cast_precision_loss)]
fn as_float(count: u64) -> f64 {
    count as f64
}
