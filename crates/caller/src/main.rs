//! CallState two of the outbox pipeline: calls the legacy API for each pending call, and publishes what became
//! of it.

mod calls_endpoint;
mod config;
mod effects;
mod group;
mod http;
mod latch;
mod metrics;
mod outbox;
mod run;
mod secret;
mod watched;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use service::{Health, Shutdown};

use crate::config::Config;

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
    let config: Config = service::config::load(flags.config.as_deref())?;
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
