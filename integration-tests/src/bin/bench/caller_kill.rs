//! What `kill -9` of a caller at work costs: requests made again, and how long nothing is called.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use comfy_table::Table;
use harness::api::Api;
use harness::pipeline::Pipeline;
use harness::wait::{await_until, pause};

use crate::{caller, resource_usage};

const LIMIT: Duration = Duration::from_secs(60);
/// From its start to its death.
const AT_WORK: Duration = Duration::from_secs(6);
/// Longer than the API works on a request, so that what the dead caller had sent is on its record.
const SETTLED: Duration = Duration::from_millis(500);
/// So many requests after the next one, every call that was in the dead caller's hands has been made again.
const AFTER: u64 = 5_000;

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many pending calls lie ready for each run.
    #[arg(long, default_value_t = 100_000)]
    calls: u64,
    /// Over how many partitions.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// What the API takes for an answer, in milliseconds.
    #[arg(long, default_value_t = 5, value_name = "MS")]
    latency_ms: u64,
    /// How many calls may be in flight.
    #[arg(long, default_value_t = 64, value_name = "N")]
    in_flight: u64,
    /// How often a caller is killed for each line of the table.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// The seed of the orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Measures and prints.
pub(crate) fn measure(arguments: &Arguments) -> Result<()> {
    println!("{}", resource_usage::describe());
    println!(
        "one caller with {} calls in flight at {} ms, killed {} s after its start and started again, {} times each, seed {}",
        arguments.in_flight,
        arguments.latency_ms,
        AT_WORK.as_secs(),
        arguments.runs,
        arguments.seed
    );
    let mut pipeline = Pipeline::create("bench-killed", arguments.partitions)?;
    caller::fill_outbox(&pipeline, arguments.calls, arguments.seed)?;
    let mut table = Table::new();
    table.set_header(vec![
        "policy",
        "membership",
        "calls before the kill",
        "made again: median",
        "most",
        "next call after: median",
        "longest",
    ]);
    for policy in ["retry", "park"] {
        for membership in ["static", "dynamic"] {
            let mut runs = (0..arguments.runs)
                .map(|run| kill(&mut pipeline, arguments, policy, membership, run))
                .collect::<Result<Vec<_>>>()?;
            let middle = runs.len() / 2;
            runs.sort_by_key(|run| run.next_call);
            let next_call = [runs[middle].next_call, runs[runs.len() - 1].next_call];
            runs.sort_by_key(|run| run.before);
            let before = runs[middle].before;
            runs.sort_by_key(|run| run.again);
            let again = [runs[middle].again, runs[runs.len() - 1].again];
            table.add_row(vec![
                policy.to_owned(),
                membership.to_owned(),
                before.to_string(),
                again[0].to_string(),
                again[1].to_string(),
                format!("{} ms", next_call[0].as_millis()),
                format!("{} ms", next_call[1].as_millis()),
            ]);
        }
    }
    println!("{table}");
    pipeline.passed();
    Ok(())
}

/// What one kill came to.
struct Run {
    /// Requests that the API had had before.
    before: u64,
    /// Of these, how many were made again.
    again: u64,
    /// From the caller's start to its first request.
    next_call: Duration,
}

fn kill(
    pipeline: &mut Pipeline,
    arguments: &Arguments,
    policy: &str,
    membership: &str,
    run: u32,
) -> Result<Run> {
    let group = pipeline.caller_group.clone();
    pipeline.caller_group = format!("{group}-{policy}-{membership}-{run}");
    let api = Api::start(pipeline, &[format!("--latency={}ms", arguments.latency_ms)])?;
    let settings = pipeline
        .caller_settings(1, &api.url)
        .with("api.timeout", "30s")
        .with("caller.on_ambiguous", policy)
        .with("caller.membership", membership)
        .with("caller.calls_in_flight_max", arguments.in_flight);
    let mut caller = pipeline.service("caller", 1, settings)?;
    pipeline.caller_group = group;

    caller.process.start()?;
    pause(AT_WORK)?;
    caller.process.kill()?;
    pause(SETTLED)?;
    let before = api.stats()?.requests;
    let started = Instant::now();
    caller.process.start()?;
    let next_call = await_until("the next call", LIMIT, || {
        caller.expect_running()?;
        Ok(if api.stats()?.requests > before {
            ControlFlow::Break(started.elapsed())
        } else {
            ControlFlow::Continue("none".into())
        })
    })?;
    await_until("what was in its hands is done", LIMIT, || {
        let requests = api.stats()?.requests;
        Ok(if requests >= before + AFTER {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{requests} requests"))
        })
    })
    .context("too few --calls for this machine?")?;
    caller.process.terminate(LIMIT)?;
    let stats = api.stats()?;
    Ok(Run {
        before,
        again: stats.requests - stats.orders,
        next_call,
    })
}
