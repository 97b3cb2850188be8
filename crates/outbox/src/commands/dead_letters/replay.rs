//! `dead-letters replay`: writes refused orders back to the orders topic, once the cause of their refusal is repaired.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use comfy_table::Table;
use pipeline::admission::resubmissions::NotResubmitted;
use records::resubmission::Resubmission;
use records::{Order, Partition, Timestamp};
use serde::Serialize;

use super::reading::{DeadLetterFilter, DeadLetterReader, Kind, Letter};
use super::write::{Chosen, Writer, expect_times_kept, open_producer};
use super::{Listed, table};
use crate::amounts::Amounts;
use crate::cli::ReplayDeadLetters;
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::confirm::confirm;
use crate::keys::keys;
use crate::operator::operator;
use crate::progress::Progress;
use crate::tables::{cell, new_table};

/// Number of dead letters shown before the operator is asked.
const SHOWN_MAX: usize = 10;
/// Maximum number of dead letters that are left alone by name; all are counted.
const LEFT_ALONE_MAX: usize = 1000;

/// Field names are those of the JSON output, as in the types below.
#[derive(Debug, Serialize)]
struct Replayed {
    /// Number of dead letters that were replayed.
    replayed: u64,
    /// Number of selected dead letters that were replayed before.
    replayed_before: u64,
    causes: Vec<Cause>,
    /// Number of keys and dead letters that were left alone.
    left_alone_count: u64,
    /// Those of them that are named, each with the reason.
    left_alone: Vec<LeftAlone>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Cause {
    cause: String,
    dead_letters: u64,
    /// Sums of the orders that have the built-in form.
    amounts: Amounts,
    /// Number of those orders.
    with_amount: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct LeftAlone {
    key: String,
    reason: String,
}

/// What is to be done, folded from the dead letters.
#[derive(Debug, Default)]
struct Plan {
    chosen: Chosen,
    count: u64,
    replayed_before: u64,
    /// As many as there are reasons of validators.
    causes: BTreeMap<String, Cause>,
    left_alone_count: u64,
    left_alone: Vec<LeftAlone>,
    /// Selected keys that have a dead letter.
    found: BTreeSet<String>,
}

impl Plan {
    fn choose(&mut self, letter: &Letter<'_>, order: Option<&Order<'_>>) {
        self.count += 1;
        self.chosen
            .entry(letter.partition)
            .or_default()
            .insert(letter.offset());
        let cause = letter.cause();
        let of_cause = self.causes.entry(cause.clone()).or_insert(Cause {
            cause,
            dead_letters: 0,
            amounts: Amounts::default(),
            with_amount: 0,
        });
        of_cause.dead_letters += 1;
        if let Some(order) = order {
            of_cause.amounts.add(order);
            of_cause.with_amount += 1;
        }
    }

    fn leave_alone(&mut self, key: String, reason: String) {
        self.left_alone_count += 1;
        if self.left_alone.len() < LEFT_ALONE_MAX {
            self.left_alone.push(LeftAlone { key, reason });
        }
    }

    /// Returns the causes, the most frequent first.
    fn causes(&self) -> Vec<Cause> {
        let mut causes: Vec<_> = self.causes.values().cloned().collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.dead_letters));
        causes
    }
}

pub(super) fn run(options: &ReplayDeadLetters, config: &Config, json: bool) -> anyhow::Result<Status> {
    if options.which.calls {
        bail!(
            "the dead letters of calls are not written back to the orders topic: their orders were admitted, and \
             would be duplicates. Nothing was changed. `outbox replay plan --state rejected` plans to send rejected \
             calls again"
        );
    }
    if !options.selects() {
        bail!(
            "nothing is selected: name keys, or --dead-letter-reason, --from, --to or --partition. Nothing was changed"
        );
    }
    config.expect_validators("dead-letters replay")?;
    let filter = DeadLetterFilter {
        arguments: options.filter.clone(),
        keys: keys(&options.keys, options.keys_from.as_deref())?,
        partition: options.partition.map(Partition),
        offsets: options.offsets,
    };
    // Before the topics are read, so that a second operator decides on what this one has written.
    let producer = open_producer(config)?;
    expect_times_kept(config)?;
    let reading = DeadLetterReader::open(config)?;
    let (plan, sample) = plan(&reading, &filter)?;
    print_left_alone(&plan);
    if plan.count > 0 {
        // To standard error: the result on standard output may be redirected to a file.
        eprintln!("{}\n{}", table(&sample), causes_table(&plan.causes()));
        let question = format!(
            "Write {} orders back to {}? The validators decide again about each: one that was admitted meanwhile is a \
             duplicate and charged once, one that is refused again is another dead letter.",
            plan.count, reading.topics.orders
        );
        if !confirm(&question, options.yes)? {
            eprintln!("Nothing was changed.");
            return Ok(Status::Problem);
        }
        let writer = Writer {
            reading: &reading,
            producer: &producer,
            resubmission: Resubmission::new(Timestamp::now(), operator(), options.reason.clone()),
            config,
        };
        writer.resubmit(&plan.chosen)?;
    }
    let status = match plan.left_alone_count {
        0 => Status::Ok,
        _ => Status::Problem,
    };
    if json {
        print_json(&Replayed {
            replayed: plan.count,
            replayed_before: plan.replayed_before,
            causes: plan.causes(),
            left_alone_count: plan.left_alone_count,
            left_alone: plan.left_alone,
        })?;
    } else {
        println!(
            "{} dead letters were replayed, {} had been replayed before, {} are left alone.",
            plan.count, plan.replayed_before, plan.left_alone_count
        );
    }
    Ok(status)
}

/// Reads the dead letters to their ends, and decides on each.
fn plan(reading: &DeadLetterReader<'_>, filter: &DeadLetterFilter) -> anyhow::Result<(Plan, Vec<Listed>)> {
    let (mut plan, mut sample, mut progress) = (Plan::default(), Vec::new(), Progress::new());
    for partition in &reading.partitions(Kind::Order)? {
        if filter.partition.is_some_and(|selected| selected != *partition) {
            continue;
        }
        let bounds = reading.settled_bounds(Kind::Order, *partition, &progress)?;
        let resubmissions = reading.resubmissions(Kind::Order, *partition, bounds, &mut progress)?;
        reading.visit_within(Kind::Order, *partition, bounds, |letter| {
            progress.read(reading.topic(Kind::Order));
            if !filter.selects(letter) {
                return Ok(());
            }
            if filter.keys.is_some() {
                plan.found.insert(letter.key());
            }
            match reading.resubmit(letter, &resubmissions) {
                Ok(_) => {
                    if sample.len() < SHOWN_MAX {
                        sample.push(Listed::of(letter, reading, false));
                    }
                    plan.choose(letter, reading.order(letter).as_ref());
                }
                Err(NotResubmitted::Before) => plan.replayed_before += 1,
                Err(reason) => {
                    let at = format!("{}/{partition}@{}", reading.topic(Kind::Order), letter.offset());
                    plan.leave_alone(letter.key(), format!("{at}: {reason}"));
                }
            }
            Ok(())
        })?;
    }
    progress.finish();
    let keys = filter.keys.iter().flatten();
    let missing: Vec<_> = keys.filter(|key| !plan.found.contains(*key)).cloned().collect();
    for key in missing {
        let reason = "it has no such dead letter (`outbox dead-letters show` tells)";
        plan.leave_alone(key, reason.into());
    }
    Ok((plan, sample))
}

/// Shows some of what is left alone, on standard error.
fn print_left_alone(plan: &Plan) {
    for LeftAlone { key, reason } in plan.left_alone.iter().take(SHOWN_MAX) {
        eprintln!("{} is left alone: {reason}", cell(key));
    }
    let shown = u64::try_from(plan.left_alone.len().min(SHOWN_MAX)).unwrap_or_default();
    if plan.left_alone_count > shown {
        eprintln!(
            "{} more are left alone (--json names up to {LEFT_ALONE_MAX})",
            plan.left_alone_count - shown
        );
    }
}

fn causes_table(causes: &[Cause]) -> Table {
    let mut table = new_table(["dead letters", "cause", "amounts", "without an amount"]);
    for of in causes {
        table.add_row([
            of.dead_letters.to_string(),
            cell(&of.cause),
            of.amounts.to_string(),
            (of.dead_letters - of.with_amount).to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use records::dead_letter;

    use super::super::reading::tests::{letter, record};
    use super::*;
    use crate::cli::{Cli, Command, DeadLettersCommand};

    #[test]
    fn json_field_names_are_stable() {
        let value = br#"{"order_id":"o","amount":1250,"currency":"EUR","customer_id":"c"}"#;
        let record = record(4, Some("k"), &[(dead_letter::REASON, "key-mismatch")], value);
        let mut plan = Plan::default();
        plan.choose(&letter(&record), Order::parse(value).ok().as_ref());
        plan.leave_alone("l".into(), "r".into());
        assert!(causes_table(&plan.causes()).to_string().contains("EUR 12.50"));
        assert!(plan.chosen[&Partition(1)].contains(records::Offset(4)));
        let json = serde_json::to_value(Replayed {
            replayed: plan.count,
            replayed_before: 2,
            causes: plan.causes(),
            left_alone_count: plan.left_alone_count,
            left_alone: plan.left_alone,
        });
        let expected = serde_json::json!({"replayed": 1, "replayed_before": 2,
            "causes": [{"cause": "key-mismatch", "dead_letters": 1, "amounts": {"EUR": "12.50"}, "with_amount": 1}],
            "left_alone_count": 1, "left_alone": [{"key": "l", "reason": "r"}]});
        assert_eq!(json.expect("JSON"), expected);
    }

    #[test]
    fn settings_of_others_than_the_validators_are_refused() {
        let line = "outbox dead-letters replay k --reason r";
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("a command line");
        let Command::DeadLetters(DeadLettersCommand::Replay(options)) = cli.command else {
            panic!("another command");
        };
        let error = run(&options, &Config::default(), false).expect_err("no section [validator]");
        assert!(error.to_string().contains("[validator]"), "{error:#}");
    }

    #[test]
    fn names_of_what_is_left_alone_are_bounded() {
        let mut plan = Plan::default();
        for _ in 0..=LEFT_ALONE_MAX {
            plan.leave_alone("k".into(), "r".into());
        }
        assert_eq!(
            (plan.left_alone.len(), plan.left_alone_count),
            (LEFT_ALONE_MAX, 1001)
        );
    }
}
