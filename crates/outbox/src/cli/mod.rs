//! Arguments of the command line.

mod dead_letters;
mod group;
mod metrics;
mod offset_range;
mod operations;
mod order;
mod parked;
mod replay;
mod state;
mod status;
mod topics;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use self::dead_letters::{
    DeadLettersCommand, FilterDeadLetters, GroupDeadLetters, ListDeadLetters, ReplayDeadLetters,
    ShowDeadLetters, WhichDeadLetters,
};
pub(crate) use self::group::{CreateGroup, GroupCommand, IfOutcomeGone, RecoverGroup, SwitchCalls};
pub(crate) use self::metrics::{AskHealth, ServeMetrics};
pub(crate) use self::offset_range::OffsetRange;
pub(crate) use self::operations::{ListOperations, OperationsCommand};
pub(crate) use self::order::ShowOrder;
pub(crate) use self::parked::{
    Absent, DecideParked, ListParked, ParkedCommand, ReconcileParked, SettleParked, ShowParked,
};
pub(crate) use self::replay::{
    ChangeReplay, PlanReplay, Rate, ReplayCommand, ReplayState, RunReplay, ShowReplays,
};
pub(crate) use self::state::{InspectState, RebuildState, RepartitionState, StateCommand, VerifyState};
pub(crate) use self::status::{Notes, ShowStatus};
pub(crate) use self::topics::{CreateTopics, ShowAcls, TopicsCommand};

/// Operates the outbox pipeline: its topics and their contents.
///
/// Exit status: 0: success. 1: a check found something that a program refuses to start on, the operator
/// declined, or not every topic was created. 2: the command could not be carried out.
#[derive(Debug, Parser)]
#[command(name = "outbox", version = service::VERSION)]
pub(crate) struct Cli {
    /// Settings file (TOML): its own, the validators' or the callers'. `order`, `parked` and `replay` go by `[caller]`,
    /// `[api]` and `[verify]` of the callers' file, `state` and `dead-letters` by `[validator]`, `[order]` and `[store]` of
    /// the validators'; the defaults count where a section is missing. The others need `[kafka]` and `[topics]` alone.
    /// Environment variables override settings: OUTBOX__KAFKA__BOOTSTRAP_SERVERS sets kafka.bootstrap_servers.
    #[arg(long, value_name = "FILE", env = "OUTBOX_CONFIG", global = true)]
    pub(crate) config: Option<PathBuf>,

    /// Prints the result as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Commands of the operator.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows how the pipeline does: orders that wait for the validators, and per partition of the outbox the calls
    /// that are pending, and perhaps sent, and how old the oldest is; parked calls, dead letters, and the switch of
    /// the group. Of the programs that are named, whether they are ready and why not, their circuit breaker, and the
    /// partitions that they restore or have halted. Exit status 1 if a caller would halt a partition, or if a named
    /// program does not answer, is not ready, or has its circuit breaker open.
    Status(ShowStatus),
    /// Serves, for Prometheus, what only Kafka knows of the pipeline, also while no other program runs: calls that are
    /// pending and how old the oldest is, orders that wait for the validators, and parked calls, with their age and amounts.
    /// Reads only. Runs until it is stopped (SIGTERM).
    Metrics(ServeMetrics),
    /// Asks a running `outbox metrics` on this machine whether it is ready, and prints the answer. Exit status 0: ready;
    /// 1: not ready, with the reasons, or no answer within 3 s. For health checks of containers, which then need no shell
    /// and no HTTP client.
    Health(AskHealth),
    /// Does nothing until it is stopped (SIGTERM): keeps a container open in which an operator runs the other commands,
    /// since the image has neither a shell nor `sleep`.
    Idle,
    /// Shows the history of one order across all topics, and whether it may be called again. Exit status 1 if there is
    /// nothing of it.
    Order(ShowOrder),
    /// Creates and verifies the topics.
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Begins the callers' consumer group, or recovers one that has lost its offsets.
    #[command(subcommand)]
    Group(GroupCommand),
    /// Pauses the calls of a callers' group: its callers stop sending within a second, and keep their calls.
    Pause(SwitchCalls),
    /// Resumes the calls of a callers' group.
    Resume(SwitchCalls),
    /// Shows the parked calls, whose outcome is unknown, and settles them.
    #[command(subcommand)]
    Parked(ParkedCommand),
    /// Appends calls to the outbox again: plans which, shows how much money they are, and runs the plan.
    #[command(subcommand)]
    Replay(ReplayCommand),
    /// Shows what operators have changed.
    #[command(subcommand)]
    Operations(OperationsCommand),
    /// Shows, verifies and repairs the state of the validators.
    #[command(subcommand)]
    State(StateCommand),
    /// Shows the call notes of each outbox partition: the commit position, the calls beyond it that are
    /// final, and the calls whose intent is recorded, which the API may have processed.
    Notes(Notes),
    /// Shows the dead letters of orders and calls, and writes refused orders back to the orders topic.
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Runs the validator that lies beside this program, in its place.
    #[command(disable_help_flag = true)]
    Validator(Launch),
    /// Runs the caller that lies beside this program, in its place: bash has a builtin of that name.
    #[command(disable_help_flag = true)]
    Caller(Launch),
    /// Prints completions of this command line for a shell.
    Completions(Completions),
}

/// Argument of all commands on the calls of one group.
#[derive(Debug, Args)]
pub(crate) struct WhichGroup {
    /// Consumer group of the callers: their setting kafka.group_id.
    #[arg(long, value_name = "GROUP", default_value = "api-caller")]
    pub(crate) group: String,
}

/// Arguments of the commands `validator` and `caller`.
#[derive(Debug, Args)]
pub(crate) struct Launch {
    /// Arguments of the program.
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<std::ffi::OsString>,
}

/// Arguments of the command `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox completions bash >/etc/bash_completion.d/outbox
  outbox completions zsh >~/.zfunc/_outbox")]
pub(crate) struct Completions {
    /// Shell.
    #[arg(value_name = "SHELL", value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_may_precede_or_follow_the_command() {
        Cli::command().debug_assert();
        for line in [
            "--config a.toml --json topics create --yes",
            "topics create --yes --json --config a.toml",
        ] {
            let cli =
                Cli::try_parse_from([&["outbox"], line.split(' ').collect::<Vec<_>>().as_slice()].concat())
                    .expect("a valid command line");
            assert_eq!((cli.config, cli.json), (Some("a.toml".into()), true));
        }
        assert!(Cli::try_parse_from(["outbox", "topics", "create", "--partitions", "0"]).is_err());
    }
    #[test]
    fn commands_of_the_runbook_are_valid() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docker/RUNBOOK.md");
        let runbook = std::fs::read_to_string(path).expect("the runbook");
        let commands: Vec<&str> = runbook
            .lines()
            .filter(|line| line.starts_with("outbox "))
            .collect();
        assert!(commands.len() > 20, "{commands:?}");
        for command in commands {
            // Quoted words are the odd parts between the quotation marks.
            let words = command
                .split('\'')
                .enumerate()
                .flat_map(|(number, part)| match number % 2 {
                    0 => part.split_whitespace().collect(),
                    _ => vec![part],
                });
            let parsed = Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{command}: {}", parsed.expect_err("not valid"));
        }
    }

    /// Those behind `kubectl exec`, and the arguments of the Jobs.
    #[test]
    fn commands_of_the_page_for_kubernetes_are_valid() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docker/kubernetes/README.md");
        let page = std::fs::read_to_string(path).expect("the page");
        let behind = |mark| {
            page.lines()
                .filter_map(move |line| Some(line.split_once(mark)?.1))
        };
        let in_pods = behind(" -- outbox ").map(|words| words.split(' ').map(str::to_owned).collect());
        let in_jobs = behind("--argjson args '").map(|json| {
            let json = json.split('\'').next().unwrap_or_default();
            serde_json::from_str(json).expect("a list of arguments")
        });
        let commands: Vec<Vec<String>> = in_pods.chain(in_jobs).collect();
        assert!(commands.len() > 3, "{commands:?}");
        for command in commands {
            let words = [&["outbox".to_owned()], command.as_slice()].concat();
            let parsed = Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{command:?}: {}", parsed.expect_err("not valid"));
        }
    }
}
