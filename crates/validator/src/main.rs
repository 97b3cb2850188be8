//! Stage one of the outbox pipeline: each valid order goes to the outbox exactly once, whatever crashes.

mod changelog_deletions;
mod cluster_monitor;
mod config;
mod effects;
mod metrics;
mod or_off;
mod queries;
mod restore;
mod run;
mod topics;

use std::process::ExitCode;

use clap::Parser;
use service::{Program, Shutdown};

use crate::config::Config;

// Also librdkafka's allocator: its threads free what ours allocate. `Cargo.toml` has the measurement.
#[cfg(all(target_os = "linux", feature = "jemalloc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Writes each valid order to the outbox exactly once, whatever crashes.
#[derive(Parser)]
#[command(version = service::VERSION)]
struct CommandLine {
    #[command(flatten)]
    flags: service::cli::Flags,

    #[command(subcommand)]
    command: Option<service::cli::Command>,
}

fn main() -> ExitCode {
    let CommandLine { flags, command } = CommandLine::parse();
    let program = Program {
        renamed_settings: &[],
        check_settings: Config::check,
        check_topics: |config| topics::check(config).map(drop),
        admin: |config| &config.admin,
        run,
    };
    program.main(&flags, command)
}

fn run(config: &Config, shutdown: &Shutdown) -> anyhow::Result<()> {
    // The loop blocks in librdkafka, which may hang; exiting then loses nothing that Kafka does not have.
    shutdown.limit_drain(run::DRAIN_TIMEOUT)?;
    run::run(config, shutdown)
}
