//! `status`: how the pipeline does, as far as Kafka knows.

mod report;
mod screen;

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context;

use self::report::{Report, report};
use crate::cli::ShowStatus;
use crate::commands::{Status, print_json};
use crate::config::Config;

/// Clears the screen, and goes to its upper left corner (ECMA-48).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Shows the status, once or again and again.
pub(crate) fn run(options: &ShowStatus, config: &Config, json: bool) -> anyhow::Result<Status> {
    let Some(seconds) = options.watch else {
        let report = report(options, config)?;
        return show(&report, json);
    };
    loop {
        // Read first: the last one stays on the screen meanwhile.
        let report = report(options, config)?;
        if !json {
            print!("{CLEAR}");
        }
        show(&report, json)?;
        std::io::stdout().flush().context("writing to standard output")?;
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

fn show(report: &Report, json: bool) -> anyhow::Result<Status> {
    if json {
        print_json(report)?;
    } else {
        println!("{}", screen::table(report));
        println!("{}", screen::text(report));
    }
    let halts = report.partitions.iter().any(|of| of.halts.is_some());
    Ok(if halts { Status::Problem } else { Status::Ok })
}
