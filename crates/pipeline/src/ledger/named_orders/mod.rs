//! Orders that an operator has named by their keys, to have calls of them made again whose outcome is unknown.
//!
//! The group has noted that such a call is final, and the topics do not say how: the group was begun behind it, or its
//! outcome has left its topic. Whether it was charged, only the provider knows. So one is made again only if nothing
//! that the topics have of its key speaks against it.
//!
//! Of topics that were copied, outcomes, dead letters, parked records and the headers of copies name offsets of the
//! outbox that they were copied from, where other orders may be now. So here the key decides, and a position only
//! where a record of the same key has it.

use std::collections::{BTreeMap, BTreeSet};

use records::{Offset, OffsetSet, Partition, Position};

use super::{Contents, LeftOut, NotedState, Rejection, Replayable, Terminal};

/// Place of a record in the outbox.
type Place = (Partition, Offset);

/// Orders of one outbox that an operator has named.
#[derive(Debug)]
pub struct NamedOrders {
    topic: String,
    orders: BTreeMap<Box<[u8]>, NamedOrder>,
    /// First offset that each partition of the outbox still has.
    starts: BTreeMap<Partition, Offset>,
}

/// What the topics have of one order.
#[derive(Debug, Default)]
struct NamedOrder {
    is_selected: bool,
    has_outcome: bool,
    dead_letters: BTreeMap<Place, Rejection>,
    parked: BTreeSet<Place>,
    settled: BTreeSet<Place>,
    records: BTreeSet<Place>,
    /// Last record of each call, by its first record.
    calls: BTreeMap<Place, NamedCall>,
    /// A record names a position that is none of this order.
    is_foreign: bool,
}

/// Call of a named order, as of its last record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamedCall {
    last: Place,
    noted: NotedState,
    is_expired: bool,
    money: Option<(String, u64)>,
}

/// Record of the outbox with the key of a named order.
#[derive(Clone, Copy, Debug)]
pub struct NamedRecord<'a> {
    /// Offset of the record.
    pub offset: Offset,
    /// What it says of the record before.
    pub lineage: Lineage,
    /// What the group has noted of it; [`NotedState::Unknown`] if that it is final.
    pub noted: NotedState,
    /// Whether the operator's selection, or the plan, has the record.
    pub is_selected: bool,
    /// The API may have forgotten the idempotency key of the call.
    pub is_expired: bool,
    /// Currency and amount in minor units, if the order has them.
    pub money: Option<(&'a str, u64)>,
}

/// What a record of the outbox says of the record before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lineage {
    /// None comes before.
    Original,
    /// It continues the call of this first record.
    Continues(Offset),
    /// It repeats the accepted call of this first record.
    Repeats(Offset),
    /// It names a record that cannot be before it, or none that can be read.
    Foreign,
}

impl NamedOrders {
    /// Creates the orders of these keys.
    #[must_use]
    pub fn new(topic: impl Into<String>, keys: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self {
            topic: topic.into(),
            orders: keys
                .into_iter()
                .map(|key| (key.into_boxed_slice(), NamedOrder::default()))
                .collect(),
            starts: BTreeMap::new(),
        }
    }

    /// Returns whether an order has this key.
    #[must_use]
    pub fn has(&self, key: &[u8]) -> bool {
        self.orders.contains_key(key)
    }

    /// Takes in a terminal record with this key, and the call that it names.
    pub fn terminal(&mut self, key: &[u8], kind: Terminal, call: &Position) {
        let Some(order) = self.orders.get_mut(key) else {
            return;
        };
        let place = (call.partition, call.offset);
        match kind {
            // Whichever call it names: the provider has charged the order.
            Terminal::Accepted => order.has_outcome = true,
            Terminal::DeadLetter(_) | Terminal::Parked if call.topic != self.topic => order.is_foreign = true,
            Terminal::DeadLetter(rejection) => {
                let before = order.dead_letters.entry(place).or_insert(rejection);
                *before = rejection.max(*before);
            }
            Terminal::Parked => drop(order.parked.insert(place)),
        }
    }

    /// Takes in the settlement of a parked call with this key.
    pub fn settled(&mut self, key: &[u8], call: &Position) {
        if let Some(order) = self.orders.get_mut(key) {
            order.settled.insert((call.partition, call.offset));
        }
    }

    /// Takes in the first offset that a partition of the outbox still has, before its records.
    pub fn starts(&mut self, partition: Partition, start: Offset) {
        self.starts.insert(partition, start);
    }

    /// Takes in a record of the outbox with this key, in the order of the offsets of its partition.
    pub fn pending(&mut self, key: &[u8], partition: Partition, record: &NamedRecord<'_>) {
        let start = self.start(partition);
        let Some(order) = self.orders.get_mut(key) else {
            return;
        };
        let own = (partition, record.offset);
        order.is_selected |= record.is_selected;
        order.records.insert(own);
        // A first record whose retention has passed was the order's, as far as anybody can tell.
        let is_known = |order: &NamedOrder, first: Offset| {
            order.calls.contains_key(&(partition, first)) || first < start
        };
        let first = match record.lineage {
            Lineage::Continues(first) if is_known(order, first) => (partition, first),
            Lineage::Repeats(first) if is_known(order, first) => {
                // The call that it repeats is no longer the last that was made of the order.
                order.calls.remove(&(partition, first));
                own
            }
            Lineage::Continues(_) | Lineage::Repeats(_) | Lineage::Foreign => {
                order.is_foreign = true;
                own
            }
            Lineage::Original => own,
        };
        let call = NamedCall {
            last: own,
            noted: record.noted,
            is_expired: record.is_expired,
            money: record.money.map(|(currency, units)| (currency.to_owned(), units)),
        };
        order.calls.insert(first, call);
    }

    /// Returns why the call of an order may not be made again although its outcome is unknown; `None` if it may, once
    /// the provider says that it was not charged.
    #[must_use]
    pub fn left_out(&self, key: &[u8]) -> Option<LeftOut> {
        self.call(self.orders.get(key)?).err()
    }

    /// Returns the last records of the calls that may be made again, by their states.
    #[must_use]
    pub fn replayable(&self, partition: Partition) -> BTreeMap<Replayable, OffsetSet> {
        let last: OffsetSet = self
            .selected()
            .filter_map(|order| self.call(order).ok())
            .filter(|call| call.last.0 == partition)
            .map(|call| call.last.1)
            .collect();
        match last.is_empty() {
            true => BTreeMap::new(),
            false => [(Replayable::Unknown, last)].into(),
        }
    }

    /// Returns what a plan of the orders has.
    #[must_use]
    pub fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        for order in self.selected() {
            match self.call(order) {
                Ok(call) => {
                    let (partition, offset) = call.last;
                    *contents.calls.entry(Replayable::Unknown).or_default() += 1;
                    match &call.money {
                        Some((currency, units)) => {
                            *contents.money.entry(currency.clone()).or_default() += u128::from(*units);
                        }
                        None => contents.without_amount += 1,
                    }
                    contents.offsets.entry(partition).or_default().insert(offset);
                }
                Err(why) => *contents.left_out.entry(why).or_default() += 1,
            }
        }
        contents
    }

    fn selected(&self) -> impl Iterator<Item = &NamedOrder> {
        self.orders.values().filter(|order| order.is_selected)
    }

    /// Returns the only call of an order, if it may be made again.
    fn call<'o>(&self, order: &'o NamedOrder) -> Result<&'o NamedCall, LeftOut> {
        if order.has_outcome {
            return Err(LeftOut::NotAskedFor(Replayable::Accepted));
        }
        for call in order.calls.values() {
            match call.noted {
                NotedState::Pending => return Err(LeftOut::Pending),
                NotedState::PerhapsSent => return Err(LeftOut::InFlight),
                NotedState::Unknown | NotedState::Final(_) => {}
            }
        }
        // Whichever call it names: its settlement may send the order again, and both together would charge it twice.
        if order.parked.difference(&order.settled).next().is_some() {
            return Err(LeftOut::Parked);
        }
        let mut calls = order.calls.values();
        // Of several calls nobody can say which one the provider does not have.
        let (Some(call), None, false) = (calls.next(), calls.next(), self.is_foreign(order)) else {
            return Err(LeftOut::Unclear);
        };
        if let Some(rejection) = order.dead_letters.get(&call.last) {
            return Err(match Replayable::of(*rejection) {
                Some(state) => LeftOut::NotAskedFor(state),
                None => LeftOut::NotACall,
            });
        }
        if order.parked.contains(&call.last) {
            return Err(LeftOut::Parked);
        }
        match call.is_expired {
            true => Err(LeftOut::KeyExpired),
            false => Ok(call),
        }
    }

    /// Returns whether a record names a position where the order has none, and had none as far as the outbox goes
    /// back.
    fn is_foreign(&self, order: &NamedOrder) -> bool {
        let mut named = order.dead_letters.keys().chain(&order.parked);
        order.is_foreign
            || named.any(|place| !order.records.contains(place) && place.1 >= self.start(place.0))
    }

    fn start(&self, partition: Partition) -> Offset {
        self.starts.get(&partition).copied().unwrap_or(Offset(0))
    }
}

#[cfg(test)]
mod tests;
