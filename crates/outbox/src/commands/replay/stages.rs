//! `replay status`, `pause`, `resume` and `cancel`.

use anyhow::bail;
use pipeline::ledger::{RunningReplay, Stage};
use records::operation::Event;
use serde::Serialize;

use super::{find, open_appending_producer, stage_text};
use crate::cli::{ChangeReplay, ShowReplays};
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::operations_log::{OperationsLog, event, write_with};
use crate::tables::new_table;

/// Change of a replay's stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Pause,
    Resume,
    Cancel,
}

/// Field names are those of the JSON output.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Shown {
    plan: String,
    stage: &'static str,
    group: String,
    calls: u64,
    again: u64,
    states: Vec<String>,
    canary: u64,
    appended: u64,
    left_out: u64,
}

impl Shown {
    fn of(plan: &str, replay: &RunningReplay) -> Option<Self> {
        let planned = replay.planned()?;
        Some(Self {
            plan: plan.to_owned(),
            stage: stage_text(replay),
            group: planned.group.clone(),
            calls: planned.calls,
            again: planned.again,
            states: planned.states.clone(),
            canary: replay.canary(),
            appended: replay.appended(),
            left_out: replay.left_out(),
        })
    }
}

pub(super) fn status(options: &ShowReplays, config: &Config, json: bool) -> anyhow::Result<Status> {
    let replays = OperationsLog::open(config)?.replays()?;
    let shown: Vec<Shown> = match &options.plan {
        Some(plan) => Shown::of(plan, find(&replays, plan)?).into_iter().collect(),
        None => replays
            .all()
            .filter_map(|(plan, replay)| Shown::of(plan, replay))
            .collect(),
    };
    if json {
        print_json(&shown)?;
        return Ok(Status::Ok);
    }
    if shown.is_empty() {
        println!("No replay was planned: `outbox replay plan` plans one.");
        return Ok(Status::Ok);
    }
    let mut table = new_table([
        "plan", "stage", "group", "states", "calls", "canary", "appended", "left out",
    ]);
    for of in &shown {
        table.add_row([
            of.plan.clone(),
            of.stage.to_owned(),
            of.group.clone(),
            of.states.join(", "),
            of.calls.to_string(),
            of.canary.to_string(),
            of.appended.to_string(),
            of.left_out.to_string(),
        ]);
    }
    println!("{table}");
    Ok(Status::Ok)
}

pub(super) fn change(
    change: Change,
    options: &ChangeReplay,
    config: &Config,
    json: bool,
) -> anyhow::Result<Status> {
    let plan = options.plan.as_str();
    let log = OperationsLog::open(config)?;
    find(&log.replays()?, plan)?;
    // It fences the run, which has appended its last call from then on.
    let producer = open_appending_producer(config)?;
    let mut replay = find(&log.replays()?, plan)?.clone();
    let (event_of, command) = match (change, replay.stage()) {
        (_, Stage::Finished) => bail!("the replay {plan} is finished: there is nothing to change"),
        (_, Stage::Cancelled) => bail!("the replay {plan} was cancelled: make a new plan"),
        (Change::Pause, _) => (Event::Paused, "replay pause"),
        (Change::Resume, Stage::Open) => {
            bail!("the replay {plan} is not stopped: `outbox replay run {plan}` runs it")
        }
        (Change::Resume, _) => (Event::Resumed, "replay resume"),
        (Change::Cancel, _) => (Event::Cancelled, "replay cancel"),
    };
    let operation = event(command, plan, event_of.clone(), options.reason.as_deref());
    write_with(&producer, config, &[operation])?;
    replay.take(event_of);
    let shown = Shown::of(plan, &replay);
    if json {
        print_json(&shown)?;
        return Ok(Status::Ok);
    }
    println!(
        "Replay {plan}, {}: {} calls appended, {} left out.",
        stage_text(&replay),
        replay.appended(),
        replay.left_out()
    );
    if change == Change::Resume {
        println!("`outbox replay run {plan}` goes on.");
    }
    Ok(Status::Ok)
}
