//! `parked settle`: ends parked calls, as the operator has found out what became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pipeline::ledger::ParkedCalls;
use records::Timestamp;
use records::settlement::{Decision, Settlement};
use serde::Serialize;

use super::outbox_keys::expect_own;
use super::reading::{ParkedReader, ParkedRecord};
use super::show::span;
use super::write::{Chosen, Settler, is_chosen, open_producer};
use super::{Listed, listed, may_settle};
use crate::cli::{DecideParked, SettleParked};
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::confirm::confirm;
use crate::keys::keys;
use crate::operator::operator;

/// Number of calls shown before the operator is asked.
pub(super) const SHOWN_MAX: usize = 10;

/// Field names are those of the JSON output.
#[derive(Debug, Serialize)]
struct Settled {
    decision: Decision,
    settled: usize,
    /// Keys that were left alone, each with the reason.
    refused: Vec<Refused>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Refused {
    pub(super) key: String,
    pub(super) reason: String,
}

pub(super) fn run(options: &SettleParked, config: &Config, json: bool) -> anyhow::Result<Status> {
    let keys = keys(&options.keys, options.keys_from.as_deref())?.unwrap_or_default();
    let decision = decision(&options.decision);
    let reading = ParkedReader::open(config, &options.which.group)?;
    let producer = open_producer(config)?;
    let calls = reading.parked_calls()?;
    let quiescence = config.quiescence();
    let (chosen, refused) = choose(&calls, &keys, decision, Timestamp::now(), config);
    let count = chosen.values().map(BTreeMap::len).sum();
    print_refused(&refused);
    if count > 0 {
        expect_own(&reading, &calls, &chosen)?;
        // To standard error: the result on standard output may be redirected to a file.
        eprintln!("{}", listed(&sample(&calls, &chosen)));
        if !confirm(&question(decision, count, quiescence), options.yes)? {
            eprintln!("Nothing was changed.");
            return Ok(Status::Problem);
        }
        let settlement = Settlement::new(decision, Timestamp::now(), operator(), options.reason.clone());
        let settler = Settler {
            reading: &reading,
            producer: &producer,
            settlement,
            config,
            command: "parked settle",
        };
        settler.settle(&chosen)?;
    }
    let status = if refused.is_empty() {
        Status::Ok
    } else {
        Status::Problem
    };
    if json {
        print_json(&Settled {
            decision,
            settled: count,
            refused,
        })?;
    } else {
        println!(
            "{count} parked calls are settled, {} are left alone.",
            refused.len()
        );
    }
    Ok(status)
}

/// Shows some of the calls that are left alone, on standard error.
pub(super) fn print_refused(refused: &[Refused]) {
    for Refused { key, reason } in refused.iter().take(SHOWN_MAX) {
        eprintln!("{key} is left alone: {reason}");
    }
    if refused.len() > SHOWN_MAX {
        eprintln!(
            "{} more are left alone (--json has all)",
            refused.len() - SHOWN_MAX
        );
    }
}

const fn decision(of: &DecideParked) -> Decision {
    if of.accepted {
        Decision::Accepted
    } else if of.rejected {
        Decision::Rejected
    } else {
        Decision::SendAgain
    }
}

/// Chooses the calls of the keys that may be settled now, and the reasons against the others.
fn choose(
    calls: &ParkedCalls<ParkedRecord>,
    keys: &BTreeSet<String>,
    decision: Decision,
    now: Timestamp,
    config: &Config,
) -> (Chosen, Vec<Refused>) {
    let (mut chosen, mut refused) = (Chosen::new(), Vec::new());
    let mut found = BTreeSet::new();
    for (call, waiting) in calls.waiting() {
        let key = waiting.record.key_text();
        if !keys.contains(&key) {
            continue;
        }
        match may_settle(calls, &call, decision, now, config) {
            Ok(waiting) => {
                let at = &waiting.record.at;
                chosen.entry(at.partition).or_default().insert(at.offset, call);
            }
            Err(reason) => refused.push(Refused {
                key: key.clone(),
                reason: format!("{call}: {reason}"),
            }),
        }
        found.insert(key);
    }
    refused.extend(keys.difference(&found).map(|key| Refused {
        key: key.clone(),
        reason: "no parked call of it waits: it was settled, has an outcome or a dead letter, is of another group \
                 (--group), or was never parked (`outbox parked show` tells)"
            .into(),
    }));
    (chosen, refused)
}

fn sample(calls: &ParkedCalls<ParkedRecord>, chosen: &Chosen) -> Vec<Listed> {
    calls
        .waiting()
        .filter(|(_, waiting)| is_chosen(chosen, &waiting.record.at))
        .take(SHOWN_MAX)
        .map(|(call, waiting)| Listed::of(calls, &call, waiting))
        .collect()
}

fn question(decision: Decision, count: usize, quiescence: Duration) -> String {
    match decision {
        Decision::Accepted => format!("Settle {count} parked calls as accepted, with an outcome each?"),
        Decision::Rejected => format!("Settle {count} parked calls as rejected, with a dead letter each?"),
        Decision::SendAgain => format!(
            "Send {count} parked calls again? They were parked more than {} ago. Each that the API has processed is \
             charged a second time.",
            span(quiescence)
        ),
    }
}

#[cfg(test)]
mod tests {
    use records::{CallNote, Offset, Partition, Position};

    use super::*;

    fn position(offset: i64) -> Position {
        Position {
            topic: "outbox".into(),
            partition: Partition(0),
            offset: Offset(offset),
        }
    }

    fn parked(calls: &[(&str, i64)]) -> ParkedCalls<ParkedRecord> {
        let mut parked = ParkedCalls::new("outbox");
        for &(key, offset) in calls {
            let record = ParkedRecord {
                key: key.as_bytes().into(),
                at: Position {
                    topic: "parked".into(),
                    partition: Partition(4),
                    offset: Offset(100 + offset),
                },
                cause: "ambiguous".into(),
                attempts: 1,
                money: None,
                admitted_at: Some(Timestamp(0)),
            };
            parked.parked(&position(offset), None, Timestamp(0), record);
        }
        parked.noted(Partition(0), Offset(8), CallNote::default());
        parked
    }

    #[test]
    fn keys_choose_calls_or_say_why_not() {
        let calls = parked(&[("a", 1), ("b", 2), ("c", 9)]);
        let keys = ["a", "c", "d"].map(str::to_owned).into();
        let (chosen, refused) = choose(
            &calls,
            &keys,
            Decision::Accepted,
            Timestamp(0),
            &Config::default(),
        );
        let expected: Chosen = [(Partition(4), [(Offset(101), position(1))].into())].into();
        assert_eq!(chosen, expected);
        let words: Vec<_> = refused
            .iter()
            .map(|refused| (refused.key.as_str(), refused.reason.contains("outbox/0@9")))
            .collect();
        assert_eq!(words, [("c", true), ("d", false)]);
        assert_eq!(sample(&calls, &chosen).len(), 1);
    }
}
