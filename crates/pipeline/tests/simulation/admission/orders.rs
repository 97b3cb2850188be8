//! Input: the records of the orders topic, and the result that one correct process has for each.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use records::{Offset, Partition, Timestamp};

/// Orders of all partitions. They arrive one by one; `arrived` is the number that has arrived on each.
#[derive(Clone)]
pub(crate) struct Orders {
    partitions: Vec<Vec<Order>>,
    arrived: Vec<usize>,
}

/// Input record.
#[derive(Clone)]
pub(crate) struct Order {
    pub(crate) offset: Offset,
    pub(crate) key: String,
    pub(crate) value: String,
    /// Time of the record.
    pub(crate) at: Timestamp,
    amount: u32,
    is_malformed: bool,
    pub(crate) expected: Expected,
}

/// Expected result, computed without the code of the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Admitted,
    Duplicate,
    DeadLetter,
    /// Sent again with its old time: a duplicate, or a dead letter once its key is forgotten.
    DuplicateOrTooOld,
}

const HOUR: i64 = 3_600_000;
/// Retention of the seeds in which keys are forgotten.
pub(crate) const RETENTION: std::time::Duration = std::time::Duration::from_secs(6 * 3600);
/// Time of the wall clock in them: later than all orders but those from the future.
pub(crate) const WALL: Timestamp = Timestamp(1_000 * HOUR);

impl Orders {
    /// Draws orders for each partition, with duplicates, conflicts, and records that are not orders.
    pub(crate) fn draw(random: &mut ChaCha8Rng, partitions: usize) -> Self {
        let keys = random.random_range(2..8);
        let draw_partition = |random: &mut ChaCha8Rng| {
            let mut first: BTreeMap<u32, u32> = BTreeMap::new();
            let mut offset = random.random_range(0..2);
            let count = random.random_range(4..16);
            let mut orders = Vec::with_capacity(count);
            for _ in 0..count {
                let number = random.random_range(0..keys);
                let amount = if random.random_ratio(1, 6) { 2 } else { 1 };
                let mut is_malformed = true;
                let mut key = format!("k{number}");
                // Sent again, an order often has another time, which does not count.
                let at = offset % 3;
                let mut value = format!(
                    r#"{{"order_id":"{key}","amount":{amount},"currency":"EUR","customer_id":"c","at":{at}}}"#
                );
                let expected = match random.random_range(0..16) {
                    0 => {
                        value.truncate(20);
                        Expected::DeadLetter
                    }
                    1 => {
                        key.push('x');
                        Expected::DeadLetter
                    }
                    _ if {
                        is_malformed = false;
                        *first.entry(number).or_insert(amount) != amount
                    } =>
                    {
                        Expected::DeadLetter
                    }
                    _ if orders.iter().any(|earlier: &Order| {
                        earlier.key == key && earlier.expected == Expected::Admitted
                    }) =>
                    {
                        Expected::Duplicate
                    }
                    _ => Expected::Admitted,
                };
                orders.push(Order {
                    offset: Offset(offset),
                    key,
                    value,
                    at: Timestamp(1),
                    amount,
                    is_malformed,
                    expected,
                });
                // Sometimes a transaction marker of the producer.
                offset += if random.random_ratio(1, 8) { 2 } else { 1 };
            }
            orders
        };
        let partitions: Vec<Vec<Order>> = (0..partitions).map(|_| draw_partition(random)).collect();
        let arrived = partitions
            .iter()
            .map(|orders| random.random_range(0..=orders.len()))
            .collect();
        Self { partitions, arrived }
    }

    /// Gives the orders times that are days apart, so that old keys are forgotten. Orders that are sent again have their
    /// old times; some orders are too old, or from the future.
    pub(crate) fn give_times(&mut self, random: &mut ChaCha8Rng) {
        for orders in &mut self.partitions {
            let (mut admitted, mut newest) = (BTreeMap::<String, (u32, i64, i64)>::new(), None::<i64>);
            for (number, order) in (0..).zip(orders) {
                let fresh = 100 * HOUR + number * 2 * HOUR + random.random_range(-HOUR..HOUR);
                let retention = i64::try_from(RETENTION.as_millis()).expect("some hours");
                let mut again = None;
                let (at, expected) = match (admitted.get(&order.key), newest) {
                    _ if order.is_malformed => (fresh, Expected::DeadLetter),
                    // Surely remembered, whatever its time.
                    (Some((amount, recorded, _)), Some(newest)) if *recorded >= newest - retention => {
                        let is_same = *amount == order.amount;
                        let expected = if is_same {
                            Expected::Duplicate
                        } else {
                            Expected::DeadLetter
                        };
                        // Recorded again, so that this record, too, is known for as long as it can come again.
                        again = Some((*amount, newest.max(fresh), fresh));
                        (fresh, expected)
                    }
                    (Some((amount, _, at)), _) if *amount == order.amount => {
                        (*at, Expected::DuplicateOrTooOld)
                    }
                    (Some((_, _, at)), _) => (*at, Expected::DeadLetter),
                    (None, Some(newest)) if random.random_ratio(1, 12) => {
                        (newest - retention - 2 * HOUR, Expected::DeadLetter)
                    }
                    (None, _) if random.random_ratio(1, 16) => (WALL.0 + 100 * HOUR, Expected::DeadLetter),
                    (None, _) => {
                        let recorded = newest.map_or(fresh, |newest| newest.max(fresh));
                        admitted.insert(order.key.clone(), (order.amount, recorded, fresh));
                        newest = Some(recorded);
                        (fresh, Expected::Admitted)
                    }
                };
                if let Some(seen) = again {
                    newest = newest.max(Some(seen.1));
                    admitted.insert(order.key.clone(), seen);
                }
                (order.at, order.expected) = (Timestamp(at), expected);
            }
        }
    }

    /// Returns all orders of a partition, also those that have not arrived.
    pub(crate) fn of(&self, partition: Partition) -> &[Order] {
        &self.partitions[index(partition)]
    }

    /// Returns the first order at or after an offset that has arrived.
    pub(crate) fn at(&self, partition: Partition, from: Offset) -> Option<&Order> {
        self.of(partition)[..self.arrived[index(partition)]]
            .iter()
            .find(|order| order.offset >= from)
    }

    /// Returns the end of the orders that have arrived.
    pub(crate) fn end(&self, partition: Partition) -> Offset {
        let arrived = &self.of(partition)[..self.arrived[index(partition)]];
        arrived.last().map_or(Offset(0), |last| last.offset.next())
    }

    /// Lets another order arrive.
    pub(crate) fn arrive(&mut self, random: &mut ChaCha8Rng) {
        let at = random.random_range(0..self.partitions.len());
        self.arrived[at] = (self.arrived[at] + 1).min(self.partitions[at].len());
    }

    /// Lets all orders arrive.
    pub(crate) fn arrive_all(&mut self) {
        self.arrived = self.partitions.iter().map(Vec::len).collect();
    }
}

/// Returns the index of a partition in a list of all.
pub(crate) fn index(partition: Partition) -> usize {
    usize::try_from(partition.0).expect("a partition's number")
}
