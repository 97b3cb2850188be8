//! `replay run`: appends the calls of a plan, as far as they may still be made again.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pipeline::ledger::{AskedFor, Planner, RunningReplay, Stage, Step};
use records::operation::{Event, Planned};
use records::{Partition, Timestamp};
use serde::Serialize;
use service::failpoint::{guard_removed, kill_at};

use super::append::{Appender, Eligible};
use super::canary::{Canary, CanaryResult};
use super::fold::{self, Read, Which};
use super::reading::ReplayReader;
use super::{by_key, find, open_appending_producer, stage_text};
use crate::cli::{Rate, RunReplay};
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::confirm::{confirm, confirm_number};
use crate::operations_log::{OperationsLog, write_with};
use crate::progress::Progress;
use crate::tables::cell;
use crate::timestamp::rfc3339_millis;
use crate::transaction::CALLS_MAX;

/// Field names are those of the JSON output.
#[derive(Debug, Serialize)]
struct Report<'a> {
    plan: &'a str,
    stage: &'static str,
    calls: u64,
    appended: u64,
    left_out: u64,
    /// Calls of the canary that were not accepted: key, and position of the dead letter or parked record.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_accepted: Vec<(String, String)>,
}

pub(super) fn run(options: &RunReplay, config: &Config, json: bool) -> anyhow::Result<Status> {
    let plan = options.plan.as_str();
    let log = OperationsLog::open(config)?;
    let shown = find(&log.replays()?, plan)?.clone();
    if !is_runnable(plan, &shown)? {
        return report(plan, &shown, &[], json);
    }
    let Some(planned) = shown.planned().cloned() else {
        return report(plan, &shown, &[], json);
    };
    let asked_for = AskedFor::planned(&planned.states).with_context(not_run(plan))?;
    shown
        .expect_look_ups(config.looks_up())
        .with_context(not_run(plan))?;
    expect_quiescence(plan, &shown, config)?;
    if !is_confirmed(options, &planned, &shown)? {
        eprintln!("Nothing was changed.");
        return Ok(Status::Problem);
    }
    // First of all: from now on no other command appends calls, and what an earlier one has written is there.
    let producer = open_appending_producer(config)?;
    // Again: another operator may have run or cancelled it meanwhile.
    let mut replay = find(&log.replays()?, plan)?.clone();
    if !is_runnable(plan, &replay)? {
        return report(plan, &replay, &[], json);
    }
    let reading = ReplayReader::open(config, &planned.group)?;
    ensure!(
        planned.outbox.is_none() || planned.outbox == reading.outbox_id(),
        "the outbox {:?} was deleted and created again since the plan was made, so that its offsets name other calls. \
         Nothing was appended; make a new plan",
        config.topics.pending
    );
    let (read, eligible) = eligible(&reading, plan, &asked_for, &replay)?;
    // The operator has agreed to the number of the plan, which other settings or later dead letters may exceed.
    replay
        .expect_charged_again(&eligible, config.looks_up())
        .with_context(not_run(plan))?;
    let run = Run {
        options,
        appender: Appender {
            reading: &reading,
            producer: &producer,
            plan,
            reason: options.reason.as_deref(),
            eligible,
        },
        read,
    };
    let (status, failed) = run.steps(&mut replay)?;
    report(plan, &replay, &failed, json)?;
    Ok(status)
}

fn not_run(plan: &str) -> impl Fn() -> String {
    move || format!("running the plan {plan}; nothing was appended")
}

/// Returns whether the replay can be run; `false` if it is finished.
fn is_runnable(plan: &str, replay: &RunningReplay) -> anyhow::Result<bool> {
    match replay.stage() {
        Stage::Open => Ok(true),
        Stage::Finished => Ok(false),
        Stage::Paused | Stage::CanaryFailed => anyhow::bail!(
            "the replay {plan} is stopped ({}): `outbox replay resume {plan}` lets it go on, `outbox operations list` \
             tells who stopped it",
            stage_text(replay)
        ),
        Stage::Cancelled => anyhow::bail!("the replay {plan} was cancelled: make a new plan"),
    }
}

/// Fails if an earlier request of a planned call may still be processed.
fn expect_quiescence(plan: &str, replay: &RunningReplay, config: &Config) -> anyhow::Result<()> {
    let not_before = replay.not_before(config.quiescence());
    ensure!(
        not_before.is_none_or(|at| Timestamp::now() >= at),
        "an earlier request of the calls of the plan {plan} may be processed until {}, since nobody knows when they were \
         last sent: run it after that time, and ask the provider again first. Nothing was appended",
        rfc3339_millis(not_before)
    );
    Ok(())
}

fn is_confirmed(options: &RunReplay, planned: &Planned, replay: &RunningReplay) -> anyhow::Result<bool> {
    let Planned {
        calls, again, group, ..
    } = planned;
    ensure!(
        replay.begun_at().is_none() || options.canary.is_none_or(|canary| canary == replay.canary()),
        "the replay {} has begun with a canary of {} calls, which cannot be changed",
        options.plan,
        replay.canary()
    );
    let done = replay.appended() + replay.left_out();
    let question = format!(
        "Append {} calls of the plan {} to the outbox again? The callers of the group {group} make each of them.",
        calls - done.min(*calls),
        options.plan
    );
    if *again == 0 {
        return confirm(&question, options.yes);
    }
    let warning = format!("{again} of the {calls} calls may be charged a second time.");
    match options.charge_again {
        Some(count) => {
            ensure!(
                count == *again,
                "{warning} --charge-again says {count}; nothing was appended"
            );
            confirm(&question, options.yes)
        }
        // Not by --yes: it is what one types in a hurry.
        None => confirm_number(&format!("{question} {warning}"), *again, "--charge-again"),
    }
}

/// Reads which calls of the plan may be made again now.
fn eligible(
    reading: &ReplayReader<'_>,
    plan: &str,
    asked_for: &AskedFor,
    replay: &RunningReplay,
) -> anyhow::Result<(Read, Eligible)> {
    let partitions = replay.calls().keys();
    let which = Which::Plan {
        awaited: replay.awaits_canary().then_some(plan),
        calls: replay.calls(),
    };
    let now = Timestamp::now();
    let (read, eligible) = match asked_for {
        AskedFor::States(states) => {
            let mut planner = Planner::new(states.clone());
            let read = fold::read(reading, &mut planner, &which, now)?;
            let of = |partition: &Partition| (*partition, planner.replayable(*partition));
            (read, partitions.map(of).collect())
        }
        AskedFor::Unknown => {
            let keys = by_key::keys_of(reading, replay.calls())?;
            let (read, orders) = by_key::read(reading, keys, &which, now)?;
            let of = |partition: &Partition| (*partition, orders.replayable(*partition));
            (read, partitions.map(of).collect())
        }
    };
    if guard_removed!("guard-replay-states") {
        // A test removes the guard: each call is made again, whatever became of it since it was planned.
        let all = replay
            .calls()
            .iter()
            .map(|(partition, offsets)| (*partition, [(asked_for.states()[0], offsets.clone())].into()))
            .collect();
        return Ok((read, all));
    }
    Ok((read, eligible))
}

/// One run of a replay.
struct Run<'a> {
    options: &'a RunReplay,
    appender: Appender<'a>,
    read: Read,
}

impl Run<'_> {
    /// Carries out all steps. Returns the calls of the canary that were not accepted.
    fn steps(&self, replay: &mut RunningReplay) -> anyhow::Result<(Status, Vec<(String, String)>)> {
        let begun_at = match replay.begun_at() {
            Some(at) => at,
            None => {
                let (canary, at) = (self.options.canary.unwrap_or(0), Timestamp::now());
                self.write(replay, Event::Begun { canary, at })?;
                at
            }
        };
        let (started, mut appended) = (Instant::now(), 0);
        let progress = Progress::new();
        loop {
            match replay.step(self.calls_max()) {
                Step::Append(batch) => {
                    let before = replay.appended();
                    replay.take(self.appender.append(&batch)?);
                    appended += replay.appended() - before;
                    progress.wait(format!(
                        "{} calls appended, {} left out",
                        replay.appended(),
                        replay.left_out()
                    ));
                    self.pace(started, appended);
                }
                Step::AwaitCanary => {
                    kill_at!("before-replay-canary");
                    let Read { appended, ends, .. } = &self.read;
                    let mut canary = Canary::new(
                        self.appender.reading,
                        self.appender.plan,
                        appended,
                        ends,
                        begun_at,
                    )?;
                    match canary.wait(self.options.canary_timeout)? {
                        CanaryResult::Passed => self.write(replay, Event::CanaryPassed)?,
                        CanaryResult::Failed(calls) => {
                            self.write(replay, Event::CanaryFailed)?;
                            let calls = calls.into_iter().map(|(key, at)| (key, at.to_string()));
                            return Ok((Status::Problem, calls.collect()));
                        }
                        CanaryResult::Undecided(open) => {
                            eprintln!(
                                "{open} calls of the canary have no outcome yet, after {}. No other call was appended; \
                                 run the command again to wait for them.",
                                humantime::format_duration(self.options.canary_timeout)
                            );
                            return Ok((Status::Problem, Vec::new()));
                        }
                    }
                }
                Step::Finish => {
                    kill_at!("before-replay-finish");
                    self.write(replay, Event::Finished)?;
                    progress.finish();
                    return Ok((Status::Ok, Vec::new()));
                }
            }
        }
    }

    /// Returns how many calls one transaction has: no more than the rate allows in a second.
    fn calls_max(&self) -> usize {
        match self.options.rate {
            // The number is positive and small.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and the maximum"
            )]
            Some(Rate { per_second }) => (per_second.ceil().min(CALLS_MAX as f64) as usize).max(1),
            None => CALLS_MAX,
        }
    }

    /// Waits until the rate allows the next call.
    fn pace(&self, started: Instant, appended: u64) {
        if let Some(Rate { per_second }) = self.options.rate {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let due = Duration::from_secs_f64(appended as f64 / per_second);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
    }

    fn write(&self, replay: &mut RunningReplay, of: Event) -> anyhow::Result<()> {
        let Appender {
            reading, producer, ..
        } = &self.appender;
        write_with(producer, reading.config, &[self.appender.operation(of.clone())])?;
        replay.take(of);
        Ok(())
    }
}

fn report(
    plan: &str,
    replay: &RunningReplay,
    not_accepted: &[(String, String)],
    json: bool,
) -> anyhow::Result<Status> {
    let report = Report {
        plan,
        stage: stage_text(replay),
        calls: replay.planned().map_or(0, |planned| planned.calls),
        appended: replay.appended(),
        left_out: replay.left_out(),
        not_accepted: not_accepted.to_vec(),
    };
    if json {
        print_json(&report)?;
        return Ok(Status::Ok);
    }
    for (key, at) in &report.not_accepted {
        println!("{} was not accepted: see {at}", cell(key));
    }
    println!(
        "Replay {plan}, {}: {} of {} calls appended, {} left out because their state has changed.",
        report.stage, report.appended, report.calls, report.left_out
    );
    if replay.stage() == Stage::CanaryFailed {
        println!(
            "No other call follows. `outbox replay resume {plan}` lets the others follow after all, \
             `outbox replay cancel {plan}` ends it."
        );
    }
    Ok(Status::Ok)
}
