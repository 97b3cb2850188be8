//! `dead-letters groups`: the dead letters by their cause, and what they are worth.

use std::collections::BTreeMap;

use comfy_table::Table;
use records::{Order, Timestamp};
use serde::Serialize;

use super::reading::{DeadLetterFilter, DeadLetterReader, Kind};
use crate::amounts::Amounts;
use crate::cli::GroupDeadLetters;
use crate::commands::cause_shape::shape;
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::progress::Progress;
use crate::tables::{cell, new_table};
use crate::timestamp::rfc3339;

/// Maximum number of groups, which are kept in memory. Dead letters of further causes are one group.
const GROUPS_MAX: usize = 1000;
/// Cause of the dead letters beyond `GROUPS_MAX`.
const OTHERS: &str = "(other causes)";

/// Dead letters with one cause. Its field names are those of the JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Group {
    kind: Kind,
    cause: String,
    /// Detail without what differs from one dead letter to the next.
    detail: String,
    dead_letters: u64,
    first_at: Option<Timestamp>,
    last_at: Option<Timestamp>,
    /// Key of one of them.
    example: String,
    /// Sums of the orders that have the built-in form.
    amounts: Amounts,
    /// Number of those orders.
    with_amount: u64,
}

#[derive(Serialize)]
struct Listed<'a> {
    /// Number of dead letters, also of those in groups that are not listed.
    count: u64,
    /// Number of groups.
    groups: usize,
    listed: &'a [Group],
}

#[derive(Debug, Default)]
struct Groups(BTreeMap<(Kind, String, String), Group>);

/// What of a dead letter its group takes in.
struct Taken<'a> {
    kind: Kind,
    cause: &'a str,
    detail: &'a str,
    at: Option<Timestamp>,
    key: &'a str,
    order: Option<&'a Order<'a>>,
}

impl Groups {
    fn add(&mut self, taken: &Taken<'_>) {
        let mut at = (taken.kind, taken.cause.to_owned(), shape(taken.detail));
        if self.0.len() >= GROUPS_MAX && !self.0.contains_key(&at) {
            at = (taken.kind, OTHERS.to_owned(), String::new());
        }
        let (kind, cause, detail) = at.clone();
        let group = self.0.entry(at).or_insert_with(|| Group {
            kind,
            cause,
            detail,
            dead_letters: 0,
            first_at: taken.at,
            last_at: taken.at,
            example: taken.key.to_owned(),
            amounts: Amounts::default(),
            with_amount: 0,
        });
        group.dead_letters += 1;
        group.first_at = group.first_at.into_iter().chain(taken.at).min();
        group.last_at = group.last_at.max(taken.at);
        if let Some(order) = taken.order {
            group.amounts.add(order);
            group.with_amount += 1;
        }
    }

    /// Returns the groups, the largest first.
    fn sorted(self) -> Vec<Group> {
        let mut groups: Vec<_> = self.0.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.dead_letters));
        groups
    }
}

pub(super) fn run(options: &GroupDeadLetters, config: &Config, json: bool) -> anyhow::Result<Status> {
    let reading = DeadLetterReader::open(config)?;
    let filter = DeadLetterFilter {
        arguments: options.filter.clone(),
        ..DeadLetterFilter::default()
    };
    let (mut groups, mut progress) = (Groups::default(), Progress::new());
    for kind in Kind::of(options.which) {
        reading.visit(*kind, &mut progress, |letter, resubmissions| {
            if (options.all || !resubmissions.has(letter.offset())) && filter.selects(letter) {
                groups.add(&Taken {
                    kind: *kind,
                    cause: &letter.cause(),
                    detail: letter.detail(),
                    at: letter.at(),
                    key: &letter.key(),
                    order: reading.order(letter).as_ref(),
                });
            }
            Ok(())
        })?;
    }
    progress.finish();
    let groups = groups.sorted();
    let count = groups.iter().map(|group| group.dead_letters).sum();
    let listed = &groups[..groups.len().min(options.limit)];
    if json {
        print_json(&Listed {
            count,
            groups: groups.len(),
            listed,
        })?;
        return Ok(Status::Ok);
    }
    if groups.is_empty() {
        println!("There is no such dead letter.");
        return Ok(Status::Ok);
    }
    println!("{}", table(listed));
    let rest = match groups.len() - listed.len() {
        0 => String::new(),
        more => format!(" {more} groups are not listed (--limit)."),
    };
    println!("{count} dead letters in {} groups.{rest}", groups.len());
    Ok(Status::Ok)
}

fn table(groups: &[Group]) -> Table {
    let mut table = new_table([
        "kind",
        "dead letters",
        "cause",
        "detail",
        "first",
        "last",
        "amounts",
        "example",
    ]);
    for group in groups {
        let without = group.dead_letters - group.with_amount;
        table.add_row([
            group.kind.as_str().to_owned(),
            group.dead_letters.to_string(),
            cell(&group.cause),
            cell(&group.detail),
            rfc3339(group.first_at),
            rfc3339(group.last_at),
            match (group.with_amount, without) {
                (0, _) => "-".into(),
                (_, 0) => group.amounts.to_string(),
                (_, without) => format!("{}, and {without} without", group.amounts),
            },
            cell(&group.example),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken<'a>(cause: &'a str, detail: &'a str, at: i64, order: Option<&'a Order<'a>>) -> Taken<'a> {
        Taken {
            kind: Kind::Order,
            cause,
            detail,
            at: Some(Timestamp(at)),
            key: "k",
            order,
        }
    }

    #[test]
    fn letters_are_grouped_by_cause_and_shape() {
        let order = |amount| {
            format!(r#"{{"order_id":"o","amount":{amount},"currency":"EUR","customer_id":"c"}}"#).into_bytes()
        };
        let (first, second) = (order(1250), order(5));
        let (first, second) = (Order::parse(&first).ok(), Order::parse(&second).ok());
        let mut groups = Groups::default();
        groups.add(&taken("not-json", "at column 5", 9, first.as_ref()));
        groups.add(&taken("conflict", "", 2, None));
        groups.add(&taken("not-json", "at column 17", 3, second.as_ref()));
        groups.add(&taken("not-json", "at column 8", 4, None));
        let groups = groups.sorted();
        let json = serde_json::to_value(Listed {
            count: 4,
            groups: 2,
            listed: &groups,
        });
        let expected = serde_json::json!({"count": 4, "groups": 2, "listed": [
            {"kind": "order", "cause": "not-json", "detail": "at column #", "dead_letters": 3, "first_at": 3,
             "last_at": 9, "example": "k", "amounts": {"EUR": "12.55"}, "with_amount": 2},
            {"kind": "order", "cause": "conflict", "detail": "", "dead_letters": 1, "first_at": 2, "last_at": 2,
             "example": "k", "amounts": {}, "with_amount": 0},
        ]});
        assert_eq!(json.expect("JSON"), expected);
        let table = table(&groups).to_string();
        assert!(table.contains("1 without") || table.contains("and 1"), "{table}");
    }

    #[test]
    fn number_of_groups_is_bounded() {
        let mut groups = Groups::default();
        for number in 0..3000 {
            // Letters, which the shape keeps.
            let text: String = format!("{number:04}")
                .bytes()
                .map(|digit| char::from(digit - b'0' + b'a'))
                .collect();
            groups.add(&taken("not-json", &text, number, None));
        }
        let groups = groups.sorted();
        assert_eq!((groups.len(), groups[0].cause.as_str()), (GROUPS_MAX + 1, OTHERS));
        assert_eq!(groups[0].dead_letters, 2000);
    }
}
