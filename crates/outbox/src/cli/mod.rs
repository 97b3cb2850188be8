//! Arguments of the command line.

pub(crate) mod dead_letters;
mod replay;
pub(crate) mod state;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use self::dead_letters::DeadLettersCommand;
pub(crate) use self::replay::{
    ChangeReplay, ListOperations, OffsetRange, OperationsCommand, PlanReplay, Rate, ReplayCommand,
    ReplayState, RunReplay, ShowReplays,
};
use self::state::{InspectState, RepartitionState, VerifyState};
use crate::start_position::StartPosition;

/// Operates the outbox pipeline: its topics and their contents.
///
/// Exit status: 0: success. 1: a check found something that a program refuses to start on, the operator
/// declined, or not every topic was created. 2: the command could not be carried out.
#[derive(Debug, Parser)]
#[command(name = "outbox", version = service::VERSION)]
pub(crate) struct Cli {
    /// Settings file (TOML): its own, or the validator's or caller's, of which it reads `[kafka]` and
    /// `[topics]`. Environment variables override settings: OUTBOX__KAFKA__BOOTSTRAP_SERVERS sets
    /// kafka.bootstrap_servers.
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
    /// that are pending and in flight, and how old the oldest is; parked calls, dead letters, and the switch of
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

/// Address of `outbox metrics`, and where `outbox health` asks it.
const METRICS_LISTEN: &str = "127.0.0.1:9466";
/// Environment variable with another one, so that both commands of one container agree.
const METRICS_LISTEN_VARIABLE: &str = "OUTBOX_METRICS_LISTEN";

/// Arguments of the command `metrics`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox --config validator.toml metrics
      with the validators' settings file: it tells how amounts are written
  outbox metrics --listen 0.0.0.0:9466 --interval 30")]
pub(crate) struct ServeMetrics {
    #[command(flatten)]
    pub(crate) which: WhichGroup,

    /// Consumer group of the validators: their setting kafka.group_id.
    #[arg(long, value_name = "GROUP", default_value = "order-validator")]
    pub(crate) validators: String,

    /// Address and port of /metrics, /healthz, /readyz and /status.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = METRICS_LISTEN,
        env = METRICS_LISTEN_VARIABLE
    )]
    pub(crate) listen: std::net::SocketAddr,

    /// Time between two readings, in seconds. It is longer if each reading takes more than a tenth of the time.
    #[arg(long, value_name = "SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,
}

/// Arguments of the command `health`.
#[derive(Debug, Args)]
pub(crate) struct AskHealth {
    /// Address and port that `outbox metrics` listens on.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = METRICS_LISTEN,
        env = METRICS_LISTEN_VARIABLE
    )]
    pub(crate) listen: std::net::SocketAddr,
}

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
    #[arg(long, value_name = "TIME", value_parser = crate::time_argument::parse_time)]
    pub(crate) from: Option<records::Timestamp>,

    #[command(flatten)]
    pub(crate) which: WhichGroup,
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
    /// policy decides on it. Shows what was found, asks, commits, and reads back. Refuses while the group has
    /// members, and leaves existing offsets unchanged.
    Recover(RecoverGroup),
}

/// Arguments of `group recover`.
#[derive(Debug, Args)]
pub(crate) struct RecoverGroup {
    #[command(flatten)]
    pub(crate) which: WhichGroup,

    /// Changes without asking for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
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

/// Argument of all commands on the calls of one group.
#[derive(Debug, Args)]
pub(crate) struct WhichGroup {
    /// Consumer group of the callers: their setting kafka.group_id.
    #[arg(long, value_name = "GROUP", default_value = "api-caller")]
    pub(crate) group: String,
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
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) reason: String,

    #[command(flatten)]
    pub(crate) which: WhichGroup,

    /// Changes without asking for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
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
    #[arg(long, value_name = "TIME", value_parser = crate::time_argument::parse_time)]
    pub(crate) as_of: Option<records::Timestamp>,

    /// Character between two columns.
    #[arg(long, value_name = "CHAR", default_value = ",", value_parser = delimiter)]
    pub(crate) delimiter: u8,

    /// Reason, which is kept with each settlement.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
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

/// Commands on the state of the validators: the changelog, from which each store is restored.
#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Appends to the changelog the entries that it has lost, as the outbox shows them: a validator halts a
    /// partition whose changelog was recreated or has lost its end, because it would admit those orders again.
    /// Shows what it will append, asks, appends, and compares again. Refuses while a validator runs. Repeating
    /// the command appends nothing twice.
    Rebuild(RebuildState),
    /// Appends to the changelog what the validators need after the topics have grown: a validator halts each
    /// partition then, because it would admit orders again whose keys have another partition now. Shows what it
    /// will append, asks, appends, and has the committed offsets name the new partition count. Refuses while a
    /// validator runs. It may be run again at any time.
    Repartition(RepartitionState),
    /// Shows the stores in a validator's state directory: size, keys, checkpoint, and whether they can be read. Needs
    /// no Kafka, and changes nothing. While the validator runs, only their sizes. Exit status 1 if a store is
    /// damaged.
    Inspect(InspectState),
    /// Compares each store in a stopped validator's state directory with the changelog up to the store's checkpoint,
    /// and the changelog with the outbox. Changes nothing. Exit status 1 if a key is missing, is not in the changelog,
    /// or has another entry, or if the changelog has lost keys.
    Verify(VerifyState),
}

/// Arguments of `state rebuild`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox --config validator.toml state rebuild
      compares all partitions, shows what the changelog lacks, and asks before it appends it
  outbox --config validator.toml state rebuild --accept-gap
      also where the outbox no longer has the orders that followed the last entry of the changelog: each of
      them is admitted, and paid, again if it is sent again")]
pub(crate) struct RebuildState {
    /// Consumer group of the validators: their setting kafka.group_id.
    #[arg(long, value_name = "GROUP", default_value = "order-validator")]
    pub(crate) group: String,

    /// Also if no validator of the group has ever run, as on a new cluster. Without it such a group is refused, because
    /// validators of another one may be running, and would halt on the rebuilt changelog.
    #[arg(long)]
    pub(crate) new_group: bool,

    /// Appends what the outbox still has, although entries between the changelog and the outbox are lost.
    #[arg(long)]
    pub(crate) accept_gap: bool,

    /// Changes without asking for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
}

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
