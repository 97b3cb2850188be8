//! The flags that each long-running program has.

use std::path::PathBuf;

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
