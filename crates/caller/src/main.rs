//! CallState two of the outbox pipeline: calls the legacy API for each pending call, and publishes what became
//! of it.

mod actions;
mod arrived;
mod backoff;
mod calls;
mod committing;
mod config;
mod deferral;
mod deferrals;
mod deferring;
mod ends;
mod flow_control;
mod group;
mod http;
mod job;
mod loading;
mod looking_up;
mod metrics;
mod outage;
mod policies;
mod publishing;
mod renamed_settings;
mod replaced;
mod run;
mod shell;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use service::{Health, Shutdown};

use crate::config::Config;
use crate::renamed_settings::RENAMED_SETTINGS;

/// Calls the legacy API for each order in the outbox, and publishes the outcome.
#[derive(Parser)]
#[command(version)]
struct CommandLine {
    #[command(flatten)]
    flags: service::cli::Flags,
}

fn main() -> ExitCode {
    service::cli::finish(start())
}

fn start() -> anyhow::Result<()> {
    let CommandLine { flags } = CommandLine::parse();
    service::logging::init()?;
    // First of all: whoever is told to end while it starts, ends in its own way.
    let shutdown = Shutdown::on_signals()?;
    let config: Config = service::config::load(flags.config.as_deref(), RENAMED_SETTINGS)?;
    config.check()?;
    run::check_topics(&config)?;
    if flags.check {
        println!("the settings and the topics are sound");
        return Ok(());
    }
    let health = Health::new(run::TICK_WAIT_MAX);
    // One thread for the loop and the requests: neither computes for long, and nothing is handed from thread to
    // thread. What waits for the brokers has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime could not be started")?;
    let ended = runtime.block_on(run::run(&config, &health, &shutdown));
    // Requests that are still under way were told of; nobody waits for them.
    runtime.shutdown_background();
    ended
}
