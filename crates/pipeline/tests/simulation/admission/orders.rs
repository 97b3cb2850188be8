//! Input: the records of the orders topic, and the result that one correct process has for each.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use records::{Offset, Partition};

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
    pub(crate) expected: Expected,
}

/// Expected result, computed without the code of the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Admitted,
    Duplicate,
    DeadLetter,
}

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
                    _ if *first.entry(number).or_insert(amount) != amount => Expected::DeadLetter,
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
