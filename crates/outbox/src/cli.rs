//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Looks after the outbox pipeline: its topics, and what lies in them.
///
/// Exit status: 0 if all is well, 1 if a check found something that a program would refuse to start on or
/// the answer to a question was no, 2 if the command could not be carried out.
#[derive(Debug, Parser)]
#[command(name = "outbox", version)]
pub(crate) struct Cli {
    /// The settings file (TOML): its own, the validator's or the caller's, of which it reads `[kafka]`
    /// and `[topics]`. Each setting may be overridden by the environment: OUTBOX__KAFKA__BOOTSTRAP_SERVERS sets
    /// kafka.bootstrap_servers.
    #[arg(long, value_name = "FILE", env = "OUTBOX_CONFIG", global = true)]
    pub(crate) config: Option<PathBuf>,

    /// Prints the result as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Creates and checks the topics.
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Shows what the callers have noted of each partition of the outbox: from where on calls are open, which of
    /// them are final already, and which have begun, so that the API may have processed them.
    Notes(Notes),
}

#[derive(Debug, Args)]
pub(crate) struct Notes {
    /// The callers' group: their setting kafka.group_id.
    #[arg(long, value_name = "GROUP", default_value = "api-caller")]
    pub(crate) group: String,

    /// Only this partition; repeat it for several.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: Vec<i32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicsCommand {
    /// Creates the topics that are missing, with the settings that the guarantees need. Topics that exist are
    /// checked and never changed: it prints the command that would.
    Create(CreateTopics),
    /// Tells what is wrong with the topics, why it matters, and how to repair it.
    Verify,
}

#[derive(Debug, Args)]
pub(crate) struct CreateTopics {
    /// How many partitions each new topic gets. They are the limit of how many validators and callers can
    /// share the work, and cannot be changed later. Default: as many as the orders topic or the outbox
    /// has, else 12.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) partitions: Option<u16>,

    /// On how many brokers each partition lies. Default: 3, or as many brokers as there are.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32))]
    pub(crate) replication_factor: Option<u16>,

    /// Does not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_may_stand_before_and_behind_the_command() {
        Cli::command().debug_assert();
        for line in [
            "--config a.toml --json topics create --yes",
            "topics create --yes --json --config a.toml",
        ] {
            let cli =
                Cli::try_parse_from([&["outbox"], line.split(' ').collect::<Vec<_>>().as_slice()].concat())
                    .expect("a good command line");
            assert_eq!((cli.config, cli.json), (Some("a.toml".into()), true));
        }
        assert!(Cli::try_parse_from(["outbox", "topics", "create", "--partitions", "0"]).is_err());
    }
}
