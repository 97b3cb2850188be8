//! Arguments of `order`.

use clap::Args;
use records::Timestamp;

use super::WhichGroup;
use crate::time_argument::parse_time;

/// Arguments of the command `order`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox --config caller.toml order ord-17
  outbox order ord-17 --from '2 days ago'
      reads what was written from then on, which is faster on a large outbox
  outbox --json order ord-17 | jq -r .sentence")]
pub(crate) struct ShowOrder {
    /// Idempotency key of the order.
    #[arg(value_name = "KEY")]
    pub(crate) key: String,

    /// Reads what was written at this time or later: `3h ago`, `2026-11-23T02:00`. An order that is older looks as if
    /// it were not there.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) from: Option<Timestamp>,

    #[command(flatten)]
    pub(crate) which: WhichGroup,
}
