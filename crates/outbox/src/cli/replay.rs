//! Arguments of `replay`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use records::Timestamp;

use super::dead_letters::call_reasons;
use super::{OffsetRange, WhichGroup};
use crate::time_argument::parse_time;

/// Commands on replays.
#[derive(Debug, Subcommand)]
pub(crate) enum ReplayCommand {
    /// Plans a replay: shows which calls of a selection can be made again, how much money they are, and which are
    /// left out and why; and keeps the plan under an id. Nothing is called. Calls that a caller will make or makes
    /// now, and parked ones, are always left out.
    Plan(PlanReplay),
    /// Runs a plan: appends its calls to the outbox again, where the callers make them. A call whose state has
    /// changed since it was planned is left out. Killed at any point and run again, it appends no call twice. A plan of
    /// unknown calls is refused until no earlier request of them can be processed any more.
    /// Exit status 1 if a call of the canary is not accepted, or the operator declined.
    Run(RunReplay),
    /// Shows the replays, or one of them.
    Status(ShowReplays),
    /// Pauses a replay: its run, if there is one, is fenced, and has appended its last call when this returns.
    Pause(ChangeReplay),
    /// Resumes a replay that was paused, or whose canary failed: it can be run again.
    Resume(ChangeReplay),
    /// Cancels a replay for good. The calls that it has appended are made; no other is.
    Cancel(ChangeReplay),
}

/// Arguments of `replay plan`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox --config caller.toml replay plan --from '3h ago' --dead-letter-reason rejected --status 422
      with the callers' settings file: its times decide which calls are too recent
  outbox --config caller.toml replay plan --keys-from keys.txt
  outbox --config caller.toml replay plan --partition 3 --offsets 1000..2000 --state accepted
      calls that were accepted, by name: `replay run` asks once more, since they are charged a second time
  outbox --config caller.toml replay plan --keys-from not-charged.txt --state unknown
      orders of which the topics do not say what became of them, and which the provider has not charged")]
pub(crate) struct PlanReplay {
    /// Idempotency keys of the orders.
    #[arg(value_name = "KEY")]
    pub(crate) keys: Vec<String>,

    /// File with one idempotency key per line; `-` for standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "keys")]
    pub(crate) keys_from: Option<PathBuf>,

    /// Calls that were appended to the outbox at this time or later: `30m ago`, `2026-11-23T02:00`, `02:00`.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) from: Option<Timestamp>,

    /// Calls that were appended to the outbox before this time.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) to: Option<Timestamp>,

    /// Calls of this partition of the outbox.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: Option<i32>,

    /// Calls at these offsets of the partition, the second excluded.
    #[arg(long, value_name = "A..B", requires = "partition")]
    pub(crate) offsets: Option<OffsetRange>,

    /// States to replay. Default: rejected, calls with a dead letter of which no request was processed.
    /// Any other may be charged a second time, and `replay run` asks for it by number. `unknown` needs keys.
    #[arg(long, value_name = "STATE", value_enum, default_values_t = [ReplayState::Rejected])]
    pub(crate) state: Vec<ReplayState>,

    /// Calls whose dead letter has this reason.
    // Its name of earlier versions, which took any text: a mistyped reason selected nothing.
    #[arg(long, alias = "rejected-for", value_name = "REASON", value_parser = PossibleValuesParser::new(call_reasons()))]
    pub(crate) dead_letter_reason: Option<String>,

    /// Calls whose dead letter has this HTTP status of the API.
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(100..=599))]
    pub(crate) status: Option<u16>,

    #[command(flatten)]
    pub(crate) which: WhichGroup,

    /// Reason, which is kept with the plan.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

/// State of calls to replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ReplayState {
    /// Dead letter; no request of the call was processed, as far as its caller knows.
    Rejected,
    /// Dead letter after a request with an unknown outcome.
    Ambiguous,
    /// Settled as rejected by an operator.
    Settled,
    /// Accepted.
    Accepted,
    /// Final, and the topics do not say how: the group was begun behind them (`group create --at end`), or their
    /// outcomes have left the topic. Only with keys: only the provider knows which of them it has not charged.
    Unknown,
}

/// Arguments of `replay run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox --config caller.toml replay run mdn3k0ab --canary 20 --rate 50/s --reason 'provider has fixed 422'
      appends 20 calls, waits until each was accepted, and then appends the others, 50 in a second")]
pub(crate) struct RunReplay {
    /// Plan, as `replay plan` has named it.
    #[arg(value_name = "PLAN")]
    pub(crate) plan: String,

    /// Number of calls that come first. Unless each of them is accepted, no other follows. It cannot be changed
    /// once the replay has begun.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) canary: Option<u64>,

    /// Maximum wait for the outcomes of the canary. Afterwards the command ends; run again, it waits again.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    pub(crate) canary_timeout: Duration,

    /// Maximum rate at which calls are appended, per second or per minute.
    #[arg(long, value_name = "N/s|N/m")]
    pub(crate) rate: Option<Rate>,

    /// Reason, which is kept with the replay.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,

    /// Number of calls of the plan that may be charged a second time, instead of typing it.
    #[arg(long, value_name = "COUNT")]
    pub(crate) charge_again: Option<u64>,

    /// Changes without asking for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Rate of calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// Number of calls in a second.
    pub(crate) per_second: f64,
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, seconds) = match text.split_once('/') {
            Some((number, "s")) => (number, 1.0),
            Some((number, "m")) => (number, 60.0),
            _ => (text, 1.0),
        };
        match number.parse::<u32>() {
            Ok(number @ 1..=1_000_000) => Ok(Self {
                per_second: f64::from(number) / seconds,
            }),
            _ => Err("expected a number of calls per second or minute, up to a million: 50/s, 600/m"),
        }
    }
}

/// Arguments of `replay status`.
#[derive(Debug, Args)]
pub(crate) struct ShowReplays {
    /// Plan; all if none is given.
    #[arg(value_name = "PLAN")]
    pub(crate) plan: Option<String>,
}

/// Arguments of `replay pause`, `resume` and `cancel`.
#[derive(Debug, Args)]
pub(crate) struct ChangeReplay {
    /// Plan, as `replay plan` has named it.
    #[arg(value_name = "PLAN")]
    pub(crate) plan: String,

    /// Reason, which is kept with the replay.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn reason_of_the_dead_letter_is_a_known_one() {
        let reason = |option: &str| {
            let words = format!("outbox replay plan {option}");
            match Cli::try_parse_from(words.split(' ')).ok()?.command {
                Command::Replay(ReplayCommand::Plan(options)) => options.dead_letter_reason,
                other => panic!("{words} is {other:?}"),
            }
        };
        for known in ["rejected", "abandoned", "rejected-by-operator"] {
            for option in ["dead-letter-reason", "rejected-for"] {
                assert_eq!(reason(&format!("--{option} {known}")).as_deref(), Some(known));
            }
        }
        // A mistyped one, and one for which only orders are refused, would select nothing.
        for other in ["rejeced", "key-missing"] {
            assert_eq!(reason(&format!("--dead-letter-reason {other}")), None, "{other}");
        }
    }

    #[test]
    fn rates_are_read() {
        let rate = |text: &str| text.parse::<Rate>().ok().map(|rate| rate.per_second);
        assert_eq!(
            [rate("50"), rate("50/s"), rate("30/m")],
            [Some(50.0), Some(50.0), Some(0.5)]
        );
        for wrong in ["0", "0/m", "-1", "5/h", "1.5", "", "2000000"] {
            assert_eq!(rate(wrong), None, "{wrong}");
        }
    }
}
