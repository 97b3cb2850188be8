//! The flags that each long-running program has.

use std::path::PathBuf;
use std::process::ExitCode;

/// Flattened into a program's own command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Flags {
    /// The settings file (TOML). Each setting may be overridden by the environment:
    /// `OUTBOX__KAFKA__BOOTSTRAP_SERVERS` sets `kafka.bootstrap_servers`.
    #[arg(long, value_name = "FILE", env = "OUTBOX_CONFIG")]
    pub config: Option<PathBuf>,

    /// Checks the settings and the topics, tells what is wrong, and ends.
    #[arg(long)]
    pub check: bool,
}

/// The end of each program: an error goes to stderr with its causes, and the status is 1.
#[must_use]
pub fn finish(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}` and not `{:?}`: the causes on one line, and no backtrace, which helps nobody on call.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
