//! `replay plan`: which calls of a selection can be made again, how much money they are, and why the others are left
//! out.

use std::collections::BTreeMap;

use kafka::group_offsets::TopicRecord;
use pipeline::ledger::{AskedFor, Contents, Planner, Replayable, Replays};
use records::operation::{Event, Operation, Planned};
use records::{Bounds, Offset, OffsetSet, Partition, Timestamp};
use serde::Serialize;

use super::call_filter::CallFilter;
use super::fold::{self, Read, Which};
use super::reading::ReplayReader;
use super::{by_key, find};
use crate::amounts::amount_text;
use crate::cli::PlanReplay;
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::keys::keys;
use crate::operations_log::{event, write};
use crate::tables::{cell, new_table};
use crate::timestamp::{rfc3339, rfc3339_millis};

/// Number of calls that are shown.
const SHOWN_MAX: usize = 10;
/// Number of runs of offsets in one record, which stays below Kafka's default size of one: two numbers of up to 19
/// digits each, and four more characters.
const RUNS_MAX: usize = 20_000;

/// Field names are those of the JSON output.
#[derive(Debug, Serialize)]
struct Report {
    /// Plan; `None` if no call can be made again.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<String>,
    group: String,
    /// Time from which on it can be run, if that is not at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    /// Number of calls.
    calls: u64,
    /// Number of those that may be charged a second time.
    again: u64,
    by_state: BTreeMap<&'static str, u64>,
    left_out: BTreeMap<String, u64>,
    /// Amounts in minor units, by currency.
    money: BTreeMap<String, u128>,
    without_amount: u64,
    /// Selected keys that the outbox does not have.
    missing_keys: Vec<String>,
    sample: Vec<Sample>,
}

#[derive(Debug, Serialize)]
struct Sample {
    key: String,
    call: String,
    at: Option<Timestamp>,
}

pub(super) fn run(options: &PlanReplay, config: &Config, json: bool) -> anyhow::Result<Status> {
    let group = options.which.group.as_str();
    let keys = keys(&options.keys, options.keys_from.as_deref())?;
    let filter = CallFilter::of(options, keys);
    let asked_for = asked_for(options, &filter)?;
    let reading = ReplayReader::open(config, group)?;
    let (read, contents) = read(&reading, &asked_for, &filter)?;
    let mut report = report(group, &contents, config.looks_up());
    report.missing_keys = read
        .missing_keys
        .iter()
        .map(|key| String::from_utf8_lossy(key).into_owned())
        .collect();
    report.sample = sample(&reading, &contents.offsets)?;
    if report.calls > 0 {
        let plan = new_id(Timestamp::now());
        let planned = Planned {
            group: group.to_owned(),
            outbox: reading.outbox_id(),
            calls: report.calls,
            again: report.again,
            looks_up: config.looks_up(),
            states: asked_for
                .states()
                .iter()
                .map(|state| state.as_str().to_owned())
                .collect(),
        };
        let operations: Vec<_> = parts(&contents.offsets)
            .chain([Event::Planned(planned)])
            .map(|of| event("replay plan", &plan, of, options.reason.as_deref()))
            .collect();
        write(config, &operations)?;
        // As the run will have it, from the same records.
        let mut replays = Replays::default();
        for Operation { replay, at, .. } in operations {
            replay.into_iter().for_each(|event| replays.take(event, at));
        }
        report.not_before = find(&replays, &plan)?.not_before(config.quiescence());
        report.plan = Some(plan);
    }
    if json {
        print_json(&report)?;
    } else {
        print!("{}", text(&report));
    }
    Ok(match report.plan {
        Some(_) => Status::Ok,
        None => Status::Problem,
    })
}

/// Returns what the options ask for.
fn asked_for(options: &PlanReplay, filter: &CallFilter) -> anyhow::Result<AskedFor> {
    let states = options.state.iter().map(|state| (*state).into());
    Ok(AskedFor::of(
        states,
        filter.keys.is_some(),
        filter.is_by_dead_letter(),
    )?)
}

/// Reads what the plan has.
fn read(
    reading: &ReplayReader<'_>,
    asked_for: &AskedFor,
    filter: &CallFilter,
) -> anyhow::Result<(Read, Contents)> {
    let (which, now) = (Which::Filtered(filter), Timestamp::now());
    match asked_for {
        AskedFor::States(states) => {
            let mut planner = Planner::new(states.clone());
            let read = fold::read(reading, &mut planner, &which, now)?;
            Ok((read, planner.contents()))
        }
        AskedFor::Unknown => {
            let keys = filter.keys.clone().unwrap_or_default();
            let (read, orders) = by_key::read(reading, keys, &which, now)?;
            Ok((read, orders.contents()))
        }
    }
}

/// Returns the calls of a plan in records of a limited size.
fn parts(offsets: &BTreeMap<Partition, OffsetSet>) -> impl Iterator<Item = Event> {
    offsets.iter().flat_map(|(partition, offsets)| {
        let runs: Vec<_> = offsets.runs().collect();
        runs.chunks(RUNS_MAX)
            .map(|runs| Event::Calls {
                partition: *partition,
                runs: runs.to_vec(),
            })
            .collect::<Vec<_>>()
    })
}

/// Returns the id of a plan that is made at this time: short, and without characters that are mistaken for others.
fn new_id(now: Timestamp) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut left = now.0.unsigned_abs();
    let mut id = Vec::new();
    while left > 0 {
        id.push(DIGITS[usize::try_from(left % 32).unwrap_or_default()]);
        left /= 32;
    }
    id.reverse();
    String::from_utf8(id).unwrap_or_default()
}

fn report(group: &str, contents: &Contents, looks_up: bool) -> Report {
    Report {
        plan: None,
        group: group.to_owned(),
        not_before: None,
        calls: contents.calls.values().sum(),
        again: contents
            .calls
            .iter()
            .filter(|(state, _)| state.is_charged_again(looks_up))
            .map(|(_, count)| count)
            .sum(),
        by_state: contents
            .calls
            .iter()
            .map(|(state, count)| (state.as_str(), *count))
            .collect(),
        left_out: contents
            .left_out
            .iter()
            .map(|(why, count)| (why.as_str().to_owned(), *count))
            .collect(),
        money: contents.money.clone(),
        without_amount: contents.without_amount,
        missing_keys: Vec::new(),
        sample: Vec::new(),
    }
}

/// Reads the first calls of a plan.
fn sample(
    reading: &ReplayReader<'_>,
    offsets: &BTreeMap<Partition, OffsetSet>,
) -> anyhow::Result<Vec<Sample>> {
    let topic = &reading.config.topics.pending;
    let mut sample = Vec::new();
    let first = offsets.iter().flat_map(|(partition, offsets)| {
        let offsets = offsets.runs().flat_map(|(from, until)| from.0..until.0);
        offsets.map(|offset| (*partition, Offset(offset)))
    });
    for (partition, offset) in first.take(SHOWN_MAX) {
        let bounds = Bounds {
            start: offset,
            end: offset.next(),
        };
        let sink = |record: &TopicRecord<'_>| {
            sample.push(Sample {
                key: String::from_utf8_lossy(record.key).into_owned(),
                call: format!("{topic}/{partition}@{offset}"),
                at: record.at,
            });
            Ok(())
        };
        reading
            .reader
            .offsets
            .read::<anyhow::Error>(topic, partition, bounds, sink)?;
    }
    Ok(sample)
}

fn text(report: &Report) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    if !report.sample.is_empty() {
        let mut table = new_table(["key", "call", "in the outbox since"]);
        for call in &report.sample {
            table.add_row([cell(&call.key), call.call.clone(), rfc3339(call.at)]);
        }
        let more = report.calls.saturating_sub(report.sample.len() as u64);
        let more = if more > 0 {
            format!("… and {more} more\n")
        } else {
            String::new()
        };
        let _ = write!(text, "{table}\n{more}\n");
    }
    for state in Replayable::ALL {
        if let Some(count) = report.by_state.get(state.as_str()) {
            let _ = writeln!(text, "{count:>10}  {}", state.in_words());
        }
    }
    for (why, count) in &report.left_out {
        let _ = writeln!(text, "{count:>10}  left out, {why}");
    }
    if !report.missing_keys.is_empty() {
        let _ = writeln!(
            text,
            "{:>10}  keys that the outbox does not have, such as {}",
            report.missing_keys.len(),
            cell(&report.missing_keys[0])
        );
    }
    let Some(plan) = &report.plan else {
        let _ = writeln!(text, "\nNo call of the selection can be made again.");
        return text;
    };
    let _ = writeln!(text, "\nPlan {plan}: {} calls{}.", report.calls, money(report));
    if report.again > 0 {
        let _ = writeln!(
            text,
            "{} of them may be charged a second time: they were accepted, or an earlier request may have been processed.",
            report.again
        );
    }
    if report.not_before.is_some() {
        let _ = writeln!(
            text,
            "It can be run from {} on: until then an earlier request of its calls may still be processed. Ask the \
             provider again then; if it has charged one of them, plan without it.",
            rfc3339_millis(report.not_before)
        );
    }
    let _ = writeln!(
        text,
        "`outbox replay run {plan} --canary 20` appends them to the outbox again, the first 20 alone."
    );
    text
}

/// Returns the amounts in words.
fn money(report: &Report) -> String {
    let mut amounts: Vec<String> = report
        .money
        .iter()
        .map(|(code, units)| amount_text(code, i128::try_from(*units).unwrap_or(i128::MAX)))
        .collect();
    if report.without_amount > 0 {
        amounts.push(format!("{} without a known amount", report.without_amount));
    }
    match amounts.is_empty() {
        true => String::new(),
        false => format!(", {}", amounts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use pipeline::ledger::LeftOut;

    use super::*;

    fn contents() -> Contents {
        Contents {
            calls: [
                (Replayable::Rejected, 4),
                (Replayable::Ambiguous, 2),
                (Replayable::Accepted, 1),
            ]
            .into(),
            left_out: [(LeftOut::Pending, 3)].into(),
            money: [("EUR".to_owned(), 125_005), ("JPY".to_owned(), 700)].into(),
            without_amount: 1,
            offsets: BTreeMap::new(),
        }
    }

    #[test]
    fn plan_tells_what_may_be_charged_again() {
        assert_eq!(report("g", &contents(), false).again, 3);
        assert_eq!(report("g", &contents(), true).again, 1);
    }

    #[test]
    fn plan_of_unknown_calls_says_what_to_ask_and_when() {
        let unknown = Contents {
            calls: [(Replayable::Unknown, 2)].into(),
            left_out: [(LeftOut::NotAskedFor(Replayable::Accepted), 1)].into(),
            money: [("EUR".to_owned(), 2_500)].into(),
            ..Contents::default()
        };
        // Callers that look each one up first charge none again.
        assert_eq!(report("g", &unknown, true).again, 0);
        let mut told = report("g", &unknown, false);
        told.plan = Some("abc".into());
        told.not_before = Some(Timestamp(1_772_352_000_500));
        let text = text(&told);
        for words in [
            "2  unknown: final, and the topics do not say how; only the provider knows",
            "1  left out, accepted",
            "Plan abc: 2 calls, EUR 25.00.",
            "2 of them may be charged a second time",
            "It can be run from 2026-03-01T08:00:00.500Z on",
            "Ask the provider again",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn plan_is_told_with_its_money() {
        let mut told = report("api-caller", &contents(), false);
        told.plan = Some("abc".into());
        told.missing_keys = vec!["ord-9".into()];
        let text = text(&told);
        for words in [
            "Plan abc: 7 calls, EUR 1250.05, JPY 700, 1 without a known amount.",
            "3 of them may be charged a second time",
            "3  left out, pending: a caller will make them",
            "1  keys that the outbox does not have, such as ord-9",
            "outbox replay run abc",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let json = serde_json::to_value(&told).expect("JSON");
        assert_eq!(
            json["by_state"],
            serde_json::json!({"rejected": 4, "ambiguous": 2, "accepted": 1})
        );
        assert_eq!(
            (&json["money"]["EUR"], &json["again"]),
            (&125_005.into(), &3.into())
        );
    }

    #[test]
    fn long_plan_has_several_records() {
        let scattered: OffsetSet = (0..50_000).map(|at| Offset(at * 2)).collect();
        let offsets = [
            (Partition(0), scattered),
            (Partition(4), [Offset(1)].into_iter().collect()),
        ]
        .into();
        let parts: Vec<_> = parts(&offsets).collect();
        let sizes: Vec<_> = parts
            .iter()
            .map(|part| match part {
                Event::Calls { partition, runs } => (partition.0, runs.len()),
                _ => (-1, 0),
            })
            .collect();
        assert_eq!(sizes, [(0, 20_000), (0, 20_000), (0, 10_000), (4, 1)]);
        let longest = event("replay plan", "abc", parts[1].clone(), None).to_json();
        assert!(longest.len() < 900_000, "{}", longest.len());
    }

    #[test]
    fn ids_are_short_and_differ_by_time() {
        let id = new_id(Timestamp(1_790_000_000_123));
        assert_eq!(id.len(), 9);
        assert_ne!(id, new_id(Timestamp(1_790_000_000_124)));
    }
}
