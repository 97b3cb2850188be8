//! Measurements: how fast, at what cost, and in how much memory, with the machine and the settings beside
//! each figure.

mod bare_client;
mod caller;
mod caller_kill;
mod resource_usage;
mod restart;
mod validator;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures one program of the pipeline on a real Kafka.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    program: Program,
}

#[derive(Debug, Subcommand)]
enum Program {
    /// Orders per second, processor time per order and peak memory of one validator.
    Validator(validator::Arguments),
    /// Calls per second, processor time per call and peak memory of one caller.
    Caller(caller::Arguments),
    /// Calls made again after `kill -9` of a caller, and how long until the next call.
    Killed(caller_kill::Arguments),
    /// How long a restart of a validator keeps orders waiting, with many keys in its store.
    Restart(restart::Arguments),
    /// The loop that the caller is compared with.
    #[command(hide = true)]
    Bare(bare_client::Arguments),
}

fn main() -> ExitCode {
    let measured = match Arguments::parse().program {
        Program::Validator(arguments) => validator::measure(&arguments),
        Program::Caller(arguments) => caller::measure(&arguments),
        Program::Killed(arguments) => caller_kill::measure(&arguments),
        Program::Restart(arguments) => restart::measure(&arguments),
        Program::Bare(arguments) => bare_client::run(&arguments),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
