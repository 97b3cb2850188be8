//! The open transaction: what it holds so far, and when it is time to end it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use records::{Entry, IdempotencyKey, Offset, Partition};

/// When a transaction ends.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// This long after it began: it is how long an order may wait for its commit.
    pub commit_interval: Duration,
    /// With this many input records.
    pub orders_max: usize,
    /// With this many bytes of them, so that large orders do not fill the memory.
    pub bytes_max: usize,
}

/// What a transaction admitted on one partition. Looked up for each order, so with a faster hash than the
/// standard library's; like that one it is seeded, so that producers cannot choose keys that collide.
pub type Admitted = HashMap<IdempotencyKey, Entry>;

/// For each partition in a transaction, the input offset to commit.
pub type Offsets = Vec<(Partition, Offset)>;

/// What the open transaction holds. It is an overlay over the stores: nothing of it is written to them
/// before Kafka has committed it.
#[derive(Debug)]
pub struct Transaction {
    began: Instant,
    orders: usize,
    bytes: usize,
    parts: BTreeMap<Partition, Part>,
}

/// One partition's share.
#[derive(Debug)]
struct Part {
    next: Offset,
    admitted: Admitted,
}

impl Transaction {
    /// A transaction that begins now.
    #[must_use]
    pub fn begin(now: Instant) -> Self {
        Self {
            began: now,
            orders: 0,
            bytes: 0,
            parts: BTreeMap::new(),
        }
    }

    /// The entry of a key that this transaction admits.
    #[must_use]
    pub fn get(&self, partition: Partition, key: &IdempotencyKey) -> Option<Entry> {
        self.parts
            .get(&partition)
            .and_then(|part| part.admitted.get(key))
            .copied()
    }

    /// Takes an input record in, with what it admits.
    pub fn take(
        &mut self,
        partition: Partition,
        offset: Offset,
        bytes: usize,
        admitted: Option<(IdempotencyKey, Entry)>,
    ) {
        let part = self.parts.entry(partition).or_insert_with(|| Part {
            next: offset,
            admitted: Admitted::new(),
        });
        debug_assert!(
            part.next <= offset,
            "{partition}: {offset} came after {}",
            part.next
        );
        part.next = offset.next();
        part.admitted.extend(admitted);
        self.orders += 1;
        self.bytes += bytes;
    }

    /// When it is to be ended; the present or the past if it is full.
    #[must_use]
    pub fn due(&self, limits: &Limits) -> Instant {
        if self.orders >= limits.orders_max || self.bytes >= limits.bytes_max {
            self.began
        } else {
            self.began + limits.commit_interval
        }
    }

    /// How many input records it holds.
    #[must_use]
    pub fn orders(&self) -> usize {
        self.orders
    }

    /// The input offsets to commit with it.
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        self.parts
            .iter()
            .map(|(partition, part)| (*partition, part.next))
            .collect()
    }

    /// What it admitted, by partition, once it is committed.
    pub fn into_admitted(self) -> impl Iterator<Item = (Partition, Admitted)> {
        self.parts
            .into_iter()
            .map(|(partition, part)| (partition, part.admitted))
    }
}
