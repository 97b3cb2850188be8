//! `parked settle`: ends parked calls, as the operator has found out what became of them.
//!
//! One fixed transactional id: the second of two operators ends what the first has open, fences it, and decides on
//! what the topics have then. Each call's settlement is in one transaction with what it says, so that a command that
//! was killed at any step, or whose commit has an unknown outcome, is simply run again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use kafka::admin::Admin;
use kafka::group_offsets::TopicRecord;
use kafka::producer::transactional::{TransactionEnd, TransactionTimeouts};
use kafka::producer::{OutgoingHeaders, RecordSizes};
use kafka::{OutgoingRecord, TransactionalProducer};
use pipeline::ledger::ParkedCalls;
use records::outcome::Outcome;
use records::settlement::{self, Decision, Settlement};
use records::{
    Bounds, Continuation, Offset, Partition, Position, Timestamp, Topics, call_dead_letter, continuation,
    dead_letter, order_id,
};
use serde::Serialize;
use service::failpoint::{guard_removed, kill_at};

use super::reading::{CLIENT_ID, Kind, ParkedRecord, REQUEST_TIMEOUT, Reading};
use super::show::span;
use super::{Listed, listed};
use crate::cli::{DecideParked, SettleParked};
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::confirm::confirm;
use crate::operator::operator;

/// Maximum number of calls in one transaction.
const CALLS_MAX: usize = 1000;
/// Maximum number of keys of one command, which are kept in memory.
const KEYS_MAX: usize = 100_000;
/// Number of calls shown before the operator is asked.
const SHOWN_MAX: usize = 10;
const TIMEOUTS: TransactionTimeouts = TransactionTimeouts {
    transaction_timeout: Duration::from_secs(30),
    commit_timeout: Duration::from_secs(15),
};

/// Calls to settle, by the positions of their parked records.
type Chosen = BTreeMap<Partition, BTreeMap<Offset, Position>>;

/// Field names are those of the JSON output.
#[derive(Debug, Serialize)]
struct Settled {
    decision: Decision,
    settled: usize,
    /// Keys that were left alone, each with the reason.
    refused: Vec<Refused>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Refused {
    key: String,
    reason: String,
}

pub(super) fn run(options: &SettleParked, config: &Config, json: bool) -> anyhow::Result<Status> {
    let keys = keys(options)?;
    let decision = decision(&options.decision);
    let reading = Reading::open(config, &options.which.group)?;
    // Before the topics are read: what an earlier operator has open is committed or aborted by then, and whatever
    // that one writes from now on is refused.
    let producer = open_producer(config)?;
    let calls = reading.parked_calls()?;
    let quiet = config.quiet_time();
    let (chosen, refused) = choose(&calls, &keys, decision, Timestamp::now(), quiet);
    let count = chosen.values().map(BTreeMap::len).sum();
    // To standard error: the result on standard output may be redirected to a file.
    for Refused { key, reason } in refused.iter().take(SHOWN_MAX) {
        eprintln!("{key} is left alone: {reason}");
    }
    if refused.len() > SHOWN_MAX {
        eprintln!(
            "{} more are left alone (--json has all)",
            refused.len() - SHOWN_MAX
        );
    }
    if count > 0 {
        eprintln!("{}", listed(&sample(&calls, &chosen)));
        if !confirm(&question(decision, count, quiet), options.yes)? {
            eprintln!("Nothing was changed.");
            return Ok(Status::Problem);
        }
        let settlement = Settlement::new(decision, Timestamp::now(), operator(), options.reason.clone());
        let settler = Settler {
            reading: &reading,
            topics: &config.topics,
            producer,
            settlement,
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

const fn decision(of: &DecideParked) -> Decision {
    if of.accepted {
        Decision::Accepted
    } else if of.rejected {
        Decision::Rejected
    } else {
        Decision::SendAgain
    }
}

fn keys(options: &SettleParked) -> anyhow::Result<BTreeSet<String>> {
    let keys: BTreeSet<String> = match &options.keys_from {
        None => options.keys.iter().cloned().collect(),
        Some(file) if file == Path::new("-") => lines(std::io::stdin().lock())?,
        Some(file) => {
            let opened = std::fs::File::open(file).with_context(|| format!("opening {}", file.display()))?;
            lines(BufReader::new(opened)).with_context(|| format!("reading {}", file.display()))?
        }
    };
    ensure!(!keys.is_empty(), "there are no keys: nothing to settle");
    Ok(keys)
}

/// Reads one key per line. Empty lines are skipped.
fn lines(input: impl std::io::BufRead) -> anyhow::Result<BTreeSet<String>> {
    let mut keys = BTreeSet::new();
    for line in input.lines() {
        let line = line?;
        let key = line.strip_suffix('\r').unwrap_or(&line);
        if !key.is_empty() {
            keys.insert(key.to_owned());
        }
        ensure!(
            keys.len() <= KEYS_MAX,
            "there are more than {KEYS_MAX} keys: settle them in parts"
        );
    }
    Ok(keys)
}

fn open_producer(config: &Config) -> anyhow::Result<TransactionalProducer> {
    let Topics {
        pending,
        processed,
        call_dead_letters,
        parked,
        ..
    } = &config.topics;
    let settings = config.connection();
    let names = [pending.as_str(), processed, call_dead_letters, parked];
    let described = Admin::connect(&settings, CLIENT_ID)?.describe(&names)?;
    let sizes = RecordSizes::of(&described, names);
    let id = format!("outbox-settle-{parked}");
    Ok(TransactionalProducer::open(
        &settings,
        &id,
        TIMEOUTS,
        sizes,
        REQUEST_TIMEOUT,
    )?)
}

/// Chooses the calls of the keys that may be settled now, and the reasons against the others.
fn choose(
    calls: &ParkedCalls<ParkedRecord>,
    keys: &BTreeSet<String>,
    decision: Decision,
    now: Timestamp,
    quiet: Duration,
) -> (Chosen, Vec<Refused>) {
    let (mut chosen, mut refused) = (Chosen::new(), Vec::new());
    let mut found = BTreeSet::new();
    for (call, waiting) in calls.waiting() {
        let key = waiting.record.key_text();
        if !keys.contains(&key) {
            continue;
        }
        match calls.settle(&call, decision, now, quiet) {
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
        reason: "no parked call of it waits: it was settled, has an outcome or a dead letter, or was never parked \
                 (`outbox parked show` tells)"
            .into(),
    }));
    (chosen, refused)
}

fn sample(calls: &ParkedCalls<ParkedRecord>, chosen: &Chosen) -> Vec<Listed> {
    calls
        .waiting()
        .filter(|(call, waiting)| {
            let at = &waiting.record.at;
            chosen
                .get(&at.partition)
                .is_some_and(|calls| calls.get(&at.offset) == Some(call))
        })
        .take(SHOWN_MAX)
        .map(|(call, waiting)| Listed {
            key: waiting.record.key_text(),
            call: call.to_string(),
            parked_at: waiting.parked_at,
            cause: waiting.record.cause.clone(),
            attempts: waiting.record.attempts,
        })
        .collect()
}

fn question(decision: Decision, count: usize, quiet: Duration) -> String {
    match decision {
        Decision::Accepted => format!("Settle {count} parked calls as accepted, with an outcome each?"),
        Decision::Rejected => format!("Settle {count} parked calls as rejected, with a dead letter each?"),
        Decision::SendAgain => format!(
            "Send {count} parked calls again? They were parked more than {} ago. Each that the API has processed is \
             charged a second time.",
            span(quiet)
        ),
    }
}

struct Settler<'a> {
    reading: &'a Reading<'a>,
    topics: &'a Topics,
    producer: TransactionalProducer,
    settlement: Settlement,
}

impl Settler<'_> {
    /// Settles the chosen calls, in transactions of a limited number. Reads their parked records again, so that no
    /// order is kept in memory.
    fn settle(&self, chosen: &Chosen) -> anyhow::Result<()> {
        let mut in_transaction = 0;
        for (partition, calls) in chosen {
            let (Some((first, _)), Some((last, _))) = (calls.first_key_value(), calls.last_key_value())
            else {
                continue;
            };
            let bounds = Bounds {
                start: *first,
                end: Offset(last.0 + 1),
            };
            let mut seen = 0;
            self.reading.visit_parked(*partition, bounds, |record, kind| {
                let Some(call) = calls.get(&record.offset) else {
                    return Ok(());
                };
                ensure!(
                    matches!(&kind, Kind::Parked(parked) if parked == call),
                    "{}/{partition}@{} is no longer the parked record of {call}",
                    self.topics.parked,
                    record.offset
                );
                if in_transaction == 0 {
                    self.producer.begin()?;
                }
                self.write(*partition, call, record)?;
                in_transaction += 1;
                seen += 1;
                if in_transaction == CALLS_MAX {
                    self.commit()?;
                    in_transaction = 0;
                }
                Ok(())
            })?;
            ensure!(
                seen == calls.len(),
                "{} parked records of {}/{partition} are gone; run the command again",
                calls.len() - seen,
                self.topics.parked
            );
        }
        if in_transaction > 0 {
            self.commit()?;
        }
        Ok(())
    }

    /// Writes the settlement of a call, and what it says.
    fn write(&self, partition: Partition, call: &Position, record: &TopicRecord<'_>) -> anyhow::Result<()> {
        match self.settlement.decision {
            Decision::Accepted => self.write_outcome(call, record)?,
            Decision::Rejected => self.write_dead_letter(call, record)?,
            Decision::SendAgain => self.write_copy(call, record)?,
        }
        kill_at!("between-settlement-records");
        if guard_removed!("guard-settlement") {
            // A test removes the guard: nothing tells that the call was settled.
            return Ok(());
        }
        let mut headers = OutgoingHeaders::with_capacity(1);
        headers.add(settlement::SETTLES, Some(call.to_string().as_bytes()));
        self.send(
            &self.topics.parked,
            // That of the parked record, so that one partition tells all of a call.
            Some(partition),
            record.key,
            &self.settlement.to_json(),
            headers,
        )
    }

    fn write_outcome(&self, call: &Position, record: &TopicRecord<'_>) -> anyhow::Result<()> {
        let key = String::from_utf8_lossy(record.key).into_owned();
        let order = order_id(record.value).ok().flatten();
        let order = order.map_or_else(|| key.clone(), |order| order.into_owned());
        let mut outcome = Outcome::new(order, key, call.to_string());
        outcome.continues = continued(record)?.map(|before| before.call.to_string());
        outcome.settled_by = Some(self.settlement.by.clone());
        outcome.settled_because = Some(self.settlement.reason.clone());
        let number = |name| super::reading::text(&record.headers, name).and_then(|text| text.parse().ok());
        outcome.attempts = number(call_dead_letter::ATTEMPTS).unwrap_or_default();
        outcome.attempts_ambiguous = number(call_dead_letter::ATTEMPTS_AMBIGUOUS).unwrap_or_default();
        outcome.responded_at = self.settlement.at;
        let mut headers = OutgoingHeaders::with_capacity(2);
        headers.add(call_dead_letter::CALL, Some(call.to_string().as_bytes()));
        headers.add(settlement::SETTLED_BY, Some(self.settlement.by.as_bytes()));
        self.send(
            &self.topics.processed,
            None,
            record.key,
            &outcome.to_json(),
            headers,
        )
    }

    fn write_dead_letter(&self, call: &Position, record: &TopicRecord<'_>) -> anyhow::Result<()> {
        let (at, call) = (self.settlement.at.to_string(), call.to_string());
        // As the caller's: what it knew of the call, then the reason. Readers take the last header of a name.
        let mut headers = OutgoingHeaders::with_capacity(record.headers.readable.len() + 5);
        for (name, value) in &record.headers.readable {
            headers.add(name, *value);
        }
        for (name, value) in [
            (dead_letter::REASON, call_dead_letter::REJECTED_BY_OPERATOR),
            (dead_letter::DETAIL, &self.settlement.reason),
            (dead_letter::AT, &at),
            (call_dead_letter::CALL, &call),
            (settlement::SETTLED_BY, &self.settlement.by),
        ] {
            headers.add(name, Some(value.as_bytes()));
        }
        self.send(
            &self.topics.call_dead_letters,
            None,
            record.key,
            record.value,
            headers,
        )
    }

    /// Appends a copy of the call to the outbox, as a deferral does. It continues the call's first record, so that
    /// an outcome of either ends both.
    fn write_copy(&self, call: &Position, record: &TopicRecord<'_>) -> anyhow::Result<()> {
        let before = continued(record)?;
        let first = before.as_ref().map_or(call, |before| &before.call);
        // Without the attempts before, and without an ambiguity: the operator knows that none was processed.
        let mut continuation = Continuation::new(first.clone(), self.settlement.at);
        continuation.deferrals = before.map_or(1, |before| before.deferrals.saturating_add(1));
        let own = of_the_order(record);
        let mut headers = OutgoingHeaders::with_capacity(own.len() + 1);
        for (name, value) in own {
            if *name != continuation::CONTINUES {
                headers.add(name, *value);
            }
        }
        headers.add(continuation::CONTINUES, Some(&continuation.to_json()));
        // The same partition: calls of one key stay in order, and the group's notes are by partition.
        self.send(
            &self.topics.pending,
            Some(call.partition),
            record.key,
            record.value,
            headers,
        )
    }

    fn send(
        &self,
        topic: &str,
        partition: Option<Partition>,
        key: &[u8],
        value: &[u8],
        headers: OutgoingHeaders,
    ) -> anyhow::Result<()> {
        Ok(self.producer.send(OutgoingRecord {
            topic,
            partition,
            key: Some(key),
            value: Some(value),
            headers: Some(headers),
        })?)
    }

    fn commit(&self) -> anyhow::Result<()> {
        let metadata = self.reading.offsets.group_metadata()?;
        let end = self.producer.end(&self.topics.pending, &[], &metadata, || {
            kill_at!("before-settlement-commit");
        });
        kill_at!("after-settlement-commit");
        match end {
            TransactionEnd::Committed { .. } => Ok(()),
            TransactionEnd::CommittedRetireProducer { why, .. } => bail!(
                "parked calls were settled, and the producer cannot continue: {why}. Run the command again, which \
                 settles the rest"
            ),
            TransactionEnd::Aborted(error) | TransactionEnd::Unknown(error) => Err(anyhow::Error::new(error)
                .context(
                    "these parked calls were not settled, or that is not known: a second operator may settle \
                     parked calls at the same time. Run the command again, which settles none twice",
                )),
        }
    }
}

/// Returns the headers that the pending call had: the caller's come after them, from the last reason on.
fn of_the_order<'r>(record: &'r TopicRecord<'_>) -> &'r [(&'r str, Option<&'r [u8]>)] {
    let all = record.headers.readable.as_slice();
    let own = all.iter().rposition(|(name, _)| *name == dead_letter::REASON);
    &all[..own.unwrap_or(all.len())]
}

/// Returns what the pending call continued.
fn continued(record: &TopicRecord<'_>) -> anyhow::Result<Option<Continuation>> {
    let value = record.headers.last(continuation::CONTINUES);
    Ok(value
        .map(|value| Continuation::parse(value.unwrap_or_default()))
        .transpose()?)
}

#[cfg(test)]
mod tests {
    use kafka::Headers;
    use records::CallNote;

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
        let (chosen, refused) = choose(&calls, &keys, Decision::Accepted, Timestamp(0), Duration::ZERO);
        let expected: Chosen = [(Partition(4), [(Offset(101), position(1))].into())].into();
        assert_eq!(chosen, expected);
        let words: Vec<_> = refused
            .iter()
            .map(|refused| (refused.key.as_str(), refused.reason.contains("outbox/0@9")))
            .collect();
        assert_eq!(words, [("c", true), ("d", false)]);
        assert_eq!(sample(&calls, &chosen).len(), 1);
    }

    #[test]
    fn keys_are_lines() {
        let keys = lines("b\r\na b\n\n a\n".as_bytes()).expect("read");
        assert_eq!(keys, ["b", "a b", " a"].map(str::to_owned).into());
    }

    #[test]
    fn order_keeps_its_own_headers() {
        let readable = vec![
            ("trace", Some(&b"1"[..])),
            (dead_letter::REASON, Some(b"of the order")),
            (dead_letter::REASON, Some(b"ambiguous")),
            (call_dead_letter::CALL, Some(b"outbox/0@1")),
        ];
        let record = TopicRecord {
            offset: Offset(0),
            at: None,
            key: b"k",
            value: b"{}",
            headers: Headers {
                readable,
                unreadable: None,
            },
        };
        let own = of_the_order(&record);
        assert_eq!(own, &record.headers.readable[..2]);
    }
}
