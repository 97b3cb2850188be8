//! Arguments of `dead-letters`.

use std::path::PathBuf;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::{Args, Subcommand};
use records::{Timestamp, call_dead_letter, dead_letter};

use super::OffsetRange;
use crate::time_argument::parse_time;

/// Commands on the dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// Lists the dead letters, the oldest first: orders that the validators refused, and calls that the API
    /// rejected. Dead letters of orders that were replayed are left out, unless --all.
    List(ListDeadLetters),
    /// Groups the dead letters by their reason and the shape of its detail, with numbers, times, and the amounts of
    /// the orders.
    Groups(GroupDeadLetters),
    /// Shows all that is known of one order's dead letters, also of those that were replayed. Exit status 1 if it
    /// has none.
    Show(ShowDeadLetters),
    /// Writes refused orders back to the orders topic, after the cause of their refusal was repaired: with their key,
    /// value and headers, to the partition that they came from. The validators decide again about each: an order that
    /// was admitted meanwhile is a duplicate, and nothing is charged twice. Shows what it will do, and asks. Repeating
    /// the command writes nothing twice. Exit status 1 if a selected dead letter is left alone.
    Replay(ReplayDeadLetters),
}

/// Kinds of dead letters.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct WhichDeadLetters {
    /// Dead letters of orders only, which the validators refused: topics.order_dead_letters.
    #[arg(long, conflicts_with = "calls")]
    pub(crate) orders: bool,

    /// Dead letters of calls only, which the API rejected: topics.call_dead_letters.
    #[arg(long)]
    pub(crate) calls: bool,
}

/// Filters of dead letters.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FilterDeadLetters {
    /// Dead letters with this reason only; can be repeated.
    // Its name of earlier versions, which spoke of refused orders alone.
    #[arg(long, alias = "refused-for", value_name = "REASON", value_parser = PossibleValuesParser::new(reasons()))]
    pub(crate) dead_letter_reason: Vec<String>,

    /// Dead letters from this time on: `30m ago`, `2026-11-23T02:00:00Z`, or in the local zone of this machine (that of
    /// TZ, else of /etc/localtime, else UTC) `2026-11-23 02:00`, `2026-11-23`, or `02:00` for today.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) from: Option<Timestamp>,

    /// Dead letters before this time, in the same forms.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) to: Option<Timestamp>,
}

/// Arguments of `dead-letters list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox dead-letters list
  outbox dead-letters list --orders --dead-letter-reason unknown-currency --from '2h ago'
  outbox --json dead-letters list --limit 100000 | jq -r '.dead_letters[].key' >keys.txt")]
pub(crate) struct ListDeadLetters {
    #[command(flatten)]
    pub(crate) which: WhichDeadLetters,

    #[command(flatten)]
    pub(crate) filter: FilterDeadLetters,

    /// Lists also dead letters that were replayed.
    #[arg(long)]
    pub(crate) all: bool,

    /// Maximum number of dead letters listed; all are counted.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = limit)]
    pub(crate) limit: usize,
}

/// Arguments of `dead-letters groups`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox dead-letters groups
  outbox --config validator.toml dead-letters groups --orders --from 02:00
      with the validators' settings file: it tells how amounts are written")]
pub(crate) struct GroupDeadLetters {
    #[command(flatten)]
    pub(crate) which: WhichDeadLetters,

    #[command(flatten)]
    pub(crate) filter: FilterDeadLetters,

    /// Counts also dead letters that were replayed.
    #[arg(long)]
    pub(crate) all: bool,

    /// Maximum number of groups listed, the largest first; all are counted.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = limit)]
    pub(crate) limit: usize,
}

/// Arguments of `dead-letters show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox dead-letters show order-17
  outbox --json dead-letters show order-17 | jq '.records[] | .order'")]
pub(crate) struct ShowDeadLetters {
    /// Key of the order: that of its record, or its order id if the record has none.
    #[arg(value_name = "KEY")]
    pub(crate) key: String,

    #[command(flatten)]
    pub(crate) which: WhichDeadLetters,

    /// Maximum number of records shown, the last of them; all are counted.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = limit)]
    pub(crate) limit: usize,
}

/// Arguments of `dead-letters replay`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox --config validator.toml dead-letters replay --dead-letter-reason not-an-order --from 02:00 --reason 'schema of 2026-11-23 corrected'
  outbox --config validator.toml dead-letters replay order-17 order-18 --reason 'key setting corrected'
  outbox --config validator.toml dead-letters replay --partition 3 --offsets 100..200 --reason 'currency list corrected'
      offsets of the dead-letter topic, from 100 on and below 200
It needs the settings file of the validators: what they check, and whether they forget keys, decides what may be written
back. Repair the cause first: an order that is refused again becomes another dead letter. Rejected calls are sent again by
`outbox replay plan --state rejected`.")]
pub(crate) struct ReplayDeadLetters {
    /// Keys of the orders: those of their records, or their order ids if the records have none.
    #[arg(value_name = "KEY")]
    pub(crate) keys: Vec<String>,

    /// File with one key per line; `-` for standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "keys")]
    pub(crate) keys_from: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) which: WhichDeadLetters,

    #[command(flatten)]
    pub(crate) filter: FilterDeadLetters,

    /// Dead letters of this partition of their topic only.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: Option<i32>,

    /// Dead letters from the first of these offsets on, and below the second.
    #[arg(long, value_name = "A..B", requires = "partition")]
    pub(crate) offsets: Option<OffsetRange>,

    /// Reason, which is kept with each dead letter that is replayed.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) reason: String,

    /// Changes without asking for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
}

impl ReplayDeadLetters {
    /// Returns whether anything is selected.
    pub(crate) const fn selects(&self) -> bool {
        let filter = &self.filter;
        !self.keys.is_empty()
            || self.keys_from.is_some()
            || !filter.dead_letter_reason.is_empty()
            || filter.from.is_some()
            || filter.to.is_some()
            || self.partition.is_some()
    }
}

/// Returns the names of all reasons, sorted.
fn reasons() -> Vec<&'static str> {
    let orders = dead_letter::Reason::ALL.map(dead_letter::Reason::as_str);
    let mut all = [&orders[..], &call_reasons()].concat();
    all.sort_unstable();
    all
}

/// Returns the names of the reasons for which a call has a dead letter, sorted.
pub(super) fn call_reasons() -> Vec<&'static str> {
    let of_callers = call_dead_letter::Reason::ALL.map(call_dead_letter::Reason::as_str);
    let mut all = [&of_callers[..], &[call_dead_letter::REJECTED_BY_OPERATOR]].concat();
    all.sort_unstable();
    all
}

/// Parses the maximum number of what is listed, which is kept in memory.
pub(super) fn limit(text: &str) -> Result<usize, String> {
    const MAX: usize = 100_000;
    match text.parse() {
        Ok(limit @ 1..=MAX) => Ok(limit),
        _ => Err(format!("expected a number from 1 to {MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn replay(line: &str) -> Result<ReplayDeadLetters, String> {
        let words = ["outbox", "dead-letters", "replay", "--reason", "r"];
        let words = words.into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words)
            .map_err(|error| error.to_string())?
            .command
        {
            Command::DeadLetters(DeadLettersCommand::Replay(options)) => Ok(options),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn replay_takes_keys_or_filters() {
        let options = replay("--partition 1 --offsets 4..9 --dead-letter-reason key-missing").expect("valid");
        assert_eq!(
            (options.partition, options.offsets),
            (Some(1), "4..9".parse().ok())
        );
        assert!(options.selects());
        let by_former_name = replay("--refused-for key-missing").expect("valid");
        assert_eq!(by_former_name.filter.dead_letter_reason, ["key-missing"]);
        assert!(replay("--from 2026-11-23T02:00Z").expect("valid").selects());
        assert!(!replay("").expect("valid").selects());
        for line in [
            "--offsets 4..9",
            "--partition 1 --offsets 9..4",
            "--partition 1 --offsets 4..4",
            "--partition 1 --offsets 4",
            "--dead-letter-reason key-mising",
            "k --keys-from keys.txt",
            "k --orders --calls",
        ] {
            assert!(replay(line).is_err(), "{line}");
        }
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(limit("100000"), Ok(100_000));
        for text in ["0", "100001", "-1", "all"] {
            assert!(limit(text).is_err(), "{text}");
        }
    }
}
