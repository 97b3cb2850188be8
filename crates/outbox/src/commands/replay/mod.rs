//! `replay`: appends calls to the outbox again, by a plan that an operator has seen.

mod append;
mod by_key;
mod call_filter;
mod canary;
mod fold;
mod plan;
mod reading;
mod run;
mod stages;

use anyhow::Context;
use kafka::TransactionalProducer;
use pipeline::ledger::{Replays, RunningReplay, Stage};
use service::failpoint::guard_removed;

use crate::cli::ReplayCommand;
use crate::commands::Status;
use crate::config::Config;
use crate::transaction::open_producer;

/// Runs a command on replays.
pub(crate) fn run(command: &ReplayCommand, config: &Config, json: bool) -> anyhow::Result<Status> {
    match command {
        ReplayCommand::Plan(options) => plan::run(options, config, json),
        ReplayCommand::Run(options) => run::run(options, config, json),
        ReplayCommand::Status(options) => stages::status(options, config, json),
        ReplayCommand::Pause(options) => stages::change(stages::Change::Pause, options, config, json),
        ReplayCommand::Resume(options) => stages::change(stages::Change::Resume, options, config, json),
        ReplayCommand::Cancel(options) => stages::change(stages::Change::Cancel, options, config, json),
    }
}

/// Opens the producer that appends calls. It fences the run of any replay.
fn open_appending_producer(config: &Config) -> anyhow::Result<TransactionalProducer> {
    let topics = [config.topics.pending.as_str(), &config.topics.operations];
    let mut id = format!("outbox-replay-{}", config.topics.pending);
    if guard_removed!("guard-replay-fence") {
        // A test removes the guard: the commands of two operators do not know of each other.
        id.push_str(&std::process::id().to_string());
    }
    open_producer(config, &id, &topics)
}

fn find<'r>(replays: &'r Replays, plan: &str) -> anyhow::Result<&'r RunningReplay> {
    replays
        .get(plan)
        .with_context(|| format!("there is no plan {plan:?}: `outbox replay status` lists them"))
}

/// Returns a stage in words.
fn stage_text(replay: &RunningReplay) -> &'static str {
    match (replay.stage(), replay.begun_at().is_some()) {
        (Stage::Open, false) => "planned",
        (Stage::Open, true) => "begun",
        (Stage::Paused, _) => "paused",
        (Stage::CanaryFailed, _) => "canary failed",
        (Stage::Cancelled, _) => "cancelled",
        (Stage::Finished, _) => "finished",
    }
}
