//! Measurements: throughput, cost and memory, each printed with the machine and the settings.

mod bare_client;
mod bare_loop;
mod caller;
mod caller_kill;
mod figures;
mod growth;
mod growth_plot;
mod kafka_streams;
mod latency;
mod operator;
mod resource_usage;
mod restart;
mod takeover;
mod validator;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

// The validator's allocator, so that the bare loop does not lose by another one.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures one program of the pipeline on a real Kafka; prints machine and settings beside the figures.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    program: Program,
}

#[derive(Debug, Subcommand)]
enum Program {
    /// Orders per second, CPU time per order and peak memory of one validator, next to a bare loop.
    Validator(validator::Arguments),
    /// The same of one validator, next to a Kafka Streams application that does its work.
    KafkaStreams(kafka_streams::Arguments),
    /// Speed, look-ups, memory and restarts of one validator while its stores grow to many millions of keys.
    Growth(growth::Arguments),
    /// Latency of one validator under a steady load.
    Latency(latency::Arguments),
    /// Calls per second, CPU time per call and peak memory of one caller, next to a bare HTTP client.
    Caller(caller::Arguments),
    /// Requests repeated after `kill -9` of a caller, and the time until its next request.
    Killed(caller_kill::Arguments),
    /// Time that orders wait while a validator with many keys in its store restarts, or restores lost stores.
    Restart(restart::Arguments),
    /// Time that orders wait after the loss of one of two validators with standby stores.
    Takeover(takeover::Arguments),
    /// Time and peak memory of the operator's commands on a large outbox.
    Operator(operator::Arguments),
    /// Bare HTTP client that the caller is compared with.
    #[command(hide = true)]
    Bare(bare_client::Arguments),
    /// Bare loop that the validator is compared with.
    #[command(hide = true)]
    BareLoop(bare_loop::Arguments),
}

fn main() -> ExitCode {
    let measured = match Arguments::parse().program {
        Program::Validator(arguments) => validator::measure(&arguments),
        Program::KafkaStreams(arguments) => kafka_streams::measure(&arguments),
        Program::Growth(arguments) => growth::measure(&arguments),
        Program::Latency(arguments) => latency::measure(&arguments),
        Program::Caller(arguments) => caller::measure(&arguments),
        Program::Killed(arguments) => caller_kill::measure(&arguments),
        Program::Restart(arguments) => restart::measure(&arguments),
        Program::Takeover(arguments) => takeover::measure(&arguments),
        Program::Operator(arguments) => operator::measure(&arguments),
        Program::Bare(arguments) => bare_client::run(&arguments),
        Program::BareLoop(arguments) => bare_loop::run(&arguments),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
