//! `order`: the history of one order across all topics, and whether it may be called again.

mod history;
mod judgement;
mod reading;

use serde::Serialize;

use self::history::Event;
use self::reading::OrderReader;
use crate::cli::ShowOrder;
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::tables::{new_table, printable};
use crate::timestamp::rfc3339_millis;

/// Field names are those of the JSON output.
#[derive(Debug, Serialize)]
struct Report<'a> {
    key: &'a str,
    events: Vec<Event>,
    /// State of each call of the order: one, unless an operator has repeated an accepted one.
    calls: Vec<judgement::Judged>,
    /// Whether it may be called again, and why.
    sentence: String,
}

pub(crate) fn run(options: &ShowOrder, config: &Config, json: bool) -> anyhow::Result<Status> {
    let mut read = OrderReader::open(config, options)?.read()?;
    // By time, and those of one millisecond in the order in which an order passes the topics, in which they were read.
    read.events.sort_by_key(|event| event.at);
    let calls = judgement::judge(&read, config);
    let report = Report {
        key: &options.key,
        sentence: judgement::sentence(&options.key, &calls, &read),
        events: read.events,
        calls,
    };
    let status = match report.events.is_empty() {
        true => Status::Problem,
        false => Status::Ok,
    };
    if json {
        print_json(&report)?;
        return Ok(status);
    }
    if !report.events.is_empty() {
        let mut table = new_table(["at (UTC)", "what", "where", "detail"]);
        for event in &report.events {
            table.add_row([
                rfc3339_millis(event.at),
                event.what.to_owned(),
                event.place.clone(),
                printable(&event.detail),
            ]);
        }
        println!("{table}");
    }
    println!("{}", printable(&report.sentence));
    if let Some(call) = report.calls.last() {
        println!(
            "`outbox caller --config FILE --show-request {}` shows its request, and sends nothing.",
            call.last
        );
    }
    Ok(status)
}
