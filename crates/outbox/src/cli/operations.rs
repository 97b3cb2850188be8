//! Arguments of `operations`.

use clap::{Args, Subcommand};
use records::Timestamp;

use crate::time_argument::parse_time;

/// Commands on the operations.
#[derive(Debug, Subcommand)]
pub(crate) enum OperationsCommand {
    /// Lists what operators have changed: who, when, why, what; the latest last.
    List(ListOperations),
}

/// Arguments of `operations list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox operations list --from '1day ago'
  outbox --json operations list --by ann")]
pub(crate) struct ListOperations {
    /// Operations at this time or later.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) from: Option<Timestamp>,

    /// Operations before this time.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) to: Option<Timestamp>,

    /// Operations of persons whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    pub(crate) by: Option<String>,

    /// Maximum number of operations listed, of the latest; all are counted.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) limit: usize,
}
