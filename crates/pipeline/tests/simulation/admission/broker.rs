//! A Kafka: logs with open transactions, one coordinator for each transactional id, and the group's offsets.
//!
//! It follows Apache Kafka 4 as librdkafka meets it (transactions of version 1): a transaction is decided when
//! its end is prepared, the answer goes out then, and each partition's marker is written later on its own. A
//! produce request that comes late is refused by the leader, which asks the coordinator whether the partition
//! is in an open transaction of that epoch. Sequence numbers are not checked; the real broker refuses more.

use std::collections::BTreeMap;

use records::{Entry, IdempotencyKey, Offset, Partition};

/// A topic that the validators write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    Outbox,
    Changelog,
    DeadLetters,
}

/// A partition of one of these topics.
pub(crate) type Place = (Topic, Partition);

/// A transactional id, by number; it stands for its producer id as well.
pub(crate) type Id = usize;

/// A record, as far as it matters: which order it tells of, and in the changelog the key and its entry.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) source: Offset,
    pub(crate) change: Option<(IdempotencyKey, Entry)>,
}

/// What lies at an offset.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    /// A record of a transaction whose marker is not written yet.
    Open(Id, Record),
    Committed(Record),
    Aborted(Record),
    Marker,
}

/// A partition's log.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) slots: Vec<Slot>,
    /// The latest epoch that was seen of each producer.
    epochs: BTreeMap<Id, u32>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A newer producer has the id, or the transaction is over.
    Fenced,
    /// The last transaction's markers are still being written: ask again.
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
    places: Vec<Place>,
    /// Whether the group's offsets are part of the transaction.
    offsets: bool,
}

/// Everything that the brokers keep.
pub(crate) struct Broker {
    pub(crate) logs: BTreeMap<Place, Log>,
    coordinators: Vec<Coordinator>,
    committed: BTreeMap<Partition, Offset>,
    pending: Vec<(Id, Partition, Offset)>,
    /// The offsets' own log, as far as it fences producers.
    offset_epochs: BTreeMap<Id, u32>,
    /// Whether leaders ask the coordinator about records of unknown transactions (KIP-890, first part).
    pub(crate) verifies: bool,
}

impl Log {
    pub(crate) fn high_watermark(&self) -> Offset {
        offset(self.slots.len())
    }

    pub(crate) fn last_stable(&self) -> Offset {
        let open = self.slots.iter().position(|slot| matches!(slot, Slot::Open(..)));
        offset(open.unwrap_or(self.slots.len()))
    }

    pub(crate) fn slot(&self, at: Offset) -> &Slot {
        &self.slots[usize::try_from(at.0).expect("an offset")]
    }

    /// The records of a producer's open transaction.
    pub(crate) fn open_of(&self, id: Id) -> impl Iterator<Item = &Record> {
        self.slots.iter().filter_map(move |slot| match slot {
            Slot::Open(of, record) if *of == id => Some(record),
            Slot::Open(..) | Slot::Committed(_) | Slot::Aborted(_) | Slot::Marker => None,
        })
    }

    /// What a read_committed reader sees of the whole log.
    pub(crate) fn committed(&self) -> impl Iterator<Item = &Record> {
        let stable = usize::try_from(self.last_stable().0).expect("an offset");
        self.slots[..stable].iter().filter_map(|slot| match slot {
            Slot::Committed(record) => Some(record),
            Slot::Open(..) | Slot::Aborted(_) | Slot::Marker => None,
        })
    }
}

impl Broker {
    pub(crate) fn new(partitions: impl Iterator<Item = Partition>) -> Self {
        let topics = [Topic::Outbox, Topic::Changelog, Topic::DeadLetters];
        let logs = partitions
            .flat_map(|partition| topics.map(|topic| ((topic, partition), Log::default())))
            .collect();
        Self {
            logs,
            coordinators: Vec::new(),
            committed: BTreeMap::new(),
            pending: Vec::new(),
            offset_epochs: BTreeMap::new(),
            verifies: true,
        }
    }

    pub(crate) fn log(&self, topic: Topic, partition: Partition) -> &Log {
        &self.logs[&(topic, partition)]
    }

    /// Opens a producer: aborts what an earlier one has left open, waits for its markers, and fences it.
    pub(crate) fn init(&mut self, id: Id) -> Result<u32, Refusal> {
        while self.coordinators.len() <= id {
            self.coordinators.push(Coordinator {
                epoch: 0,
                state: State::Empty { committed: false },
                places: Vec::new(),
                offsets: false,
            });
        }
        match self.coordinators[id].state {
            State::Ongoing { .. } => {
                self.abort_and_fence(id);
                Err(Refusal::Concurrent)
            }
            State::Prepared { .. } => Err(Refusal::Concurrent),
            State::Empty { .. } => {
                self.coordinators[id].epoch += 1;
                Ok(self.coordinators[id].epoch)
            }
        }
    }

    /// Aborts an open transaction from the coordinator's side, so that its producer can do nothing more.
    pub(crate) fn abort_and_fence(&mut self, id: Id) {
        self.coordinators[id].epoch += 1;
        self.prepare(id, false);
    }

    /// Ids whose transaction is open for longer than this many steps.
    pub(crate) fn open_longer_than(&self, steps: u64, now: u64) -> impl Iterator<Item = Id> {
        let is_old = move |state: State| matches!(state, State::Ongoing { since } if since + steps <= now);
        let all = self.coordinators.iter().enumerate();
        all.filter(move |(_, coordinator)| is_old(coordinator.state))
            .map(|(id, _)| id)
    }

    /// Takes a partition into the transaction, which it begins if need be.
    pub(crate) fn add(&mut self, id: Id, epoch: u32, place: Option<Place>, now: u64) -> Result<(), Refusal> {
        let coordinator = &mut self.coordinators[id];
        if coordinator.epoch != epoch {
            return Err(Refusal::Fenced);
        }
        match coordinator.state {
            State::Prepared { .. } => return Err(Refusal::Concurrent),
            State::Empty { .. } => coordinator.state = State::Ongoing { since: now },
            State::Ongoing { .. } => {}
        }
        match place {
            Some(place) if coordinator.places.contains(&place) => {}
            Some(place) => coordinator.places.push(place),
            None => coordinator.offsets = true,
        }
        Ok(())
    }

    /// Appends records; the offset behind the last of them.
    pub(crate) fn produce(
        &mut self,
        id: Id,
        epoch: u32,
        place: Place,
        records: Vec<Record>,
    ) -> Result<Offset, Refusal> {
        let is_in_transaction = self.is_ongoing(id, epoch) && self.coordinators[id].places.contains(&place);
        let log = self.logs.get_mut(&place).expect("a partition");
        let latest = log.epochs.entry(id).or_insert(epoch);
        if *latest > epoch || (self.verifies && !is_in_transaction) {
            return Err(Refusal::Fenced);
        }
        *latest = epoch;
        log.slots
            .extend(records.into_iter().map(|record| Slot::Open(id, record)));
        Ok(log.high_watermark())
    }

    /// Takes the group's offsets into the transaction. Whether the member may is the group's to say.
    pub(crate) fn add_offsets(
        &mut self,
        id: Id,
        epoch: u32,
        offsets: &[(Partition, Offset)],
    ) -> Result<(), Refusal> {
        let is_in_transaction = self.is_ongoing(id, epoch) && self.coordinators[id].offsets;
        let latest = self.offset_epochs.entry(id).or_insert(epoch);
        if *latest > epoch || (self.verifies && !is_in_transaction) {
            return Err(Refusal::Fenced);
        }
        *latest = epoch;
        for (partition, offset) in offsets {
            self.pending.retain(|(of, at, _)| (*of, *at) != (id, *partition));
            self.pending.push((id, *partition, *offset));
        }
        Ok(())
    }

    /// Decides an open transaction. `true` if it was this request that did.
    pub(crate) fn end(&mut self, id: Id, epoch: u32, commit: bool) -> Result<bool, Refusal> {
        let coordinator = &self.coordinators[id];
        match coordinator.state {
            _ if coordinator.epoch != epoch => Err(Refusal::Fenced),
            State::Ongoing { .. } => {
                self.prepare(id, commit);
                Ok(true)
            }
            State::Prepared { commit: decided } if decided == commit => Err(Refusal::Concurrent),
            State::Empty { committed } if committed == commit => Ok(false),
            State::Prepared { .. } | State::Empty { .. } => Err(Refusal::Fenced),
        }
    }

    /// Whether a request to commit would decide a transaction now.
    pub(crate) fn is_ongoing(&self, id: Id, epoch: u32) -> bool {
        let coordinator = &self.coordinators[id];
        coordinator.epoch == epoch && matches!(coordinator.state, State::Ongoing { .. })
    }

    fn prepare(&mut self, id: Id, commit: bool) {
        let coordinator = &mut self.coordinators[id];
        coordinator.state = State::Prepared { commit };
        self.complete(id);
    }

    fn complete(&mut self, id: Id) {
        let coordinator = &mut self.coordinators[id];
        if let State::Prepared { commit } = coordinator.state
            && coordinator.places.is_empty()
            && !coordinator.offsets
        {
            coordinator.state = State::Empty { committed: commit };
        }
    }

    /// How many markers of decided transactions are still to be written.
    pub(crate) fn markers(&self) -> usize {
        let markers = |coordinator: &Coordinator| match coordinator.state {
            State::Prepared { .. } => coordinator.places.len() + usize::from(coordinator.offsets),
            State::Empty { .. } | State::Ongoing { .. } => 0,
        };
        self.coordinators.iter().map(markers).sum()
    }

    /// Writes one of them.
    pub(crate) fn write_marker(&mut self, mut number: usize) -> Option<(Id, Option<Place>)> {
        for id in 0..self.coordinators.len() {
            let coordinator = &mut self.coordinators[id];
            let State::Prepared { commit } = coordinator.state else {
                continue;
            };
            if number < coordinator.places.len() {
                let place = coordinator.places.swap_remove(number);
                let epoch = coordinator.epoch;
                self.mark(id, epoch, place, commit);
                self.complete(id);
                return Some((id, Some(place)));
            }
            number -= coordinator.places.len();
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

    fn mark(&mut self, id: Id, epoch: u32, place: Place, commit: bool) {
        let log = self.logs.get_mut(&place).expect("a partition");
        for slot in &mut log.slots {
            if let Slot::Open(of, record) = slot
                && *of == id
            {
                let record = record.clone();
                *slot = if commit {
                    Slot::Committed(record)
                } else {
                    Slot::Aborted(record)
                };
            }
        }
        log.slots.push(Slot::Marker);
        log.epochs.insert(id, epoch);
    }

    fn mark_offsets(&mut self, id: Id, commit: bool) {
        for (of, partition, offset) in &self.pending {
            if *of == id && commit {
                self.committed.insert(*partition, *offset);
            }
        }
        self.pending.retain(|(of, _, _)| *of != id);
    }

    /// The offsets that a producer's open transaction would commit.
    pub(crate) fn pending_of(&self, id: Id) -> impl Iterator<Item = (Partition, Offset)> {
        let of_id = self.pending.iter().filter(move |(of, _, _)| *of == id);
        of_id.map(|(_, partition, offset)| (*partition, *offset))
    }

    /// The group's committed offset, whether or not a transaction is pending on it.
    pub(crate) fn committed(&self, partition: Partition) -> Option<Offset> {
        self.committed.get(&partition).copied()
    }

    pub(crate) fn is_stable(&self, partition: Partition) -> bool {
        !self.pending.iter().any(|(_, at, _)| *at == partition)
    }

    /// Whether every transaction is over and every marker written.
    pub(crate) fn is_at_rest(&self) -> bool {
        let is_empty = |coordinator: &Coordinator| matches!(coordinator.state, State::Empty { .. });
        self.coordinators.iter().all(is_empty)
            && self.pending.is_empty()
            && self
                .logs
                .values()
                .all(|log| log.last_stable() == log.high_watermark())
    }
}

fn offset(index: usize) -> Offset {
    Offset(i64::try_from(index).expect("a short log"))
}
