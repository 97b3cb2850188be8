//! Arguments of `topics`.

use clap::{Args, Subcommand};

use super::WhichGroup;

/// Commands on the topics.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicsCommand {
    /// Creates missing topics with the settings that the guarantees require. Existing topics are verified and
    /// never changed; for each problem it prints the command that repairs it.
    Create(CreateTopics),
    /// Lists problems of the topics, why each matters, and how to repair it.
    Verify,
    /// Lists the least permissions that each program and each command needs on a cluster with access control, or the
    /// commands that grant them to the principals that are given. Asks no broker.
    Acls(ShowAcls),
}

/// Arguments of `topics acls`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox topics acls
  outbox topics acls --validator-principal User:validator --caller-principal User:caller
  outbox topics acls --operator-principal User:CN=ops --command-config admin.properties | sh
      with kafka-acls.sh on the PATH, and an administrator's settings in that file")]
pub(crate) struct ShowAcls {
    #[command(flatten)]
    pub(crate) which: WhichGroup,

    /// Consumer group of the validators: their setting kafka.group_id.
    #[arg(long, value_name = "GROUP", default_value = "order-validator")]
    pub(crate) validators: String,

    /// Principal of the validators, such as User:validator.
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) validator_principal: Option<String>,

    /// Principal of the callers.
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) caller_principal: Option<String>,

    /// Principal of those who look and change nothing.
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) reader_principal: Option<String>,

    /// Principal of those who change orders and calls, too.
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) operator_principal: Option<String>,

    /// Principal of those who create the topics.
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) creator_principal: Option<String>,

    /// File with the connection settings of an administrator, which kafka-acls.sh reads.
    #[arg(long, value_name = "FILE")]
    pub(crate) command_config: Option<String>,
}

/// Arguments of `topics create`.
#[derive(Debug, Args)]
pub(crate) struct CreateTopics {
    /// Number of partitions of each new topic. It limits the number of validators and callers. To raise it later, everything
    /// stops for a while (`outbox state repartition --help`). Default: as many as an existing orders topic or outbox, else 12.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) partitions: Option<u16>,

    /// Number of replicas of each partition. Default: 3, or the number of brokers if there are fewer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32))]
    pub(crate) replication_factor: Option<u16>,

    /// Changes without asking for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
}
