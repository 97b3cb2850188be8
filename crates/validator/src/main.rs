//! PartitionState one of the outbox pipeline: each valid order goes to the outbox exactly once, whatever crashes.

mod cluster_monitor;
mod config;
mod effects;
mod group;
mod metrics;
mod queries;
mod restore;
mod run;
mod topics;

use std::process::ExitCode;

use clap::Parser;
use service::{Health, Shutdown};

use crate::config::Config;

/// Also librdkafka's, whose threads free what others allocated: see `Cargo.toml`.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Writes each valid order to the outbox exactly once, whatever crashes.
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
    let health = Health::new(run::TICK_WAIT_MAX);
    if flags.check {
        topics::check(&config)?;
        println!("the settings and the topics are sound");
        return Ok(());
    }
    shutdown.limit_drain(run::DRAIN_MAX)?;
    run::run(&config, &health, &shutdown)
}
