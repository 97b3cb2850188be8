//! Operator's command line of the outbox pipeline.

mod amounts;
mod brokers;
mod call_records;
mod cli;
mod commands;
mod config;
mod confirm;
mod keys;
mod metrics;
mod operations_log;
mod operator;
mod progress;
mod start_position;
mod tables;
mod time_argument;
mod timestamp;
mod topics_reader;
mod transaction;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser};
use records::control::Calls;

use crate::cli::{AskHealth, Cli, Command};
use crate::commands::Status;
use crate::config::Config;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(Status::Ok) => ExitCode::SUCCESS,
        Ok(Status::Problem) => ExitCode::from(1),
        // Not 1: a script must be able to tell a failed check from a broker that did not respond.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Status> {
    // Those without settings: a shell that starts need not have them, and a program reads its own.
    match &cli.command {
        Command::Completions(of) => {
            clap_complete::generate(of.shell, &mut Cli::command(), "outbox", &mut std::io::stdout());
            Ok(Status::Ok)
        }
        Command::Validator(options) => commands::launch::run("validator", options, cli.config.as_deref()),
        Command::Caller(options) => commands::launch::run("caller", options, cli.config.as_deref()),
        // A health check must not fail because of what the running program does not use.
        Command::Health(options) => Ok(health(options)),
        Command::Idle => idle(),
        _ => run_with_settings(cli),
    }
}

fn run_with_settings(cli: &Cli) -> anyhow::Result<Status> {
    // The log lines of librdkafka would mix with the output. What matters of them is in the errors it
    // returns.
    service::logging::init_with_default("warn,librdkafka=off")?;
    let config: Config = service::config::load(cli.config.as_deref(), &[])?;
    config.check().context("the settings are invalid")?;
    match &cli.command {
        Command::Topics(command) => commands::topics::run(command, &config, cli.json),
        Command::Group(command) => commands::group::run(command, &config, cli.json),
        Command::Pause(options) => commands::switch::run(Calls::Paused, options, &config, cli.json),
        Command::Resume(options) => commands::switch::run(Calls::Running, options, &config, cli.json),
        Command::Status(options) => commands::status::run(options, &config, cli.json),
        Command::Order(options) => commands::order::run(options, &config, cli.json),
        Command::Parked(command) => commands::parked::run(command, &config, cli.json),
        Command::Replay(command) => commands::replay::run(command, &config, cli.json),
        Command::Operations(command) => commands::operations::run(command, &config, cli.json),
        Command::State(command) => commands::state::run(command, &config, cli.json),
        Command::Metrics(options) => commands::metrics::run(options, &config),
        Command::Notes(which) => commands::notes::run(which, &config, cli.json),
        // Without settings.
        Command::Completions(_)
        | Command::Validator(_)
        | Command::Caller(_)
        | Command::Health(_)
        | Command::Idle => Ok(Status::Ok),
        Command::DeadLetters(command) => commands::dead_letters::run(command, &config, cli.json),
    }
}

fn health(options: &AskHealth) -> Status {
    match service::admin::probe::ask_ready(options.listen) {
        Ok(answer) => {
            println!("{answer}");
            Status::Ok
        }
        // Exit status 1 in each case: Docker reserves the others.
        Err(error) => {
            eprintln!("error: {error:#}");
            Status::Problem
        }
    }
}

/// Waits for the shutdown, without settings or a broker.
fn idle() -> anyhow::Result<Status> {
    let shutdown = service::Shutdown::on_signals()?;
    tokio::runtime::Builder::new_current_thread()
        .build()
        .context("the async runtime cannot be started")?
        .block_on(shutdown.requested());
    Ok(Status::Ok)
}
