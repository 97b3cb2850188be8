//! `parked`: shows the parked calls, and settles them.

mod csv_quotes;
mod outbox_keys;
pub(crate) mod reading;
mod reconcile;
mod settle;
mod show;
mod write;

use std::collections::BTreeMap;

use comfy_table::Table;
use iso_currency::Currency;
use pipeline::ledger::{ParkedCalls, Waiting};
use records::settlement::Decision;
use records::{Position, Timestamp};
use serde::Serialize;

use self::reading::{ParkedReader, ParkedRecord};
pub(super) use self::show::time_of;
use crate::amounts::Amounts;
use crate::cli::{ListParked, ParkedCommand, WhichGroup};
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::tables::{cell, new_table};
use crate::timestamp::rfc3339;

/// Runs a command on the parked calls.
pub(crate) fn run(command: &ParkedCommand, config: &Config, json: bool) -> anyhow::Result<Status> {
    match command {
        ParkedCommand::List(options) => list(options, config, json),
        ParkedCommand::Groups(options) => groups(&options.which, config, json),
        ParkedCommand::Show(options) => show::run(options, config, json),
        ParkedCommand::Settle(options) => settle::run(options, config, json),
        ParkedCommand::Reconcile(options) => reconcile::run(options, config, json),
    }
}

/// Returns a parked call that may be settled like this now, or the reason against it.
fn may_settle<'c>(
    calls: &'c ParkedCalls<ParkedRecord>,
    call: &Position,
    decision: Decision,
    now: Timestamp,
    config: &Config,
) -> Result<&'c Waiting<ParkedRecord>, String> {
    let waiting = calls
        .settle(call, decision, now, config.quiescence())
        .map_err(|reason| reason.to_string())?;
    let is_expired = config.is_key_expired(waiting.record.admitted_at, now);
    // Under `verify` its caller looks it up before it sends it.
    if decision == Decision::SendAgain && is_expired && !config.looks_up() {
        return Err(
            "its order is older than api.idempotency_key_lifetime: if the API has processed an earlier request, it no \
             longer knows that, and would charge it again"
                .into(),
        );
    }
    Ok(waiting)
}

/// Parked call that waits. Its field names are those of the JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Listed {
    key: String,
    /// Position of the call in the outbox.
    call: String,
    parked_at: Timestamp,
    cause: String,
    attempts: u64,
    /// It may have an outcome that its topic no longer has.
    outcome_may_be_gone: bool,
    #[serde(skip)]
    money: Option<(Currency, u64)>,
    #[serde(skip)]
    sent_again: usize,
}

impl Listed {
    fn of(calls: &ParkedCalls<ParkedRecord>, call: &Position, waiting: &Waiting<ParkedRecord>) -> Self {
        Self {
            key: waiting.record.key_text(),
            call: call.to_string(),
            parked_at: waiting.parked_at,
            cause: waiting.record.cause.clone(),
            attempts: waiting.record.attempts,
            outcome_may_be_gone: calls.outcome_may_be_gone(call),
            money: waiting.record.money,
            sent_again: calls.sent_again(call),
        }
    }
}

/// Parked calls with one cause. Its field names are those of the JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Group {
    cause: String,
    calls: u64,
    /// Number of times that operators have sent these calls again before, by settlements and by replays.
    sent_again: usize,
    /// Number of these calls that may have an outcome that its topic no longer has.
    outcome_may_be_gone: u64,
    first_at: Timestamp,
    last_at: Timestamp,
    /// Sums of the amounts of the orders that have one.
    amounts: Amounts,
}

#[derive(Serialize)]
struct Calls<'a> {
    /// Number of calls, also of those that are not listed.
    waiting: usize,
    calls: &'a [Listed],
}

fn list(options: &ListParked, config: &Config, json: bool) -> anyhow::Result<Status> {
    let mut waiting = waiting(&options.which, config)?;
    if let Some(text) = &options.cause {
        waiting.retain(|call| call.cause.contains(text.as_str()));
    }
    waiting.sort_by_key(|call| call.parked_at);
    let all = waiting.len();
    waiting.truncate(options.limit);
    if json {
        print_json(&Calls {
            waiting: all,
            calls: &waiting,
        })?;
        return Ok(Status::Ok);
    }
    if all == 0 {
        println!("No parked call waits.");
        return Ok(Status::Ok);
    }
    println!("{}", listed(&waiting));
    let rest = match all - waiting.len() {
        0 => String::new(),
        more => format!(" {more} of them are not listed (--limit)."),
    };
    println!(
        "{all} parked calls wait.{rest} `outbox parked show KEY` shows one, `outbox parked settle` settles them."
    );
    Ok(Status::Ok)
}

fn groups(which: &WhichGroup, config: &Config, json: bool) -> anyhow::Result<Status> {
    let groups = by_cause(waiting(which, config)?);
    if json {
        print_json(&groups)?;
        return Ok(Status::Ok);
    }
    if groups.is_empty() {
        println!("No parked call waits.");
        return Ok(Status::Ok);
    }
    println!("{}", grouped(&groups));
    Ok(Status::Ok)
}

fn waiting(which: &WhichGroup, config: &Config) -> anyhow::Result<Vec<Listed>> {
    let calls = ParkedReader::open(config, &which.group)?.parked_calls()?;
    Ok(calls
        .waiting()
        .map(|(call, waiting)| Listed::of(&calls, &call, waiting))
        .collect())
}

/// Groups calls by their cause, the largest group first.
fn by_cause(calls: Vec<Listed>) -> Vec<Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for call in calls {
        let group = groups.entry(call.cause.clone()).or_insert(Group {
            cause: call.cause,
            calls: 0,
            sent_again: 0,
            outcome_may_be_gone: 0,
            first_at: call.parked_at,
            last_at: call.parked_at,
            amounts: Amounts::default(),
        });
        if let Some((currency, units)) = call.money {
            group.amounts.add_money(currency, units);
        }
        group.calls += 1;
        group.sent_again += call.sent_again;
        group.outcome_may_be_gone += u64::from(call.outcome_may_be_gone);
        group.first_at = group.first_at.min(call.parked_at);
        group.last_at = group.last_at.max(call.parked_at);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.calls));
    groups
}

fn grouped(groups: &[Group]) -> Table {
    let mut table = new_table([
        "calls",
        "cause",
        "sent again",
        "outcome may be gone",
        "amounts",
        "first parked",
        "last parked",
    ]);
    for group in groups {
        table.add_row([
            group.calls.to_string(),
            cell(&group.cause),
            group.sent_again.to_string(),
            group.outcome_may_be_gone.to_string(),
            group.amounts.to_string(),
            rfc3339(Some(group.first_at)),
            rfc3339(Some(group.last_at)),
        ]);
    }
    table
}

fn listed(calls: &[Listed]) -> Table {
    let mut table = new_table(["key", "call", "parked", "cause", "attempts", "outcome"]);
    for call in calls {
        table.add_row([
            cell(&call.key),
            call.call.clone(),
            rfc3339(Some(call.parked_at)),
            cell(&call.cause),
            call.attempts.to_string(),
            match call.outcome_may_be_gone {
                true => "may be gone",
                false => "none",
            }
            .to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use records::{CallNote, Offset, Partition};

    use super::*;

    fn call(key: &str, at: i64, cause: &str) -> Listed {
        Listed {
            key: key.into(),
            call: "outbox/0@1".into(),
            parked_at: Timestamp(at),
            cause: cause.into(),
            attempts: 2,
            outcome_may_be_gone: false,
            money: Some((Currency::EUR, 1250)),
            sent_again: 0,
        }
    }

    #[test]
    fn forgotten_key_is_not_sent_again() {
        let mut calls = ParkedCalls::new("outbox");
        let call: Position = "outbox/0@1".parse().expect("a position");
        let record = ParkedRecord {
            key: b"k"[..].into(),
            at: "parked/0@1".parse().expect("a position"),
            cause: "ambiguous".into(),
            attempts: 1,
            money: None,
            admitted_at: Some(Timestamp(0)),
        };
        calls.parked(&call, None, Timestamp(0), record);
        calls.noted(Partition(0), Offset(2), CallNote::default());
        calls.kept_outcomes(|_| true);
        let day = Duration::from_secs(86_400);
        let config = Config::with_key_lifetime(day);
        let at = |hours: i64| Timestamp(hours * 3_600_000);
        let may = |decision, now| may_settle(&calls, &call, decision, now, &config).is_ok();
        assert!(may(Decision::SendAgain, at(24)) && !may(Decision::SendAgain, at(25)));
        assert!(may(Decision::Accepted, at(25)) && may(Decision::Rejected, at(25)));
    }

    #[test]
    fn calls_are_grouped_by_cause() {
        let mut calls = vec![
            call("a", 5, "redelivered"),
            call("b", 9, "ambiguous, timed-out"),
            call("c", 3, "ambiguous, timed-out"),
        ];
        (calls[1].sent_again, calls[2].sent_again) = (2, 1);
        calls[2].outcome_may_be_gone = true;
        let groups = by_cause(calls);
        let json = serde_json::to_value(&groups).expect("JSON");
        let expected = serde_json::json!([
            {"cause": "ambiguous, timed-out", "calls": 2, "sent_again": 3, "outcome_may_be_gone": 1,
                "first_at": 3, "last_at": 9, "amounts": {"EUR": "25.00"}},
            {"cause": "redelivered", "calls": 1, "sent_again": 0, "outcome_may_be_gone": 0,
                "first_at": 5, "last_at": 5, "amounts": {"EUR": "12.50"}},
        ]);
        assert_eq!(json, expected);
        let table = grouped(&groups).to_string();
        assert!(table.contains("sent again") && table.contains("| 3 "), "{table}");
    }

    #[test]
    fn json_field_names_are_stable() {
        let calls = [call("a", 5, "redelivered")];
        let json = serde_json::to_value(Calls {
            waiting: 3,
            calls: &calls,
        });
        let expected = serde_json::json!({"waiting": 3, "calls": [{
            "key": "a", "call": "outbox/0@1", "parked_at": 5, "cause": "redelivered", "attempts": 2,
            "outcome_may_be_gone": false,
        }]});
        assert_eq!(json.expect("JSON"), expected);
        assert!(listed(&calls).to_string().contains("redelivered"));
        assert!(listed(&calls).to_string().contains("| none "));
        let [call] = calls;
        let gone = Listed {
            outcome_may_be_gone: true,
            ..call
        };
        assert!(listed(&[gone]).to_string().contains("may be gone"));
    }
}
