//! Arguments of `state inspect` and `state verify`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `state inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox state inspect --dir /var/lib/validator
  outbox --json state inspect --dir ./state | jq '.stores[] | {partition, keys, checkpoint}'")]
pub(crate) struct InspectState {
    /// State directory of a validator: its setting store.dir.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// Arguments of `state verify`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox --config validator.toml state verify --dir ./state
  outbox --config validator.toml state verify --dir ./state --partition 3 --limit 1000
A store that differs is removed, after its validator was stopped: the validator restores it from the changelog. What the
changelog lacks is appended by `outbox state rebuild`.")]
pub(crate) struct VerifyState {
    /// State directory of a stopped validator: its setting store.dir. The validator cannot start meanwhile.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,

    /// Consumer group of the validators: their setting kafka.group_id.
    #[arg(long, value_name = "GROUP", default_value = "order-validator")]
    pub(crate) group: String,

    /// Verifies this partition only; can be repeated.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: Vec<i32>,

    /// Maximum number of keys named for each partition; all differences are counted.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = super::dead_letters::limit)]
    pub(crate) limit: usize,
}
