//! Arguments of `state repartition`, `state inspect` and `state verify`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `state repartition`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox --config validator.toml state repartition
      with the validators' settings file: it names the partitioner of the producers (validator.partitioner)
Stop the producers and wait until no order waits, stop the validators, then let the orders topic, the outbox and the
changelog grow alike, and run it. docker/README.md has all steps.")]
pub(crate) struct RepartitionState {
    /// Consumer group of the validators: their setting kafka.group_id.
    #[arg(long, value_name = "GROUP", default_value = "order-validator")]
    pub(crate) group: String,

    /// Goes on although orders wait on the partitions that their keys had before: each becomes a dead letter
    /// (wrong-partition), which is paid only if its producer sends it again.
    #[arg(long)]
    pub(crate) accept_misplaced: bool,

    /// Changes without asking for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
}

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
