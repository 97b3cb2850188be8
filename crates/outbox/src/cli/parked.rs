//! Arguments of `parked`.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use records::Timestamp;

use super::WhichGroup;
use crate::time_argument::parse_time;

/// Commands on the parked calls.
#[derive(Debug, Subcommand)]
pub(crate) enum ParkedCommand {
    /// Lists the parked calls that wait for an operator, the oldest first. Of those whose outcome may be gone, the topic
    /// of the outcomes no longer shows whether they were accepted.
    List(ListParked),
    /// Groups the parked calls that wait by their cause, with numbers and times, and how often operators have sent
    /// them again before, by `parked settle --send-again` and by replays: if that is often, it has not helped.
    Groups(GroupParked),
    /// Shows all that is known of one order's parked calls, also of those that were settled.
    Show(ShowParked),
    /// Settles parked calls, after an operator has found out what became of them: as accepted, as rejected, or by
    /// sending them again. Shows what it will do, asks, and writes a settlement together with an outcome, a dead
    /// letter, or a copy in the outbox. Refuses calls that have an outcome, or that a caller still works on, and sends
    /// none again whose outcome may have been deleted.
    /// Repeating the command settles nothing twice.
    Settle(SettleParked),
    /// Settles the parked calls by the provider's own record: a CSV file with a row for each order that it has
    /// processed. Shows how many it will settle, and how, and asks. What the file does not clearly tell is left alone.
    /// Exit status 1 if a call is left alone, or the provider has charged an order twice.
    Reconcile(ReconcileParked),
}

/// Arguments of `parked groups`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox parked groups
  outbox --json parked groups | jq '.[] | select(.sent_again > 0) | .cause'")]
pub(crate) struct GroupParked {
    #[command(flatten)]
    pub(crate) which: WhichGroup,
}

/// Arguments of `parked list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox parked list
  outbox parked list --cause timed-out --limit 1000
  outbox --json parked list --limit 100000 | jq -r '.calls[].key' >keys.txt")]
pub(crate) struct ListParked {
    #[command(flatten)]
    pub(crate) which: WhichGroup,

    /// Lists calls only whose cause, as shown by `parked groups`, contains this text.
    #[arg(long, value_name = "TEXT")]
    pub(crate) cause: Option<String>,

    /// Maximum number of calls listed; all are counted.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) limit: usize,
}

/// Arguments of `parked show`.
#[derive(Debug, Args)]
pub(crate) struct ShowParked {
    /// Idempotency key of the order.
    #[arg(value_name = "KEY")]
    pub(crate) key: String,

    #[command(flatten)]
    pub(crate) which: WhichGroup,
}

/// Arguments of `parked settle`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox --config caller.toml parked settle order-17 --accepted --reason 'in the provider ledger as t-991'
  outbox --config caller.toml parked settle --keys-from keys.txt --send-again --reason 'provider: never arrived'
      with the callers' settings file: a call is sent again only after the times that it sets have passed")]
pub(crate) struct SettleParked {
    /// Idempotency keys of the orders.
    #[arg(value_name = "KEY", required_unless_present = "keys_from")]
    pub(crate) keys: Vec<String>,

    /// File with one idempotency key per line; `-` for standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "keys")]
    pub(crate) keys_from: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) decision: DecideParked,

    /// Reason, which is kept with the settlement.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) reason: String,

    #[command(flatten)]
    pub(crate) which: WhichGroup,

    /// Changes without asking for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Decision of `parked settle`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct DecideParked {
    /// The API has processed the calls: an outcome is written.
    #[arg(long)]
    pub(crate) accepted: bool,

    /// The API has not processed the calls, and they are not made again: a dead letter is written.
    #[arg(long)]
    pub(crate) rejected: bool,

    /// The API has not processed the calls, and they are made again: a copy is appended to the outbox.
    #[arg(long)]
    pub(crate) send_again: bool,
}

/// Arguments of `parked reconcile`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox --config caller.toml parked reconcile --csv settled.csv --order-column merchant_ref \\
      --state-column state --accepted CAPTURED,SETTLED --rejected DECLINED --reason 'report of 2026-03-01'
      accepted and rejected orders are settled, all others are left alone
  outbox --config caller.toml parked reconcile … --absent send-again --rows 18213 --as-of '2026-03-01 09:00+01:00'
      orders that the file does not have are sent again; the file must have exactly this number of rows, and all that
      the provider had charged by that time: calls that may have been charged later are left alone")]
pub(crate) struct ReconcileParked {
    /// The provider's file, with a header.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: PathBuf,

    /// Column with the idempotency keys of the orders, as they are: blanks count.
    #[arg(long, value_name = "NAME")]
    pub(crate) order_column: String,

    /// Column with the states of the orders.
    #[arg(long, value_name = "NAME")]
    pub(crate) state_column: String,

    /// States of orders that were charged; separated by commas.
    #[arg(long, value_name = "STATE", value_delimiter = ',', required = true)]
    pub(crate) accepted: Vec<String>,

    /// States of orders that were not charged, and are not to be called again; separated by commas.
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    pub(crate) rejected: Vec<String>,

    /// What becomes of calls whose order the file does not have.
    #[arg(long, value_enum, default_value_t = Absent::Leave)]
    pub(crate) absent: Absent,

    /// Number of rows of the file, without the header, as the provider says: part of a file has too few orders.
    /// Required with --absent rejected or send-again.
    #[arg(long, value_name = "N")]
    pub(crate) rows: Option<u64>,

    /// Time up to which the file has all that the provider has charged, such as `2026-03-01 09:00+01:00`: that of the
    /// export, or the end of the report's period if that is earlier. Of the calls that the file does not have, those that
    /// may have been processed later are left alone. Required with --absent rejected or send-again.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) as_of: Option<Timestamp>,

    /// Character between two columns.
    #[arg(long, value_name = "CHAR", default_value = ",", value_parser = delimiter)]
    pub(crate) delimiter: u8,

    /// Reason, which is kept with each settlement.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) reason: String,

    #[command(flatten)]
    pub(crate) which: WhichGroup,

    /// Changes without asking for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// What becomes of parked calls whose order is not in the provider's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Absent {
    /// They are left alone.
    Leave,
    /// A dead letter each; they are not made.
    Rejected,
    /// They are made again.
    SendAgain,
}

/// Parses the delimiter of a CSV file.
fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() => Ok(*byte),
        _ => Err("expected one ASCII character, or \\t".into()),
    }
}
