//! `dead-letters`: shows the dead letters of orders and calls, and writes refused orders back to the orders topic.

mod groups;
pub(crate) mod reading;
mod replay;
mod show;
mod write;

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use comfy_table::Table;
use records::{Partition, Timestamp};
use serde::Serialize;

use self::reading::{Content, DeadLetterFilter, DeadLetterReader, Kind, Letter};
use crate::amounts::amount_of;
use crate::cli::{DeadLettersCommand, ListDeadLetters};
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::progress::Progress;
use crate::tables::{cell, new_table};
use crate::timestamp::rfc3339;

/// Runs a command on the dead letters.
pub(crate) fn run(command: &DeadLettersCommand, config: &Config, json: bool) -> anyhow::Result<Status> {
    match command {
        DeadLettersCommand::List(options) => list(options, config, json),
        DeadLettersCommand::Groups(options) => groups::run(options, config, json),
        DeadLettersCommand::Show(options) => show::run(options, config, json),
        DeadLettersCommand::Replay(options) => replay::run(options, config, json),
    }
}

/// Dead letter. Its field names are those of the JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Listed {
    kind: Kind,
    key: String,
    /// Position of the dead letter.
    letter: String,
    /// Position of its order, or of its call.
    source: Option<String>,
    at: Option<Timestamp>,
    cause: String,
    detail: String,
    /// Amount of the order, if it has the built-in form.
    amount: Option<String>,
    /// Number of times that orders of this key were replayed.
    replays: u64,
    /// True if this dead letter was replayed.
    replayed: bool,
    #[serde(skip)]
    order: (Partition, i64),
}

impl Listed {
    fn of(letter: &Letter<'_>, reading: &DeadLetterReader<'_>, replayed: bool) -> Self {
        let topic = reading.topic(letter.kind);
        Self {
            kind: letter.kind,
            key: letter.key(),
            letter: format!("{topic}/{}@{}", letter.partition, letter.offset()),
            source: letter.source().map(|source| source.to_string()),
            at: letter.at(),
            cause: letter.cause(),
            detail: letter.detail().to_owned(),
            amount: reading.order(letter).map(|order| amount_of(&order)),
            replays: u64::from(replayed),
            replayed,
            order: (letter.partition, letter.offset().0),
        }
    }

    fn rank(&self) -> (Option<Timestamp>, Kind, (Partition, i64)) {
        (self.at, self.kind, self.order)
    }
}

/// The oldest of all that are added, at most a number of them.
struct Oldest {
    heap: BinaryHeap<ByAge>,
    limit: usize,
}

#[derive(PartialEq, Eq)]
struct ByAge(Listed);

impl Ord for ByAge {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.rank().cmp(&other.0.rank())
    }
}

impl PartialOrd for ByAge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Oldest {
    fn new(limit: usize) -> Self {
        Self {
            heap: BinaryHeap::new(),
            limit,
        }
    }

    fn add(&mut self, listed: Listed) {
        self.heap.push(ByAge(listed));
        if self.heap.len() > self.limit {
            self.heap.pop();
        }
    }

    fn sorted(self) -> Vec<Listed> {
        self.heap
            .into_sorted_vec()
            .into_iter()
            .map(|ByAge(listed)| listed)
            .collect()
    }
}

#[derive(Serialize)]
struct DeadLetters<'a> {
    /// Number of dead letters, also of those that are not listed.
    count: u64,
    dead_letters: &'a [Listed],
}

fn list(options: &ListDeadLetters, config: &Config, json: bool) -> anyhow::Result<Status> {
    let reading = DeadLetterReader::open(config)?;
    let filter = DeadLetterFilter {
        arguments: options.filter.clone(),
        ..DeadLetterFilter::default()
    };
    let (mut oldest, mut count, mut any_replayed) = (Oldest::new(options.limit), 0, false);
    let mut progress = Progress::new();
    for kind in Kind::of(options.which) {
        reading.visit(*kind, &mut progress, |letter, resubmissions| {
            let replayed = resubmissions.has(letter.offset());
            any_replayed |= resubmissions.count() > 0;
            if (options.all || !replayed) && filter.selects(letter) {
                count += 1;
                oldest.add(Listed::of(letter, &reading, replayed));
            }
            Ok(())
        })?;
    }
    let mut listed = oldest.sorted();
    if any_replayed {
        count_replays(&mut listed, &reading, &mut progress)?;
    }
    progress.finish();
    if json {
        print_json(&DeadLetters {
            count,
            dead_letters: &listed,
        })?;
        return Ok(Status::Ok);
    }
    if count == 0 {
        println!("There is no such dead letter.");
        return Ok(Status::Ok);
    }
    println!("{}", table(&listed));
    let rest = match count - u64::try_from(listed.len())? {
        0 => String::new(),
        more => format!(" {more} of them are not listed (--limit)."),
    };
    println!(
        "{count} dead letters.{rest} `outbox dead-letters show KEY` shows one, `outbox dead-letters replay` writes \
         refused orders back once the cause is repaired."
    );
    Ok(Status::Ok)
}

/// Counts how often the orders that are listed were replayed, by the keys of their records.
fn count_replays(
    listed: &mut [Listed],
    reading: &DeadLetterReader<'_>,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let mut counts: HashMap<Vec<u8>, u64> = listed
        .iter()
        .filter(|of| of.kind == Kind::Order)
        .map(|of| (of.key.clone().into_bytes(), 0))
        .collect();
    for partition in &reading.partitions(Kind::Order)? {
        let bounds = reading.bounds(Kind::Order, *partition)?;
        reading.read(Kind::Order, *partition, bounds, |record, content| {
            progress.read(reading.topic(Kind::Order));
            if let Content::Resubmission(..) = content
                && let Some(count) = counts.get_mut(record.key.unwrap_or_default())
            {
                *count += 1;
            }
            Ok(())
        })?;
    }
    for of in listed {
        let of_key = counts.get(of.key.as_bytes()).copied().unwrap_or_default();
        // The resubmission of an order without a record key has none.
        of.replays = of_key.max(of.replays);
    }
    Ok(())
}

fn table(listed: &[Listed]) -> Table {
    let mut table = new_table([
        "kind",
        "key",
        "dead letter",
        "since",
        "cause",
        "detail",
        "amount",
        "replays",
    ]);
    for of in listed {
        table.add_row([
            of.kind.as_str().to_owned(),
            cell(&of.key),
            of.letter.clone(),
            rfc3339(of.at),
            cell(&of.cause),
            cell(&of.detail),
            of.amount.clone().unwrap_or_else(|| "-".into()),
            of.replays.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn listed(at: i64, offset: i64) -> Listed {
        Listed {
            kind: Kind::Order,
            key: "order-17".into(),
            letter: format!("payment-orders.dead-letters/3@{offset}"),
            source: Some("payment-orders/3@9".into()),
            at: Some(Timestamp(at)),
            cause: "not-an-order".into(),
            detail: "missing field `amount`".into(),
            amount: None,
            replays: 0,
            replayed: false,
            order: (Partition(3), offset),
        }
    }

    #[test]
    fn oldest_are_kept() {
        let mut oldest = Oldest::new(2);
        for (at, offset) in [(9, 0), (3, 4), (5, 1), (3, 2), (8, 3)] {
            oldest.add(listed(at, offset));
        }
        let kept: Vec<_> = oldest.sorted().iter().map(|of| of.order.1).collect();
        assert_eq!(kept, [2, 4]);
    }

    #[test]
    fn json_field_names_are_stable() {
        let listed = [Listed {
            amount: Some("EUR 12.50".into()),
            replays: 2,
            ..listed(5, 7)
        }];
        let json = serde_json::to_value(DeadLetters {
            count: 3,
            dead_letters: &listed,
        });
        let expected = serde_json::json!({"count": 3, "dead_letters": [{
            "kind": "order", "key": "order-17", "letter": "payment-orders.dead-letters/3@7",
            "source": "payment-orders/3@9", "at": 5, "cause": "not-an-order",
            "detail": "missing field `amount`", "amount": "EUR 12.50", "replays": 2, "replayed": false,
        }]});
        assert_eq!(json.expect("JSON"), expected);
        assert!(table(&listed).to_string().contains("EUR 12.50"));
    }
}
