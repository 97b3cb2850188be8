//! Checker of the guarantees, against what one correct process would have written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use records::{Entry, KeyHash, Offset, Partition, Timestamp};

use crate::admission::broker::{Broker, LogEntry, Record, Topic, TransactionalId};
use crate::admission::disk::Content;
use crate::admission::orders::{Expected, Order, Orders, RETENTION, index};

/// Violation of a guarantee.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) guarantee: Guarantee,
    pub(crate) what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guarantee {
    /// Each key is on the outbox exactly once.
    G1,
    /// No order is lost.
    G2,
    /// The store of a running partition equals the committed changelog, at the committed offset.
    G3,
    /// Without further faults, all orders are processed.
    Drain,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is violated: {}", self.guarantee, self.what)
    }
}

pub(crate) fn violation<T>(guarantee: Guarantee, what: String) -> Result<T, Violation> {
    Err(Violation { guarantee, what })
}

/// Decided state. A transaction counts from its decision on, before any marker is written.
pub(crate) struct Checker {
    parts: Vec<Part>,
    /// `true` to check stores and positions of running partitions, too, not the topics only.
    checks_state: bool,
}

/// Decided state of a partition.
#[derive(Default)]
struct Part {
    /// Committed input offset.
    position: i64,
    /// Entries of the changelog.
    keys: BTreeMap<KeyHash, Entry>,
    /// Times at which they were recorded.
    recorded: BTreeMap<KeyHash, Timestamp>,
}

impl Checker {
    pub(crate) fn new(partitions: usize, checks_state: bool) -> Self {
        Self {
            parts: (0..partitions).map(|_| Part::default()).collect(),
            checks_state,
        }
    }

    /// Checks a transaction that is about to be committed: it must hold exactly what one correct process
    /// would write for the orders between the old and the new committed offset.
    pub(crate) fn check_commit(
        &mut self,
        broker: &Broker,
        orders: &Orders,
        id: TransactionalId,
    ) -> Result<(), Violation> {
        let offsets: BTreeMap<Partition, Offset> = broker.pending_of(id).collect();
        for (number, part) in self.parts.iter_mut().enumerate() {
            let partition = Partition(i32::try_from(number).expect("few partitions"));
            let from = Offset(part.position);
            let to = offsets.get(&partition).copied().unwrap_or(from);
            let sources = |topic| -> Vec<Offset> {
                let records = broker.log(topic, partition).open_of(id);
                records
                    .filter(|record| !record.is_again)
                    .map(|record| record.source)
                    .collect()
            };
            let range = |wanted| expected(orders.of(partition), from, to, wanted);
            let admitted = sources(Topic::Outbox);
            compare(partition, "outbox", &admitted, &range(Expected::Admitted))?;
            compare(
                partition,
                "changelog",
                &sources(Topic::Changelog),
                &range(Expected::Admitted),
            )?;
            let mut dead_letters = sources(Topic::DeadLetters);
            dead_letters.retain(|source| !range(Expected::DuplicateOrTooOld).contains(source));
            compare(
                partition,
                "dead letters",
                &dead_letters,
                &range(Expected::DeadLetter),
            )?;
            if to < from && self.checks_state {
                return violation(
                    Guarantee::G3,
                    format!("the committed offset of {partition} decreases from {from} to {to}"),
                );
            }
            part.position = to.0;
            for record in broker.log(Topic::Changelog, partition).open_of(id) {
                if let (Some((key, _)), Some(recorded)) = (&record.change, record.recorded) {
                    part.recorded.insert(KeyHash::from(key), recorded);
                }
            }
            let changes = broker.log(Topic::Changelog, partition).open_of(id);
            part.keys.extend(changes.filter_map(Record::hashed_change));
        }
        Ok(())
    }

    /// Checks the position and the store of a running partition, for its owner.
    pub(crate) fn check_running(
        &self,
        partition: Partition,
        position: Offset,
        store: Option<&Content>,
    ) -> Result<(), Violation> {
        if !self.checks_state {
            return Ok(());
        }
        let part = &self.parts[index(partition)];
        if position.0 != part.position {
            return violation(
                Guarantee::G3,
                format!(
                    "{partition} runs from {position}, and the committed offset is {}",
                    part.position
                ),
            );
        }
        match store {
            Some(store) if part.remembers(&store.entries, &part.keys) => Ok(()),
            Some(store) => violation(
                Guarantee::G3,
                format!(
                    "the store of {partition} has {:?}, and the changelog {:?}",
                    store.entries.keys(),
                    part.keys.keys()
                ),
            ),
            None => violation(Guarantee::G3, format!("{partition} runs without a store")),
        }
    }

    /// Checks a restored store: it equals the changelog up to its checkpoint, and all of that is decided.
    pub(crate) fn restored(
        &self,
        broker: &Broker,
        partition: Partition,
        store: &Content,
    ) -> Result<(), Violation> {
        if !self.checks_state {
            return Ok(());
        }
        let mut fold = BTreeMap::new();
        let checkpoint = store.checkpoint.unwrap_or(Offset(0));
        for entry in broker
            .log(Topic::Changelog, partition)
            .entries
            .iter()
            .take(usize::try_from(checkpoint.0).expect("an offset"))
        {
            match entry {
                LogEntry::Committed(record) => fold.extend(record.hashed_change()),
                // Decided, with the marker still missing.
                LogEntry::Open(_, record) if record.source < self.position(partition) => {
                    fold.extend(record.hashed_change());
                }
                LogEntry::Aborted(_) | LogEntry::Marker => {}
                LogEntry::Open(..) => {
                    return violation(
                        Guarantee::G3,
                        format!("the store of {partition} includes an open transaction"),
                    );
                }
            }
        }
        if self.parts[index(partition)].remembers(&store.entries, &fold) {
            return Ok(());
        }
        violation(
            Guarantee::G3,
            format!(
                "the store of {partition} has {:?}, and the changelog up to {checkpoint} {:?}",
                store.entries.keys(),
                fold.keys()
            ),
        )
    }

    pub(crate) fn position(&self, partition: Partition) -> Offset {
        Offset(self.parts[index(partition)].position)
    }

    /// Checks the topics at the end, as a read_committed consumer sees them.
    pub(crate) fn check_final(&self, broker: &Broker, orders: &Orders) -> Result<(), Violation> {
        for number in 0..self.parts.len() {
            let partition = Partition(i32::try_from(number).expect("few partitions"));
            for (topic, name, wanted) in [
                (Topic::Outbox, "outbox", Expected::Admitted),
                (Topic::Changelog, "changelog", Expected::Admitted),
                (Topic::DeadLetters, "dead letters", Expected::DeadLetter),
            ] {
                let records = broker.log(topic, partition).committed();
                let mut found: Vec<Offset> = records
                    .filter(|record| !record.is_again)
                    .map(|record| record.source)
                    .collect();
                let end = orders.end(partition);
                let either = expected(orders.of(partition), Offset(0), end, Expected::DuplicateOrTooOld);
                found.retain(|source| topic != Topic::DeadLetters || !either.contains(source));
                let wanted = expected(orders.of(partition), Offset(0), orders.end(partition), wanted);
                compare(partition, name, &found, &wanted)?;
            }
        }
        Ok(())
    }
}

impl Part {
    /// Returns `true` if a store has these keys, or all but old ones.
    fn remembers(&self, store: &BTreeMap<KeyHash, Entry>, keys: &BTreeMap<KeyHash, Entry>) -> bool {
        let newest = self.recorded.values().max().map_or(0, |newest| newest.0);
        let oldest = newest - i64::try_from(RETENTION.as_millis()).expect("some hours");
        let may_lack = |key: &KeyHash| self.recorded.get(key).is_some_and(|at| at.0 < oldest);
        keys.iter().all(|(key, entry)| match store.get(key) {
            Some(stored) => stored == entry,
            None => may_lack(key),
        }) && store.keys().all(|key| keys.contains_key(key))
    }
}

/// Returns the orders of a range that have this result.
fn expected(orders: &[Order], from: Offset, to: Offset, wanted: Expected) -> Vec<Offset> {
    orders
        .iter()
        .filter(|order| (from..to).contains(&order.offset) && order.expected == wanted)
        .map(|order| order.offset)
        .collect()
}

fn compare(partition: Partition, name: &str, found: &[Offset], expected: &[Offset]) -> Result<(), Violation> {
    if found == expected {
        return Ok(());
    }
    let (has, wanted): (BTreeSet<_>, BTreeSet<_>) = (found.iter().collect(), expected.iter().collect());
    let guarantee = if wanted.difference(&has).next().is_some() {
        Guarantee::G2
    } else {
        Guarantee::G1
    };
    let numbers = |offsets: &[Offset]| offsets.iter().map(|offset| offset.0).collect::<Vec<_>>();
    violation(
        guarantee,
        format!(
            "the {name} of {partition} has orders {:?}, expected {:?}",
            numbers(found),
            numbers(expected)
        ),
    )
}
