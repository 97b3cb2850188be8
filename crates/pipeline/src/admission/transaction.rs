//! The open transaction: records decided so far, and the time at which to end it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use records::{Entry, Forgotten, KeyHash, Offset, Partition};

/// Limits at which a transaction is ended; the first one reached counts.
#[derive(Clone, Copy, Debug)]
pub struct TransactionLimits {
    /// Maximum age of a transaction whose orders have left no further record to read, and so the longest time that an
    /// order waits for its commit while there is no backlog.
    pub commit_interval: Duration,
    /// Maximum age of a transaction during which there was always another record to read. Not less than
    /// `commit_interval`.
    // The end of a transaction costs the same however large it is. Under a backlog an order has waited for longer
    // than this already, so that the next ones gain more from speed than it loses.
    pub backlog_interval: Duration,
    /// Maximum number of input records.
    pub orders_max: usize,
    /// Maximum size of the input records, in bytes.
    pub bytes_max: usize,
}

/// Entries that a transaction admits on one partition, by the hashes by which the store knows their keys.
// Looked up for each order, so with hashbrown's hasher, which is faster than the standard library's SipHash.
// It is seeded at random, too: producers choose the keys, and must not be able to prepare collisions.
pub type Admitted = HashMap<KeyHash, Entry>;

/// Input offset to commit for a partition of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextOffset {
    /// Partition of the orders topic.
    pub partition: Partition,
    /// Offset of the next order.
    pub offset: Offset,
    /// Keys that the partition has forgotten, to be noted with the offset.
    pub forgotten: Option<Forgotten>,
}

/// Contents of the open transaction: an overlay over the stores.
#[derive(Debug)]
pub struct Transaction {
    began_at: Instant,
    /// There was no further record to read at some time since the beginning.
    has_caught_up: bool,
    orders: usize,
    bytes: usize,
    parts: BTreeMap<Partition, Part>,
}

/// Share of one partition.
#[derive(Debug)]
struct Part {
    next_offset: Offset,
    admitted: Admitted,
}

impl Transaction {
    /// Creates an empty transaction that begins at `now`.
    #[must_use]
    pub fn begin(now: Instant) -> Self {
        Self {
            began_at: now,
            has_caught_up: false,
            orders: 0,
            bytes: 0,
            parts: BTreeMap::new(),
        }
    }

    /// Returns the entry of a key that this transaction admits.
    #[must_use]
    pub fn get(&self, partition: Partition, key: KeyHash) -> Option<Entry> {
        self.parts
            .get(&partition)
            .and_then(|part| part.admitted.get(&key))
            .copied()
    }

    /// Adds an input record, with the entry that it admits.
    pub fn take(
        &mut self,
        partition: Partition,
        offset: Offset,
        bytes: usize,
        admitted: Option<(KeyHash, Entry)>,
    ) {
        let part = self.part(partition, offset);
        // Offsets may have gaps (transaction markers), but going back would commit an order twice.
        debug_assert!(
            part.next_offset <= offset,
            "{partition}: offset {offset} after {}",
            part.next_offset
        );
        // A refused record or a duplicate moves the offset, too: it is final with this transaction.
        part.next_offset = offset.next();
        part.admitted.extend(admitted);
        self.orders += 1;
        self.bytes += bytes;
    }

    /// Passes the offsets below `next`, which hold no record.
    pub fn pass(&mut self, partition: Partition, next: Offset) {
        let part = self.part(partition, next);
        part.next_offset = part.next_offset.max(next);
    }

    fn part(&mut self, partition: Partition, offset: Offset) -> &mut Part {
        self.parts.entry(partition).or_insert_with(|| Part {
            next_offset: offset,
            admitted: Admitted::new(),
        })
    }

    /// Notes that there is no further record to read.
    pub fn caught_up(&mut self) {
        self.has_caught_up = true;
    }

    /// Returns the time at which to end the transaction; not after the present if it is full.
    #[must_use]
    pub fn due(&self, limits: &TransactionLimits) -> Instant {
        if self.orders >= limits.orders_max || self.bytes >= limits.bytes_max {
            // No clock here: the start of the transaction is surely not in the future.
            self.began_at
        } else if self.has_caught_up {
            self.began_at + limits.commit_interval
        } else {
            self.began_at + limits.backlog_interval
        }
    }

    /// Returns the number of input records, duplicates and refused ones included.
    #[must_use]
    pub fn orders(&self) -> usize {
        self.orders
    }

    /// Returns the input offset to commit of each partition.
    pub fn offsets(&self) -> impl Iterator<Item = (Partition, Offset)> + '_ {
        self.parts
            .iter()
            .map(|(partition, part)| (*partition, part.next_offset))
    }

    /// Returns the admitted entries by partition, to be called once the transaction is committed.
    pub fn into_admitted(self) -> impl Iterator<Item = (Partition, Admitted)> {
        self.parts
            .into_iter()
            .map(|(partition, part)| (partition, part.admitted))
    }
}
