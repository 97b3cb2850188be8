//! G9: parked calls are settled by a file of the provider, and no order is charged twice or lost.
//!
//! Set-up: as in `settled_calls`, with 900 orders. The operator makes a CSV file of what the API has charged, and runs
//! `outbox parked reconcile` with it: orders in the file are accepted, all others are sent again. The command is killed
//! at each of its steps.
//!
//! Must hold: a file that lacks rows is refused. At the end no call waits, each was settled once, and the API has
//! charged each order exactly once.

use std::fmt::Write as _;
use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use harness::process::Process;
use harness::wait::await_until;

use super::drill::{COMMAND_MAX, Drill, STEPS, finished};
use crate::assertions::LIMIT;
use crate::{run, seed};

const ORDERS_EACH: u32 = 450;

/// Settles the parked calls by the file, of which the provider says that it has this number of rows.
fn reconcile(drill: &Drill, rows: usize) -> Result<Process> {
    let file = drill.pipeline.folder().join("provider.csv");
    let (file, rows) = (file.to_str().context("a path of text")?, rows.to_string());
    let arguments = "parked reconcile --order-column order --state-column state --accepted charged \
                     --absent send-again --reason drill --yes";
    let mut arguments: Vec<&str> = arguments.split_whitespace().collect();
    arguments.extend(["--csv", file, "--rows", &rows]);
    drill.command("outbox-reconcile", &arguments)
}

#[test]
fn reconciled_calls_are_charged_once() {
    run(|| {
        let (drill, waiting) = Drill::start("reconciled", seed(), ORDERS_EACH)?;
        let charged = drill.charged()?;
        let (mut csv, mut rows) = (String::from("id,order,state\n"), 0);
        for (order, _) in charged.iter().filter(|(_, times)| **times > 0) {
            writeln!(csv, "{rows},{order},charged")?;
            rows += 1;
        }
        std::fs::write(drill.pipeline.folder().join("provider.csv"), csv)?;
        let lost = waiting
            .iter()
            .filter(|key| charged.get(*key).copied().unwrap_or(0) == 0)
            .count();
        println!(
            "{} calls are parked, {lost} of them were not charged",
            waiting.len()
        );

        let refused = finished(&mut reconcile(&drill, rows + 1)?)?;
        ensure!(
            refused.contains("Nothing was changed"),
            "a file without all rows was used:\n{refused}"
        );
        drill.expect_settlements(0)?;
        for (step, passes) in STEPS {
            let mut killed = reconcile(&drill, rows)?;
            killed.start_with_crash_at(step, passes)?;
            killed.wait_killed(COMMAND_MAX)?;
        }
        // The latest calls are sent again only after their last request can no longer be processed.
        await_until("no call waits", LIMIT, || {
            let last = finished(&mut reconcile(&drill, rows)?)?;
            Ok(match drill.waiting()?.len() {
                0 => ControlFlow::Break(()),
                waiting => ControlFlow::Continue(format!("{waiting} wait:\n{last}")),
            })
        })?;
        drill.finish(waiting.len(), lost)
    });
}
