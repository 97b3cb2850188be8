//! `parked show`: all that is known of one order's parked calls.

use std::time::Duration;

use kafka::group_offsets::TopicRecord;
use records::Timestamp;
use records::settlement::{Decision, Settlement};
use serde::Serialize;

use super::reading::{Kind, ParkedReader};
use crate::cli::ShowParked;
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::timestamp::rfc3339;

/// Records of one order in the parked topic. Its field names are those of the JSON output.
#[derive(Debug, Serialize)]
struct Shown {
    key: String,
    /// Positions of the calls that wait.
    waiting: Vec<String>,
    /// Those of them that may have an outcome that its topic no longer has.
    outcome_may_be_gone: Vec<String>,
    /// Records of the parked topic with this key, in their order.
    records: Vec<Record>,
}

#[derive(Debug, Serialize)]
struct Record {
    /// Position of the record.
    at: String,
    /// Call that is parked or settled.
    call: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    settlement: Option<Settlement>,
    /// Headers, in their order, as text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
    /// The order, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<String>,
}

pub(super) fn run(options: &ShowParked, config: &Config, json: bool) -> anyhow::Result<Status> {
    let reading = ParkedReader::open(config, &options.which.group)?;
    let calls = reading.parked_calls()?;
    let key = options.key.as_bytes();
    let waiting: Vec<_> = calls
        .waiting()
        .filter(|(_, waiting)| *waiting.record.key == *key)
        .map(|(call, _)| call)
        .collect();
    let gone = waiting.iter().filter(|call| calls.outcome_may_be_gone(call));
    let mut shown = Shown {
        key: options.key.clone(),
        outcome_may_be_gone: gone.map(ToString::to_string).collect(),
        waiting: waiting.iter().map(ToString::to_string).collect(),
        records: Vec::new(),
    };
    reading.visit_all_parked(|partition, record, kind| {
        if record.key == key {
            let at = format!("{}/{partition}@{}", config.topics.parked, record.offset);
            shown.records.push(of(at, record, kind));
        }
        Ok(())
    })?;
    if json {
        print_json(&shown)?;
    } else {
        print(&shown, &config.topics.processed);
    }
    // For scripts: a key without a parked record is most likely mistyped.
    Ok(if shown.records.is_empty() {
        Status::Problem
    } else {
        Status::Ok
    })
}

fn of(at: String, record: &TopicRecord<'_>, kind: Kind) -> Record {
    match kind {
        Kind::Settled(call, settlement) => Record {
            at,
            call: call.to_string(),
            settlement: Some(settlement),
            headers: Vec::new(),
            order: None,
        },
        Kind::Parked(call) => Record {
            at,
            call: call.to_string(),
            settlement: None,
            headers: record
                .headers
                .readable
                .iter()
                .map(|(name, value)| {
                    let value = String::from_utf8_lossy(value.unwrap_or_default());
                    ((*name).to_owned(), value.into_owned())
                })
                .collect(),
            order: Some(String::from_utf8_lossy(record.value).into_owned()),
        },
    }
}

fn print(shown: &Shown, processed: &str) {
    let key = &shown.key;
    if shown.records.is_empty() {
        println!("No call of {key} was ever parked: check the spelling of the key.");
        return;
    }
    for record in &shown.records {
        if let Some(settlement) = &record.settlement {
            println!(
                "{}: {} settled by {} at {}, {}: {}",
                record.at,
                record.call,
                settlement.by,
                rfc3339(Some(settlement.at)),
                match settlement.decision {
                    Decision::Accepted => "as accepted",
                    Decision::Rejected => "as rejected",
                    Decision::SendAgain => "sent again",
                },
                settlement.reason
            );
            continue;
        }
        println!("{}: {} parked", record.at, record.call);
        for (name, value) in &record.headers {
            println!("    {name}: {value}{}", time_of(name, value));
        }
        println!("    order: {}", record.order.as_deref().unwrap_or_default());
    }
    match shown.waiting.as_slice() {
        [] => println!("No call of {key} waits: each was settled, or has an outcome or a dead letter."),
        calls => println!(
            "{key} waits for an operator ({}): find out at the API whether it was processed, then `outbox parked \
             settle {key}` with --accepted, --rejected or --send-again.",
            calls.join(", ")
        ),
    }
    if !shown.outcome_may_be_gone.is_empty() {
        println!(
            "It may have been accepted before: {processed} no longer has all outcomes that came after {key} was admitted. So \
             it is not sent again."
        );
    }
}

/// Returns the time of a header that holds one, readable for people.
pub(in crate::commands) fn time_of(name: &str, value: &str) -> String {
    if !name.ends_with("-at") {
        return String::new();
    }
    let at = value.parse().ok().map(Timestamp);
    at.map_or(String::new(), |at| format!(" ({})", rfc3339(Some(at))))
}

/// Returns a time span for people, without fractions.
pub(super) fn span(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable() {
        assert_eq!(
            time_of("outbox-error-at", "1772352000500"),
            " (2026-03-01T08:00:00Z)"
        );
        assert_eq!(time_of("outbox-error-at", "soon"), "");
        assert_eq!(time_of("outbox-attempts", "1772352000500"), "");
        assert_eq!(span(Duration::from_millis(105_900)), "1m 45s");
    }
}
