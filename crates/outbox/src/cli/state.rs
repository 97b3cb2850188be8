//! Arguments of `state`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Commands on the state of the validators: the changelog, from which each store is restored.
#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Appends to the changelog the entries that it has lost, as the outbox shows them: a validator halts a
    /// partition whose changelog was recreated or has lost its end, because it would admit those orders again.
    /// Shows what it will append, asks, appends, and compares again. Refuses while a validator runs. Repeating
    /// the command appends nothing twice.
    Rebuild(RebuildState),
    /// Appends to the changelog what the validators need after the topics have grown: a validator halts each
    /// partition then, because it would admit orders again whose keys have another partition now. Shows what it
    /// will append, asks, appends, and has the committed offsets name the new partition count. Refuses while a
    /// validator runs. It may be run again at any time.
    Repartition(RepartitionState),
    /// Shows the stores in a validator's state directory: size, keys, checkpoint, and whether they can be read. Needs
    /// no Kafka, and changes nothing. While the validator runs, only their sizes. Exit status 1 if a store is
    /// damaged.
    Inspect(InspectState),
    /// Compares each store in a stopped validator's state directory with the changelog up to the store's checkpoint,
    /// and the changelog with the outbox. Changes nothing. Exit status 1 if a key is missing, is not in the changelog,
    /// or has another entry, or if the changelog has lost keys.
    Verify(VerifyState),
}

/// Arguments of `state rebuild`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox --config validator.toml state rebuild
      compares all partitions, shows what the changelog lacks, and asks before it appends it
  outbox --config validator.toml state rebuild --accept-gap
      also where the outbox no longer has the orders that followed the last entry of the changelog: each of
      them is admitted, and paid, again if it is sent again")]
pub(crate) struct RebuildState {
    /// Consumer group of the validators: their setting kafka.group_id.
    // Elsewhere `--group` is the callers' group, as it was called here in earlier versions.
    #[arg(
        long,
        alias = "group",
        value_name = "GROUP",
        default_value = "order-validator"
    )]
    pub(crate) validators: String,

    /// Also if no validator of the group has ever run, as on a new cluster. Without it such a group is refused, because
    /// validators of another one may be running, and would halt on the rebuilt changelog.
    #[arg(long)]
    pub(crate) new_group: bool,

    /// Appends what the outbox still has, although entries between the changelog and the outbox are lost.
    #[arg(long)]
    pub(crate) accept_gap: bool,

    /// Changes without asking for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Arguments of `state repartition`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox --config validator.toml state repartition
      with the validators' settings file: it names the partitioner of the producers (validator.partitioner)
Stop the producers and wait until no order waits, stop the validators, then let the orders topic, the outbox and the
changelog grow alike, and run it. docker/README.md has all steps.")]
pub(crate) struct RepartitionState {
    /// Consumer group of the validators: their setting kafka.group_id.
    // Elsewhere `--group` is the callers' group, as it was called here in earlier versions.
    #[arg(
        long,
        alias = "group",
        value_name = "GROUP",
        default_value = "order-validator"
    )]
    pub(crate) validators: String,

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
    // Elsewhere `--group` is the callers' group, as it was called here in earlier versions.
    #[arg(
        long,
        alias = "group",
        value_name = "GROUP",
        default_value = "order-validator"
    )]
    pub(crate) validators: String,

    /// Verifies this partition only; can be repeated.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: Vec<i32>,

    /// Maximum number of keys named for each partition; all differences are counted.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = super::dead_letters::limit)]
    pub(crate) limit: usize,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn group_of_the_validators_has_its_former_name() {
        for command in ["rebuild", "repartition", "verify --dir d"] {
            for option in ["validators", "group"] {
                let line = format!("outbox state {command} --{option} v");
                let cli =
                    Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
                let Command::State(command) = cli.command else {
                    panic!("{line} is another command");
                };
                let group = match command {
                    StateCommand::Rebuild(options) => options.validators,
                    StateCommand::Repartition(options) => options.validators,
                    StateCommand::Verify(options) => options.validators,
                    StateCommand::Inspect(_) => String::new(),
                };
                assert_eq!(group, "v", "{line}");
            }
        }
    }
}
