//! Command-line flags and exit status of the long-running programs.

use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of each long-running program, flattened into its own command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Flags {
    /// Settings file (TOML). Each setting can be overridden by the environment:
    /// `OUTBOX__KAFKA__BOOTSTRAP_SERVERS` sets `kafka.bootstrap_servers`.
    #[arg(long, value_name = "FILE", env = "OUTBOX_CONFIG", global = true)]
    pub config: Option<PathBuf>,

    /// Checks the settings and the topics, reports what is wrong, and exits.
    #[arg(long)]
    pub check: bool,
}

/// Commands of each long-running program, beside running it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Command {
    /// Asks the running program at its own admin address (the setting `admin.listen`) whether it is ready, and prints
    /// the answer. Exit status 0: ready; 1: not ready, with the reasons, or no answer within 3 s. For health checks
    /// of containers, which then need no shell and no HTTP client.
    Health,
}

/// Returns the exit status of a program: 0, or 1 after the error and its causes were printed to stderr.
#[must_use]
pub fn finish(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}` and not `{:?}`: an operator needs the causes on one line, not a backtrace.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
