//! Measurement of `kill -9` of a caller: requests that are repeated, and the time until its next request.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use comfy_table::Table;
use harness::api::Api;
use harness::pipeline::Pipeline;
use harness::wait::{await_until, pause};

use crate::{caller, resource_usage};

/// Timeout of each wait.
const LIMIT: Duration = Duration::from_secs(60);
/// Time from the caller's start to its kill.
const KILL_AFTER: Duration = Duration::from_secs(6);
/// Time after which every request that the killed caller has sent is on the API's record.
const API_RECORDED: Duration = Duration::from_millis(500);
/// Number of requests after the restart within which all calls of the killed caller have been repeated.
const REQUESTS_AFTER: u64 = 5_000;

/// Options of `bench killed`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Number of pending calls in the outbox.
    #[arg(long, default_value_t = 100_000)]
    calls: u64,
    /// Number of partitions of each topic.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// Latency of the API, in milliseconds.
    #[arg(long, default_value_t = 5, value_name = "MS")]
    latency_ms: u64,
    /// Maximum number of calls in flight.
    #[arg(long, default_value_t = 64, value_name = "N")]
    in_flight: u64,
    /// Number of kills for each row of the table.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// Seed of the orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Kills a caller under each policy and membership, and prints a table.
pub(crate) fn measure(arguments: &Arguments) -> Result<()> {
    println!("{}", resource_usage::describe());
    println!(
        "one caller with {} calls in flight, API latency {} ms, killed {} s after its start and restarted, \
         {} runs per row, seed {}",
        arguments.in_flight,
        arguments.latency_ms,
        KILL_AFTER.as_secs(),
        arguments.runs,
        arguments.seed
    );
    let mut pipeline = Pipeline::create("bench-killed", arguments.partitions)?;
    caller::fill_outbox(&pipeline, arguments.calls, arguments.seed)?;
    let mut table = Table::new();
    table.set_header(vec![
        "policy",
        "membership",
        "requests before the kill",
        "repeated: median",
        "repeated: maximum",
        "next request after: median",
        "next request after: maximum",
    ]);
    for policy in ["retry", "park"] {
        for membership in ["static", "dynamic"] {
            let mut runs = (0..arguments.runs)
                .map(|run| kill(&mut pipeline, arguments, policy, membership, run))
                .collect::<Result<Vec<_>>>()?;
            // Sorted once for each column: median and maximum of one need not come from the same runs.
            let middle = runs.len() / 2;
            runs.sort_by_key(|run| run.next_call);
            let next_call = [runs[middle].next_call, runs[runs.len() - 1].next_call];
            runs.sort_by_key(|run| run.before);
            let before = runs[middle].before;
            runs.sort_by_key(|run| run.repeated);
            let repeated = [runs[middle].repeated, runs[runs.len() - 1].repeated];
            table.add_row(vec![
                policy.to_owned(),
                membership.to_owned(),
                before.to_string(),
                repeated[0].to_string(),
                repeated[1].to_string(),
                format!("{} ms", next_call[0].as_millis()),
                format!("{} ms", next_call[1].as_millis()),
            ]);
        }
    }
    println!("{table}");
    pipeline.passed();
    Ok(())
}

/// Result of one kill.
struct Run {
    /// Requests that the API received before the kill.
    before: u64,
    /// Requests that were repeated after the restart.
    repeated: u64,
    /// Time from the caller's restart to its first request.
    next_call: Duration,
}

fn kill(
    pipeline: &mut Pipeline,
    arguments: &Arguments,
    policy: &str,
    membership: &str,
    run: u32,
) -> Result<Run> {
    // A group of its own, so that each run starts at the beginning of the outbox.
    let group = pipeline.caller_group.clone();
    pipeline.caller_group = format!("{group}-{policy}-{membership}-{run}");
    pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
    let api = Api::start(pipeline, &[format!("--latency={}ms", arguments.latency_ms)])?;
    let settings = pipeline
        .caller_settings(1, &api.url)
        .with("api.timeout", "30s")
        .with("caller.on_ambiguous", policy)
        .with("caller.membership", membership)
        .with("caller.calls_in_flight_max", arguments.in_flight);
    let mut caller = pipeline.service("caller", 1, settings)?;
    // The settings are written; the next run builds its name from the same stem.
    pipeline.caller_group = group;

    caller.process.start()?;
    pause(KILL_AFTER)?;
    caller.process.kill()?;
    pause(API_RECORDED)?;
    let before = api.stats()?.requests;
    let started = Instant::now();
    caller.process.start()?;
    let next_call = await_until("the restarted caller sends a request", LIMIT, || {
        caller.expect_running()?;
        Ok(if api.stats()?.requests > before {
            ControlFlow::Break(started.elapsed())
        } else {
            ControlFlow::Continue("none".into())
        })
    })?;
    await_until("the calls of the killed caller are repeated", LIMIT, || {
        let requests = api.stats()?.requests;
        Ok(if requests >= before + REQUESTS_AFTER {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{requests} requests"))
        })
    })
    .context("a fast machine makes all calls before the kill: raise --calls")?;
    // After the drain nothing is in flight, so requests beyond one per order are repeats.
    caller.process.terminate(LIMIT)?;
    let stats = api.stats()?;
    Ok(Run {
        before,
        repeated: stats.requests - stats.orders,
        next_call,
    })
}
