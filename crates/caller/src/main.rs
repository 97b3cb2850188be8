//! Stage two of the outbox pipeline: calls the legacy API once per pending call and publishes the outcome.

mod calls_endpoint;
mod config;
mod control;
mod effects;
mod http;
mod metrics;
mod outbox;
mod run;
mod show_request;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use records::Position;
use service::{Program, Shutdown};

use crate::config::{Config, RENAMED_SETTINGS};

/// Calls the legacy API for each order in the outbox, and publishes the outcome.
#[derive(Parser)]
#[command(version = service::VERSION)]
struct CommandLine {
    #[command(flatten)]
    flags: service::cli::Flags,

    /// Shows the request of a record of the outbox, as this caller would send it now, with its secrets hidden, and
    /// exits. Nothing is sent. `outbox order KEY` shows where the calls of an order are.
    #[arg(long, value_name = "TOPIC/PARTITION@OFFSET", conflicts_with = "check")]
    show_request: Option<Position>,

    #[command(subcommand)]
    command: Option<service::cli::Command>,
}

fn main() -> ExitCode {
    let CommandLine {
        flags,
        show_request,
        command,
    } = CommandLine::parse();
    if let Some(position) = show_request {
        return service::cli::finish(shown(&flags, &position));
    }
    let program = Program {
        renamed_settings: RENAMED_SETTINGS,
        check_settings: Config::check,
        check_topics: |config| run::check_topics(&config.with_instance_id()).map(drop),
        admin: |config| &config.admin,
        run,
    };
    program.main(&flags, command)
}

fn shown(flags: &service::cli::Flags, position: &Position) -> anyhow::Result<()> {
    service::logging::init_with_default("warn,librdkafka=off")?;
    let config: Config = service::config::load(flags.config.as_deref(), RENAMED_SETTINGS)?;
    config.check()?;
    show_request::run(&config, position)
}

fn run(config: &Config, shutdown: &Shutdown) -> anyhow::Result<()> {
    let config = &config.with_instance_id();
    let record_sizes = run::check_topics(config)?;
    // One thread for the loop and the requests: neither computes for long, and nothing crosses threads. What
    // waits for the brokers runs on blocking threads.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?;
    let outcome = runtime.block_on(run::run(config, record_sizes, shutdown));
    // Requests still in flight were logged when their partitions were released. Waiting for them here would
    // only delay the exit: their outcome can no longer be committed.
    runtime.shutdown_background();
    outcome
}
