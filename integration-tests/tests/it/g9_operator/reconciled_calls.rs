//! G9: parked calls are settled by a file of the provider, and no order is charged twice or lost.
//!
//! Set-up: as in `settled_calls`, with 900 orders. The operator makes a CSV file of what the API has charged, and runs
//! `outbox parked reconcile` with it: orders in the file are accepted, all others are sent again. The command is killed
//! at each of its steps.
//!
//! Must hold: a file that lacks rows is refused, and one that has no parked order in the named column. Nothing is sent
//! again by a file that was made before the calls were parked. At the end no call waits, each was settled once, and the API has
//! charged each order exactly once.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use harness::process::Process;
use harness::wait::await_until;

use super::drill::{COMMAND_MAX, Drill, STEPS, finished};
use crate::assertions::LIMIT;
use crate::{run, seed};

const ORDERS_EACH: u32 = 450;

/// The provider's file.
struct File {
    rows: usize,
    /// Time up to which it has all that was charged.
    as_of: String,
}

/// Writes what the API has charged so far.
fn export(drill: &Drill) -> Result<File> {
    let as_of = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let (mut csv, mut rows) = (String::from("id,order,state\n"), 0);
    for (order, _) in drill.charged()?.iter().filter(|(_, times)| **times > 0) {
        writeln!(csv, "{rows},{order},charged")?;
        rows += 1;
    }
    std::fs::write(drill.pipeline.folder().join("provider.csv"), csv)?;
    Ok(File { rows, as_of })
}

/// Settles the parked calls by the file, whose orders are in this column.
fn reconcile_by(drill: &Drill, file: &File, column: &str) -> Result<Process> {
    let path = drill.pipeline.folder().join("provider.csv");
    let (path, rows) = (path.to_str().context("a path of text")?, file.rows.to_string());
    let arguments =
        "parked reconcile --state-column state --accepted charged --absent send-again --reason drill --yes";
    let mut arguments: Vec<&str> = arguments.split_whitespace().collect();
    arguments.extend([
        "--order-column",
        column,
        "--csv",
        path,
        "--rows",
        &rows,
        "--as-of",
        &file.as_of,
    ]);
    drill.command("outbox-reconcile", &arguments)
}

fn reconcile(drill: &Drill, file: &File) -> Result<Process> {
    reconcile_by(drill, file, "order")
}

#[test]
fn reconciled_calls_are_charged_once() {
    run(|| {
        let (drill, waiting) = Drill::start("reconciled", seed(), ORDERS_EACH)?;
        let charged = drill.charged()?;
        let lost = waiting
            .iter()
            .filter(|key| charged.get(*key).copied().unwrap_or(0) == 0)
            .count();
        println!(
            "{} calls are parked, {lost} of them were not charged",
            waiting.len()
        );

        let file = export(&drill)?;
        let part = File {
            rows: file.rows + 1,
            as_of: file.as_of.clone(),
        };
        for mut refused in [reconcile(&drill, &part)?, reconcile_by(&drill, &file, "id")?] {
            let refused = finished(&mut refused)?;
            ensure!(
                refused.contains("Nothing was changed"),
                "a file without all rows, or without a parked order, was used:\n{refused}"
            );
        }
        drill.expect_settlements(0)?;
        for (step, passes) in STEPS {
            let mut killed = reconcile(&drill, &file)?;
            killed.start_with_crash_at(step, passes)?;
            killed.wait_killed(COMMAND_MAX)?;
        }
        let early = File {
            as_of: "1day ago".into(),
            ..export(&drill)?
        };
        let output = finished(&mut reconcile(&drill, &early)?)?;
        let waiting_still = drill.waiting()?.len();
        ensure!(
            waiting_still > 0 && output.contains("--as-of"),
            "{waiting_still} wait after a file that was made before the calls were parked:\n{output}"
        );
        // The latest calls are sent again only after their last request can no longer be processed, and by a file that was
        // made then.
        await_until("no call waits", LIMIT, || {
            let last = finished(&mut reconcile(&drill, &export(&drill)?)?)?;
            Ok(match drill.waiting()?.len() {
                0 => ControlFlow::Break(()),
                waiting => ControlFlow::Continue(format!("{waiting} wait:\n{last}")),
            })
        })?;
        drill.finish(waiting.len(), lost)
    });
}
