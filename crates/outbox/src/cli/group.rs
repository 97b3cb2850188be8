//! Arguments of the commands on the callers' group: `group`, `pause` and `resume`.

use clap::{Args, Subcommand, ValueEnum};

use super::WhichGroup;
use crate::start_position::StartPosition;

/// Commands on the callers' consumer group.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Begins a group on each partition of the outbox for which it has no committed offset. A caller halts
    /// such a partition unless it is empty: calls of it may have been made by a group whose offsets expired.
    /// Shows which calls will be made, asks, commits, and reads back. Refuses while the group has members,
    /// and leaves existing offsets unchanged.
    Create(CreateGroup),
    /// Recovers a group that has lost its offsets: rebuilds them, and the call notes, from the outbox, the
    /// outcomes, the call dead letters and the parked calls. A call with neither is ambiguous, and the callers'
    /// policy decides on it; if its outcome may have been deleted, you decide, by `--if-outcome-gone`. Shows what was
    /// found, asks, commits, and reads back. Refuses while the group has members, and leaves existing offsets unchanged.
    Recover(RecoverGroup),
}

/// Arguments of `group recover`.
#[derive(Debug, Args)]
pub(crate) struct RecoverGroup {
    #[command(flatten)]
    pub(crate) which: WhichGroup,

    /// What becomes of calls without an outcome that may have had one: they were admitted before the first outcome that
    /// its topic still has. Needed if there are such calls.
    #[arg(long, value_name = "STATE")]
    pub(crate) if_outcome_gone: Option<IfOutcomeGone>,

    /// Changes without asking for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// What becomes of a call without an outcome that may have had one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IfOutcomeGone {
    /// No caller makes it. `replay plan --state unknown` plans it by the key of its order.
    Final,
    /// The callers' policy decides on it: `park` parks it, `verify` looks it up, `retry` sends it, which charges it again
    /// if it was accepted.
    Ambiguous,
}

/// Arguments of `group create`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox group create --at end
      calls only what comes from now on: each call in the outbox was made, or must not be
  outbox group create --at beginning --group api-caller-2
      calls everything in the outbox, also what another group has called
  outbox group create --at 2026-03-01T08:00:00Z
      calls what was written from then on")]
pub(crate) struct CreateGroup {
    #[command(flatten)]
    pub(crate) which: WhichGroup,

    /// Place in the outbox from which calls are made: its beginning, its end, or the first record from a time
    /// on (UTC, such as 2026-03-01T08:00:00Z).
    #[arg(long, value_name = "beginning|end|TIMESTAMP", value_parser = StartPosition::parse)]
    pub(crate) at: StartPosition,

    /// Changes without asking for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Arguments of `pause` and `resume`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox pause --reason 'provider maintenance until 03:00'
  outbox resume
      callers that start meanwhile follow the switch too; it stays as it is until it is set again")]
pub(crate) struct SwitchCalls {
    #[command(flatten)]
    pub(crate) which: WhichGroup,

    /// Reason, which callers log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,

    /// Also if no caller of the group has ever run, as on a new cluster. Without it such a group is refused, because a
    /// wrong name would pause nothing.
    #[arg(long)]
    pub(crate) new_group: bool,

    /// Changes without asking for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
}
