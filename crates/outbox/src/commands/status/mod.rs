//! `status`: how the pipeline does, as far as Kafka knows, and the running programs that are named.

mod programs;
mod programs_table;
mod report;
mod screen;

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use self::programs::{Asked, addresses, ask};
use self::report::{Report, report};
use crate::cli::ShowStatus;
use crate::commands::{Status, print_json};
use crate::config::Config;

/// Clears the screen, and goes to its upper left corner (ECMA-48).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What is shown. Its field names are those of the JSON output.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    report: Report,
    /// Programs that were asked.
    programs: Vec<Asked>,
}

/// Shows the status, once or again and again.
pub(crate) fn run(options: &ShowStatus, config: &Config, json: bool) -> anyhow::Result<Status> {
    let addresses = addresses(options, config)?;
    let read = || -> anyhow::Result<Shown> {
        Ok(Shown {
            programs: ask(&addresses, &config.status.token_file)?,
            report: report(options, config)?,
        })
    };
    let Some(seconds) = options.watch else {
        return show(&read()?, json);
    };
    loop {
        // Read first: the last one stays on the screen meanwhile.
        let shown = read()?;
        if !json {
            print!("{CLEAR}");
        }
        show(&shown, json)?;
        std::io::stdout().flush().context("writing to standard output")?;
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

fn show(shown: &Shown, json: bool) -> anyhow::Result<Status> {
    let Shown { report, programs } = shown;
    if json {
        print_json(shown)?;
    } else {
        println!("{}", screen::table(report));
        for repair in screen::repairs(report) {
            println!("{repair}");
        }
        if !programs.is_empty() {
            println!("{}", programs_table::table(programs));
        }
        for reason in programs_table::reasons(programs) {
            println!("{reason}");
        }
        println!("{}", screen::text(report));
        if programs.is_empty() {
            println!("{}", programs_table::NONE_NAMED);
        }
    }
    let halts = report.partitions.iter().any(|of| of.halts.is_some());
    let is_sound = programs.iter().all(Asked::is_sound);
    Ok(if halts || !is_sound {
        Status::Problem
    } else {
        Status::Ok
    })
}
