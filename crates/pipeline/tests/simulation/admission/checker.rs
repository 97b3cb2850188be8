//! What must hold, held against what one correct process would have done.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use records::{Entry, IdempotencyKey, Offset, Partition};

use crate::admission::broker::{Broker, Id, Slot, Topic};
use crate::admission::disk::Content;
use crate::admission::orders::{Expected, Order, Orders, index};

/// A broken promise.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) promise: Promise,
    pub(crate) what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Each key is in the outbox exactly once.
    G1,
    /// No order is lost.
    G2,
    /// A store that is worked with equals the committed changelog, at the committed offset.
    G3,
    /// When the faults stop, everything comes to an end.
    Drain,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is broken: {}", self.promise, self.what)
    }
}

pub(crate) fn broken<T>(promise: Promise, what: String) -> Result<T, Violation> {
    Err(Violation { promise, what })
}

/// What is decided so far. A transaction counts from its decision, before any marker is written.
pub(crate) struct Checker {
    parts: Vec<Part>,
    /// Whether stores and positions are looked at while they are worked with, or what comes of them alone.
    looks_inside: bool,
}

/// A partition's share.
#[derive(Default)]
struct Part {
    /// The committed offset.
    position: i64,
    /// The fold of the changelog.
    keys: BTreeMap<IdempotencyKey, Entry>,
}

impl Checker {
    pub(crate) fn new(partitions: usize, looks_inside: bool) -> Self {
        Self {
            parts: (0..partitions).map(|_| Part::default()).collect(),
            looks_inside,
        }
    }

    /// A producer's open transaction is about to be committed: it must hold exactly what one correct process
    /// would have written for the orders between the old and the new committed offsets.
    pub(crate) fn commits(&mut self, broker: &Broker, orders: &Orders, id: Id) -> Result<(), Violation> {
        let offsets: BTreeMap<Partition, Offset> = broker.pending_of(id).collect();
        for (number, part) in self.parts.iter_mut().enumerate() {
            let partition = Partition(i32::try_from(number).expect("few partitions"));
            let from = Offset(part.position);
            let to = offsets.get(&partition).copied().unwrap_or(from);
            let sources = |topic| -> Vec<Offset> {
                let records = broker.log(topic, partition).open_of(id);
                records.map(|record| record.source).collect()
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
            compare(
                partition,
                "dead letters",
                &sources(Topic::DeadLetters),
                &range(Expected::DeadLetter),
            )?;
            if to < from && self.looks_inside {
                return broken(
                    Promise::G3,
                    format!("the committed offset of {partition} goes back from {from} to {to}"),
                );
            }
            part.position = to.0;
            let changes = broker.log(Topic::Changelog, partition).open_of(id);
            part.keys
                .extend(changes.filter_map(|record| record.change.clone()));
        }
        Ok(())
    }

    /// A partition is worked on from this position, with this store, by its owner.
    pub(crate) fn works(
        &self,
        partition: Partition,
        position: Offset,
        store: Option<&Content>,
    ) -> Result<(), Violation> {
        if !self.looks_inside {
            return Ok(());
        }
        let part = &self.parts[index(partition)];
        if position.0 != part.position {
            return broken(
                Promise::G3,
                format!(
                    "{partition} is worked on from {position}, and committed is {}",
                    part.position
                ),
            );
        }
        match store {
            Some(store) if store.entries == part.keys => Ok(()),
            Some(store) => broken(
                Promise::G3,
                format!(
                    "the store of {partition} holds {:?}, and the changelog {:?}",
                    store.entries.keys(),
                    part.keys.keys()
                ),
            ),
            None => broken(Promise::G3, format!("{partition} is worked on without a store")),
        }
    }

    /// A store that is started with equals the changelog up to its checkpoint, and everything there is decided.
    pub(crate) fn restored(
        &self,
        broker: &Broker,
        partition: Partition,
        store: &Content,
    ) -> Result<(), Violation> {
        if !self.looks_inside {
            return Ok(());
        }
        let mut fold = BTreeMap::new();
        let checkpoint = store.checkpoint.unwrap_or(Offset(0));
        for slot in broker
            .log(Topic::Changelog, partition)
            .slots
            .iter()
            .take(usize::try_from(checkpoint.0).expect("an offset"))
        {
            match slot {
                Slot::Committed(record) => fold.extend(record.change.clone()),
                // Decided already; its marker is still to be written.
                Slot::Open(_, record) if record.source < self.position(partition) => {
                    fold.extend(record.change.clone());
                }
                Slot::Aborted(_) | Slot::Marker => {}
                Slot::Open(..) => {
                    return broken(
                        Promise::G3,
                        format!("the store of {partition} passes over an open transaction"),
                    );
                }
            }
        }
        if fold == store.entries {
            return Ok(());
        }
        broken(
            Promise::G3,
            format!(
                "the store of {partition} holds {:?}, and the changelog up to {checkpoint} {:?}",
                store.entries.keys(),
                fold.keys()
            ),
        )
    }

    pub(crate) fn position(&self, partition: Partition) -> Offset {
        Offset(self.parts[index(partition)].position)
    }

    /// In the end, what a read_committed reader sees is what one correct process would have written.
    pub(crate) fn ended(&self, broker: &Broker, orders: &Orders) -> Result<(), Violation> {
        for number in 0..self.parts.len() {
            let partition = Partition(i32::try_from(number).expect("few partitions"));
            for (topic, name, wanted) in [
                (Topic::Outbox, "outbox", Expected::Admitted),
                (Topic::Changelog, "changelog", Expected::Admitted),
                (Topic::DeadLetters, "dead letters", Expected::DeadLetter),
            ] {
                let records = broker.log(topic, partition).committed();
                let found: Vec<Offset> = records.map(|record| record.source).collect();
                let wanted = expected(orders.of(partition), Offset(0), orders.end(partition), wanted);
                compare(partition, name, &found, &wanted)?;
            }
        }
        Ok(())
    }
}

/// The orders in a range that come to this.
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
    let promise = if wanted.difference(&has).next().is_some() {
        Promise::G2
    } else {
        Promise::G1
    };
    let numbers = |offsets: &[Offset]| offsets.iter().map(|offset| offset.0).collect::<Vec<_>>();
    broken(
        promise,
        format!(
            "the {name} of {partition} takes in orders {:?} where {:?} are expected",
            numbers(found),
            numbers(expected)
        ),
    )
}
