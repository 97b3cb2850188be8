//! Arguments of `status` and `notes`.

use clap::Args;

use super::WhichGroup;

/// Arguments of the command `status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox status
  outbox status --watch
  outbox status --program http://validator-0:9464 --program http://caller-0:9465
      asks these programs, too, for what only they know
  outbox --json status | jq '.partitions[] | select(.pending > 1000)'
  outbox --json status | jq -r '.programs[] | select(.status.ready != true) | .url'")]
pub(crate) struct ShowStatus {
    #[command(flatten)]
    pub(crate) which: WhichGroup,

    /// Consumer group of the validators: their setting kafka.group_id.
    #[arg(long, value_name = "GROUP", default_value = "order-validator")]
    pub(crate) validators: String,

    /// Admin address of a running validator or caller (its setting admin.listen), which is asked; can be repeated.
    /// Default: those of the setting status.programs. Each has 2 s to answer.
    #[arg(long = "program", value_name = "URL")]
    pub(crate) programs: Vec<String>,

    /// Shows it again every 2 s, or every so many seconds, until it is interrupted.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) watch: Option<u64>,
}

/// Arguments of the command `notes`.
#[derive(Debug, Args)]
pub(crate) struct Notes {
    #[command(flatten)]
    pub(crate) which: WhichGroup,

    /// Shows this partition only; can be repeated.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: Vec<i32>,
}
