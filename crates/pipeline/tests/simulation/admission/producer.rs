//! A transactional producer as the program holds it, and the requests it has on the wire.

use std::collections::HashMap;

use records::{Offset, Partition};

use crate::admission::broker::{Id, Place, Record, Refusal, Topic};
use crate::admission::group::{Meta, Outsider};
use crate::admission::mutations::Mutation;
use crate::admission::world::Env;

/// Tells producers apart: each one that was ever opened has its own.
pub(crate) type ProducerId = u64;

/// A request that is on its way to a broker. It arrives sooner or later, also after its sender is gone.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) from: ProducerId,
    pub(crate) id: Id,
    pub(crate) epoch: u32,
    pub(crate) request: Request,
}

#[derive(Debug)]
pub(crate) enum Request {
    Produce(Place, Vec<Record>),
    Offsets(Vec<(Partition, Offset)>, Meta),
    End { commit: bool },
}

/// What comes back, if it does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    Produced(Place, Result<Offset, Refusal>),
    Offsets(Result<(), NotTaken>),
    Ended(Result<(), Refusal>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    Group(Outsider),
    Transaction,
}

pub(crate) struct Producer {
    pub(crate) from: ProducerId,
    pub(crate) id: Id,
    epoch: u32,
    /// Records that are not sent yet.
    waiting: Vec<(Place, Vec<Record>)>,
    /// Produce requests without an answer.
    in_flight: usize,
    is_open: bool,
    pub(crate) has_failed: bool,
    /// For each partition, the changelog offset behind the last record of the transaction.
    pub(crate) reached: HashMap<Partition, Offset>,
}

impl Producer {
    pub(crate) fn new(from: ProducerId, id: Id, epoch: u32) -> Self {
        Self {
            from,
            id,
            epoch,
            waiting: Vec::new(),
            in_flight: 0,
            is_open: false,
            has_failed: false,
            reached: HashMap::new(),
        }
    }

    pub(crate) fn begin(&mut self) {
        self.reached.clear();
        self.in_flight = 0;
        self.is_open = true;
    }

    pub(crate) fn send(&mut self, place: Place, record: Record) {
        match self.waiting.iter_mut().find(|(at, _)| *at == place) {
            Some((_, records)) => records.push(record),
            None => self.waiting.push((place, vec![record])),
        }
    }

    /// What librdkafka's threads do meanwhile: take in answers, and send what waits.
    pub(crate) fn pump(&mut self, env: &mut Env) {
        while let Some(reply) = env.reply(self.from, |reply| matches!(reply, Reply::Produced(..))) {
            let Reply::Produced(place, produced) = reply else {
                continue;
            };
            self.in_flight = self.in_flight.saturating_sub(1);
            match produced {
                Ok(behind) if place.0 == Topic::Changelog => {
                    self.reached.insert(place.1, behind);
                }
                Ok(_) => {}
                Err(_) => self.has_failed = true,
            }
        }
        while !self.has_failed && !self.waiting.is_empty() {
            let place = self.waiting[0].0;
            match env.broker.add(self.id, self.epoch, Some(place), env.steps) {
                Ok(()) => {
                    let (place, records) = self.waiting.remove(0);
                    self.in_flight += 1;
                    self.request(Request::Produce(place, records), env);
                }
                Err(Refusal::Concurrent) => break,
                Err(Refusal::Fenced) => self.has_failed = true,
            }
        }
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.waiting.is_empty() && self.in_flight == 0
    }

    /// Takes the group's offsets into the transaction; their request is on its way then.
    pub(crate) fn add_offsets(
        &self,
        offsets: &[(Partition, Offset)],
        meta: Meta,
        env: &mut Env,
    ) -> Result<(), Refusal> {
        env.broker.add(self.id, self.epoch, None, env.steps)?;
        self.request(Request::Offsets(offsets.to_vec(), meta), env);
        Ok(())
    }

    pub(crate) fn end(&self, commit: bool, env: &mut Env) {
        self.request(Request::End { commit }, env);
    }

    /// Begun anew after an abort, as a client does that keeps its producer.
    pub(crate) fn aborted(&mut self, env: &mut Env) {
        // Whatever the answer is, this client takes it for done.
        let _ = env.broker.end(self.id, self.epoch, false);
        self.waiting.clear();
        self.has_failed = false;
        self.is_open = false;
        env.forget(self.from);
    }

    /// Dropped: it may still try to abort what is open.
    pub(crate) fn abandon(self, env: &mut Env) {
        if self.is_open && env.chance(1, 2) {
            self.end(false, env);
        }
        env.forget(self.from);
        env.producers.remove(&self.from);
    }

    fn request(&self, request: Request, env: &mut Env) {
        let Self { from, id, epoch, .. } = *self;
        env.network.push(Message {
            from,
            id,
            epoch,
            request,
        });
    }
}

/// A transaction that is being ended: records acknowledged, then offsets, then the end itself.
pub(crate) struct Ending {
    pub(crate) offsets: Vec<(Partition, Offset)>,
    meta: Meta,
    stage: PartitionState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PartitionState {
    Flush,
    Offsets,
    BeforeEnd,
    /// A request to end was sent again after a disconnect; the first one may still arrive.
    End {
        resent: bool,
    },
}

/// How it ended.
pub(crate) enum Ended {
    Committed,
    /// Committed, by one of two requests, of which the other one may still arrive.
    CommittedRetireProducer,
    Aborted,
    Unknown,
    /// Another process has the membership.
    Replaced,
}

impl Ending {
    pub(crate) fn new(offsets: Vec<(Partition, Offset)>, meta: Meta) -> Self {
        Self {
            offsets,
            meta,
            stage: PartitionState::Flush,
        }
    }

    /// Goes on as far as the answers allow. `None` while one is missing.
    pub(crate) fn go_on(&mut self, process: u32, producer: &mut Producer, env: &mut Env) -> Option<Ended> {
        producer.pump(env);
        let gives_up = env.gives_up();
        match self.stage {
            _ if producer.has_failed && self.stage != (PartitionState::End { resent: false }) => {
                return Some(Ended::Aborted);
            }
            PartitionState::Flush => {
                let is_pipelined = matches!(
                    env.mutation,
                    Some(Mutation::NoRequireStablePipelined | Mutation::HighWatermarkFirst)
                );
                let is_due = producer.is_flushed() || (is_pipelined && producer.is_sent());
                if is_due {
                    if env.is(Mutation::MetadataAtSendTime) {
                        self.meta = env.group.meta_now(process).unwrap_or(self.meta);
                    }
                    if env.is(Mutation::NoGroupMetadata) {
                        self.meta.member = crate::admission::group::NO_MEMBER;
                    }
                    match producer.add_offsets(&self.offsets, self.meta, env) {
                        Ok(()) => self.stage = PartitionState::Offsets,
                        Err(Refusal::Concurrent) => {}
                        Err(Refusal::Fenced) => return Some(Ended::Aborted),
                    }
                } else if gives_up {
                    return Some(Ended::Aborted);
                }
            }
            PartitionState::Offsets => {
                match env.reply(producer.from, |reply| matches!(reply, Reply::Offsets(_))) {
                    Some(Reply::Offsets(Ok(()))) => self.stage = PartitionState::BeforeEnd,
                    Some(Reply::Offsets(Err(NotTaken::Group(Outsider::Replaced)))) => {
                        return Some(Ended::Replaced);
                    }
                    Some(_) => return Some(Ended::Aborted),
                    None if gives_up => return Some(Ended::Aborted),
                    None => {}
                }
            }
            PartitionState::BeforeEnd => {
                if producer.is_flushed() {
                    producer.end(true, env);
                    self.stage = PartitionState::End { resent: false };
                }
            }
            PartitionState::End { resent } => {
                match env.reply(producer.from, |reply| matches!(reply, Reply::Ended(_))) {
                    Some(Reply::Ended(Ok(()))) if resent && !env.is(Mutation::ResentEndTrusted) => {
                        return Some(Ended::CommittedRetireProducer);
                    }
                    Some(Reply::Ended(Ok(()))) => {
                        producer.is_open = false;
                        return Some(Ended::Committed);
                    }
                    Some(Reply::Ended(Err(Refusal::Concurrent))) => producer.end(true, env),
                    Some(_) => return Some(Ended::Unknown),
                    None if gives_up => return Some(Ended::Unknown),
                    None if env.faults && env.chance(1, 20) => {
                        producer.end(true, env);
                        self.stage = PartitionState::End { resent: true };
                    }
                    None => {}
                }
            }
        }
        None
    }
}
