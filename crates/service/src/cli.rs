//! Command-line flags and exit status of the long-running programs.

use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of each long-running program, flattened into its own command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Flags {
    /// Settings file (TOML). Each setting can be overridden by the environment:
    /// `OUTBOX__KAFKA__BOOTSTRAP_SERVERS` sets `kafka.bootstrap_servers`.
    #[arg(long, value_name = "FILE", env = "OUTBOX_CONFIG")]
    pub config: Option<PathBuf>,

    /// Checks the settings and the topics, reports what is wrong, and exits.
    #[arg(long)]
    pub check: bool,
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
