//! Simulated Kafka brokers: logs with open transactions, transaction coordinators, and the group's offsets.
//!
//! They follow Apache Kafka 4 as librdkafka uses it (transactions of version 1). The coordinator decides a
//! transaction in state Prepare and responds then; the marker of each partition is written later, one by one. A
//! late produce request is refused by the partition leader, which asks the coordinator whether the partition is
//! in an open transaction of that epoch. Sequence numbers are not checked, so the real broker refuses more.

use std::collections::BTreeMap;

use pipeline::admission::NextOffset;
use records::{Entry, Forgotten, IdempotencyKey, KeyHash, Offset, Partition, Timestamp};

/// Topic that the validators write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    Outbox,
    Changelog,
    DeadLetters,
}

/// Partition of one of these topics.
pub(crate) type TopicPartition = (Topic, Partition);

/// Transactional id, as a number. It is the producer id, too.
pub(crate) type TransactionalId = usize;

/// Record: the offset of its order and, on the changelog, the key and its entry.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) source: Offset,
    pub(crate) change: Option<(IdempotencyKey, Entry)>,
    /// Timestamp of a changelog record.
    pub(crate) recorded: Option<Timestamp>,
    /// A changelog record of a key that was recorded before.
    pub(crate) is_again: bool,
}

impl Record {
    /// Returns a record without a change.
    pub(crate) fn of(source: Offset) -> Self {
        Self {
            source,
            change: None,
            recorded: None,
            is_again: false,
        }
    }
}

impl Record {
    /// The change as a store has it.
    pub(crate) fn hashed_change(&self) -> Option<(KeyHash, Entry)> {
        let (key, entry) = self.change.as_ref()?;
        Some((KeyHash::from(key), *entry))
    }
}

/// Content of an offset.
#[derive(Clone, Debug)]
pub(crate) enum LogEntry {
    /// Record of a transaction whose marker is not written yet.
    Open(TransactionalId, Record),
    Committed(Record),
    Aborted(Record),
    Marker,
}

/// Log of a partition.
pub(crate) struct Log {
    pub(crate) entries: Vec<LogEntry>,
    /// Offset below which records are deleted. They are kept here for the checker.
    pub(crate) start: Offset,
    /// Latest epoch of each producer.
    epochs: BTreeMap<TransactionalId, u32>,
}

/// Error of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokerError {
    /// A newer producer has the id, or the transaction is over.
    Fenced,
    /// CONCURRENT_TRANSACTIONS: markers of the last transaction are missing; retriable.
    Concurrent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Empty { committed: bool },
    Ongoing { since: u64 },
    Prepared { commit: bool },
}

struct Coordinator {
    epoch: u32,
    state: State,
    partitions: Vec<TopicPartition>,
    /// `true` if the group's offsets are part of the transaction.
    offsets: bool,
}

/// State of all brokers.
pub(crate) struct Broker {
    pub(crate) logs: BTreeMap<TopicPartition, Log>,
    coordinators: Vec<Coordinator>,
    committed: BTreeMap<Partition, NextOffset>,
    pending: Vec<(TransactionalId, NextOffset)>,
    /// Latest epoch of each producer in the offsets log, for fencing.
    offset_epochs: BTreeMap<TransactionalId, u32>,
    /// Verification of transactions by the leaders (KIP-890, part 1).
    pub(crate) verifies_transactions: bool,
}

impl Log {
    pub(crate) fn high_watermark(&self) -> Offset {
        offset(self.entries.len())
    }

    pub(crate) fn last_stable_offset(&self) -> Offset {
        let open = self
            .entries
            .iter()
            .position(|entry| matches!(entry, LogEntry::Open(..)));
        offset(open.unwrap_or(self.entries.len()))
    }

    pub(crate) fn entry_at(&self, at: Offset) -> &LogEntry {
        &self.entries[usize::try_from(at.0).expect("an offset")]
    }

    /// Returns the records of a producer's open transaction.
    pub(crate) fn open_of(&self, id: TransactionalId) -> impl Iterator<Item = &Record> {
        self.entries.iter().filter_map(move |entry| match entry {
            LogEntry::Open(of, record) if *of == id => Some(record),
            LogEntry::Open(..) | LogEntry::Committed(_) | LogEntry::Aborted(_) | LogEntry::Marker => None,
        })
    }

    /// Returns the records that a read_committed consumer sees.
    pub(crate) fn committed(&self) -> impl Iterator<Item = &Record> {
        let stable = usize::try_from(self.last_stable_offset().0).expect("an offset");
        self.entries[..stable].iter().filter_map(|entry| match entry {
            LogEntry::Committed(record) => Some(record),
            LogEntry::Open(..) | LogEntry::Aborted(_) | LogEntry::Marker => None,
        })
    }
}

impl Broker {
    pub(crate) fn new(partitions: impl Iterator<Item = Partition>) -> Self {
        let topics = [Topic::Outbox, Topic::Changelog, Topic::DeadLetters];
        let empty = || Log {
            entries: Vec::new(),
            start: Offset(0),
            epochs: BTreeMap::new(),
        };
        let logs = partitions
            .flat_map(|partition| topics.map(|topic| ((topic, partition), empty())))
            .collect();
        Self {
            logs,
            coordinators: Vec::new(),
            committed: BTreeMap::new(),
            pending: Vec::new(),
            offset_epochs: BTreeMap::new(),
            verifies_transactions: true,
        }
    }

    pub(crate) fn log(&self, topic: Topic, partition: Partition) -> &Log {
        &self.logs[&(topic, partition)]
    }

    /// Handles InitProducerId: aborts an open transaction, waits for its markers, and raises the epoch.
    pub(crate) fn init(&mut self, id: TransactionalId) -> Result<u32, BrokerError> {
        while self.coordinators.len() <= id {
            self.coordinators.push(Coordinator {
                epoch: 0,
                state: State::Empty { committed: false },
                partitions: Vec::new(),
                offsets: false,
            });
        }
        match self.coordinators[id].state {
            State::Ongoing { .. } => {
                self.abort_and_fence(id);
                Err(BrokerError::Concurrent)
            }
            State::Prepared { .. } => Err(BrokerError::Concurrent),
            State::Empty { .. } => {
                self.coordinators[id].epoch += 1;
                Ok(self.coordinators[id].epoch)
            }
        }
    }

    /// Aborts an open transaction as its coordinator, and fences its producer.
    pub(crate) fn abort_and_fence(&mut self, id: TransactionalId) {
        self.coordinators[id].epoch += 1;
        self.prepare(id, false);
    }

    /// Returns the ids whose transaction is open for longer than `steps`.
    pub(crate) fn open_longer_than(&self, steps: u64, now: u64) -> impl Iterator<Item = TransactionalId> {
        let is_old = move |state: State| matches!(state, State::Ongoing { since } if since + steps <= now);
        let all = self.coordinators.iter().enumerate();
        all.filter(move |(_, coordinator)| is_old(coordinator.state))
            .map(|(id, _)| id)
    }

    /// Adds a partition, or the offsets, to the transaction, and begins one if there is none.
    pub(crate) fn add(
        &mut self,
        id: TransactionalId,
        epoch: u32,
        partition: Option<TopicPartition>,
        now: u64,
    ) -> Result<(), BrokerError> {
        let coordinator = &mut self.coordinators[id];
        if coordinator.epoch != epoch {
            return Err(BrokerError::Fenced);
        }
        match coordinator.state {
            State::Prepared { .. } => return Err(BrokerError::Concurrent),
            State::Empty { .. } => coordinator.state = State::Ongoing { since: now },
            State::Ongoing { .. } => {}
        }
        match partition {
            Some(partition) if coordinator.partitions.contains(&partition) => {}
            Some(partition) => coordinator.partitions.push(partition),
            None => coordinator.offsets = true,
        }
        Ok(())
    }

    /// Appends records, and returns the offset after the last of them.
    pub(crate) fn produce(
        &mut self,
        id: TransactionalId,
        epoch: u32,
        partition: TopicPartition,
        records: Vec<Record>,
    ) -> Result<Offset, BrokerError> {
        let is_in_transaction =
            self.is_ongoing(id, epoch) && self.coordinators[id].partitions.contains(&partition);
        let log = self.logs.get_mut(&partition).expect("a partition");
        let latest = log.epochs.entry(id).or_insert(epoch);
        if *latest > epoch || (self.verifies_transactions && !is_in_transaction) {
            return Err(BrokerError::Fenced);
        }
        *latest = epoch;
        log.entries
            .extend(records.into_iter().map(|record| LogEntry::Open(id, record)));
        Ok(log.high_watermark())
    }

    /// Adds the group's offsets to the transaction. The group has checked the membership before.
    pub(crate) fn add_offsets(
        &mut self,
        id: TransactionalId,
        epoch: u32,
        offsets: &[NextOffset],
    ) -> Result<(), BrokerError> {
        let is_in_transaction = self.is_ongoing(id, epoch) && self.coordinators[id].offsets;
        let latest = self.offset_epochs.entry(id).or_insert(epoch);
        if *latest > epoch || (self.verifies_transactions && !is_in_transaction) {
            return Err(BrokerError::Fenced);
        }
        *latest = epoch;
        for next in offsets {
            self.pending
                .retain(|(of, at)| (*of, at.partition) != (id, next.partition));
            self.pending.push((id, *next));
        }
        Ok(())
    }

    /// Handles EndTxn. Returns `true` if this request decided the transaction, `false` if it repeats one.
    pub(crate) fn end(&mut self, id: TransactionalId, epoch: u32, commit: bool) -> Result<bool, BrokerError> {
        let coordinator = &self.coordinators[id];
        match coordinator.state {
            _ if coordinator.epoch != epoch => Err(BrokerError::Fenced),
            State::Ongoing { .. } => {
                self.prepare(id, commit);
                Ok(true)
            }
            State::Prepared { commit: decided } if decided == commit => Err(BrokerError::Concurrent),
            State::Empty { committed } if committed == commit => Ok(false),
            State::Prepared { .. } | State::Empty { .. } => Err(BrokerError::Fenced),
        }
    }

    /// Returns `true` if a request to commit would decide a transaction.
    pub(crate) fn is_ongoing(&self, id: TransactionalId, epoch: u32) -> bool {
        let coordinator = &self.coordinators[id];
        coordinator.epoch == epoch && matches!(coordinator.state, State::Ongoing { .. })
    }

    fn prepare(&mut self, id: TransactionalId, commit: bool) {
        let coordinator = &mut self.coordinators[id];
        coordinator.state = State::Prepared { commit };
        self.complete(id);
    }

    fn complete(&mut self, id: TransactionalId) {
        let coordinator = &mut self.coordinators[id];
        if let State::Prepared { commit } = coordinator.state
            && coordinator.partitions.is_empty()
            && !coordinator.offsets
        {
            coordinator.state = State::Empty { committed: commit };
        }
    }

    /// Returns the number of missing markers.
    pub(crate) fn markers(&self) -> usize {
        let markers = |coordinator: &Coordinator| match coordinator.state {
            State::Prepared { .. } => coordinator.partitions.len() + usize::from(coordinator.offsets),
            State::Empty { .. } | State::Ongoing { .. } => 0,
        };
        self.coordinators.iter().map(markers).sum()
    }

    /// Writes the missing marker of this number.
    pub(crate) fn write_marker(
        &mut self,
        mut number: usize,
    ) -> Option<(TransactionalId, Option<TopicPartition>)> {
        for id in 0..self.coordinators.len() {
            let coordinator = &mut self.coordinators[id];
            let State::Prepared { commit } = coordinator.state else {
                continue;
            };
            if number < coordinator.partitions.len() {
                let partition = coordinator.partitions.swap_remove(number);
                let epoch = coordinator.epoch;
                self.mark(id, epoch, partition, commit);
                self.complete(id);
                return Some((id, Some(partition)));
            }
            number -= coordinator.partitions.len();
            if coordinator.offsets {
                if number == 0 {
                    coordinator.offsets = false;
                    self.offset_epochs.insert(id, coordinator.epoch);
                    self.mark_offsets(id, commit);
                    self.complete(id);
                    return Some((id, None));
                }
                number -= 1;
            }
        }
        None
    }

    fn mark(&mut self, id: TransactionalId, epoch: u32, partition: TopicPartition, commit: bool) {
        let log = self.logs.get_mut(&partition).expect("a partition");
        for entry in &mut log.entries {
            if let LogEntry::Open(of, record) = entry
                && *of == id
            {
                let record = record.clone();
                *entry = if commit {
                    LogEntry::Committed(record)
                } else {
                    LogEntry::Aborted(record)
                };
            }
        }
        log.entries.push(LogEntry::Marker);
        log.epochs.insert(id, epoch);
    }

    fn mark_offsets(&mut self, id: TransactionalId, commit: bool) {
        for (of, next) in &self.pending {
            if *of == id && commit {
                self.committed.insert(next.partition, *next);
            }
        }
        self.pending.retain(|(of, _)| *of != id);
    }

    /// Returns the offsets of a producer's open transaction.
    pub(crate) fn pending_of(&self, id: TransactionalId) -> impl Iterator<Item = (Partition, Offset)> {
        let of_id = self.pending.iter().filter(move |(of, _)| *of == id);
        of_id.map(|(_, next)| (next.partition, next.offset))
    }

    /// Returns the group's committed offset, also while a transaction is pending on it.
    pub(crate) fn committed(&self, partition: Partition) -> Option<Offset> {
        self.committed.get(&partition).map(|next| next.offset)
    }

    /// Returns what the note of the committed offset has as forgotten.
    pub(crate) fn forgotten(&self, partition: Partition) -> Option<Forgotten> {
        self.committed.get(&partition)?.forgotten
    }

    /// Handles DeleteRecords on the changelog.
    pub(crate) fn delete_records(&mut self, partition: Partition, below: Offset) {
        let log = self
            .logs
            .get_mut(&(Topic::Changelog, partition))
            .expect("a partition");
        log.start = log.start.max(below);
    }

    pub(crate) fn is_stable(&self, partition: Partition) -> bool {
        !self.pending.iter().any(|(_, at)| at.partition == partition)
    }

    /// Returns `true` if no transaction is open and no marker is missing.
    pub(crate) fn is_idle(&self) -> bool {
        let is_empty = |coordinator: &Coordinator| matches!(coordinator.state, State::Empty { .. });
        self.coordinators.iter().all(is_empty)
            && self.pending.is_empty()
            && self
                .logs
                .values()
                .all(|log| log.last_stable_offset() == log.high_watermark())
    }
}

fn offset(index: usize) -> Offset {
    Offset(i64::try_from(index).expect("a short log"))
}
