//! Transactional producer of a process, and its requests on the network.

use std::collections::HashMap;

use pipeline::admission::NextOffset;
use records::{Offset, Partition};

use crate::admission::broker::{BrokerError, Record, Topic, TopicPartition, TransactionalId};
use crate::admission::group::{GroupMetadata, MembershipError};
use crate::admission::mutations::Mutation;
use crate::admission::simulation::Env;

/// Identifies a producer. Each opened producer has its own.
pub(crate) type ProducerId = u64;

/// Request on the network. It arrives at any later time, also after its sender is gone.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) from: ProducerId,
    pub(crate) id: TransactionalId,
    pub(crate) epoch: u32,
    pub(crate) request: Request,
}

#[derive(Debug)]
pub(crate) enum Request {
    Produce(TopicPartition, Vec<Record>),
    Offsets(Vec<NextOffset>, GroupMetadata),
    End { commit: bool },
}

/// Response to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Response {
    Produced(TopicPartition, Result<Offset, BrokerError>),
    Offsets(Result<(), OffsetsError>),
    EndTxn(Result<(), BrokerError>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OffsetsError {
    Group(MembershipError),
    Transaction,
}

pub(crate) struct Producer {
    pub(crate) from: ProducerId,
    pub(crate) id: TransactionalId,
    epoch: u32,
    /// Records that are not sent yet.
    waiting: Vec<(TopicPartition, Vec<Record>)>,
    /// Number of produce requests without a response.
    in_flight: usize,
    is_open: bool,
    pub(crate) has_failed: bool,
    /// Changelog offset after the last record of the transaction, for each partition.
    pub(crate) reached: HashMap<Partition, Offset>,
}

impl Producer {
    pub(crate) fn new(from: ProducerId, id: TransactionalId, epoch: u32) -> Self {
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

    pub(crate) fn send(&mut self, partition: TopicPartition, record: Record) {
        match self.waiting.iter_mut().find(|(at, _)| *at == partition) {
            Some((_, records)) => records.push(record),
            None => self.waiting.push((partition, vec![record])),
        }
    }

    /// Does the work of librdkafka's threads: takes responses and sends queued records.
    pub(crate) fn pump(&mut self, env: &mut Env) {
        while let Some(response) =
            env.response(self.from, |response| matches!(response, Response::Produced(..)))
        {
            let Response::Produced(partition, produced) = response else {
                continue;
            };
            self.in_flight = self.in_flight.saturating_sub(1);
            match produced {
                Ok(end_offset) if partition.0 == Topic::Changelog => {
                    self.reached.insert(partition.1, end_offset);
                }
                Ok(_) => {}
                Err(_) => self.has_failed = true,
            }
        }
        while !self.has_failed && !self.waiting.is_empty() {
            let partition = self.waiting[0].0;
            match env.broker.add(self.id, self.epoch, Some(partition), env.steps) {
                Ok(()) => {
                    let (partition, records) = self.waiting.remove(0);
                    self.in_flight += 1;
                    self.request(Request::Produce(partition, records), env);
                }
                Err(BrokerError::Concurrent) => break,
                Err(BrokerError::Fenced) => self.has_failed = true,
            }
        }
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.waiting.is_empty() && self.in_flight == 0
    }

    /// Adds the group's offsets to the transaction, and sends them.
    pub(crate) fn add_offsets(
        &self,
        offsets: &[NextOffset],
        meta: GroupMetadata,
        env: &mut Env,
    ) -> Result<(), BrokerError> {
        env.broker.add(self.id, self.epoch, None, env.steps)?;
        self.request(Request::Offsets(offsets.to_vec(), meta), env);
        Ok(())
    }

    pub(crate) fn end(&self, commit: bool, env: &mut Env) {
        self.request(Request::End { commit }, env);
    }

    /// Aborts and starts again with the same producer, as a client does that reuses it.
    pub(crate) fn aborted(&mut self, env: &mut Env) {
        // This client treats every response as success.
        let _ = env.broker.end(self.id, self.epoch, false);
        self.waiting.clear();
        self.has_failed = false;
        self.is_open = false;
        env.forget(self.from);
    }

    /// Drops the producer, which may still try to abort the open transaction.
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

/// Commit of a transaction: records acknowledged, then the offsets, then EndTxn.
pub(crate) struct TransactionCommit {
    pub(crate) offsets: Vec<NextOffset>,
    meta: GroupMetadata,
    step: CommitStep,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CommitStep {
    Flush,
    Offsets,
    BeforeEnd,
    /// With `resent`, EndTxn was sent again after a disconnect, and the first request may still arrive.
    End {
        resent: bool,
    },
}

/// Outcome of a commit.
pub(crate) enum CommitOutcome {
    Committed,
    /// Committed by one of two requests; the other one may still arrive.
    CommittedRetireProducer,
    Aborted,
    Unknown,
    /// Another process has the membership.
    Fenced,
}

impl TransactionCommit {
    pub(crate) fn new(offsets: Vec<NextOffset>, meta: GroupMetadata) -> Self {
        Self {
            offsets,
            meta,
            step: CommitStep::Flush,
        }
    }

    /// Advances as far as the responses allow. Returns `None` while one is missing.
    pub(crate) fn advance(
        &mut self,
        process: u32,
        producer: &mut Producer,
        env: &mut Env,
    ) -> Option<CommitOutcome> {
        producer.pump(env);
        let times_out = env.times_out();
        match self.step {
            _ if producer.has_failed && self.step != (CommitStep::End { resent: false }) => {
                return Some(CommitOutcome::Aborted);
            }
            CommitStep::Flush => {
                let is_pipelined = matches!(
                    env.mutation,
                    Some(Mutation::NoRequireStablePipelined | Mutation::HighWatermarkFirst)
                );
                let is_due = producer.is_flushed() || (is_pipelined && producer.is_sent());
                if is_due {
                    if env.is(Mutation::MetadataAtSendTime) {
                        self.meta = env.group.current_metadata(process).unwrap_or(self.meta);
                    }
                    if env.is(Mutation::NoGroupMetadata) {
                        self.meta.member = crate::admission::group::NO_MEMBER;
                    }
                    match producer.add_offsets(&self.offsets, self.meta, env) {
                        Ok(()) => self.step = CommitStep::Offsets,
                        Err(BrokerError::Concurrent) => {}
                        Err(BrokerError::Fenced) => return Some(CommitOutcome::Aborted),
                    }
                } else if times_out {
                    return Some(CommitOutcome::Aborted);
                }
            }
            CommitStep::Offsets => {
                match env.response(producer.from, |response| matches!(response, Response::Offsets(_))) {
                    Some(Response::Offsets(Ok(()))) => self.step = CommitStep::BeforeEnd,
                    Some(Response::Offsets(Err(OffsetsError::Group(MembershipError::Fenced)))) => {
                        return Some(CommitOutcome::Fenced);
                    }
                    Some(_) => return Some(CommitOutcome::Aborted),
                    None if times_out => return Some(CommitOutcome::Aborted),
                    None => {}
                }
            }
            CommitStep::BeforeEnd => {
                if producer.is_flushed() {
                    producer.end(true, env);
                    self.step = CommitStep::End { resent: false };
                }
            }
            CommitStep::End { resent } => {
                match env.response(producer.from, |response| matches!(response, Response::EndTxn(_))) {
                    Some(Response::EndTxn(Ok(()))) if resent && !env.is(Mutation::ResentEndTxnTrusted) => {
                        return Some(CommitOutcome::CommittedRetireProducer);
                    }
                    Some(Response::EndTxn(Ok(()))) => {
                        producer.is_open = false;
                        return Some(CommitOutcome::Committed);
                    }
                    Some(Response::EndTxn(Err(BrokerError::Concurrent))) => producer.end(true, env),
                    Some(_) => return Some(CommitOutcome::Unknown),
                    None if times_out => return Some(CommitOutcome::Unknown),
                    None if env.faults && env.chance(1, 20) => {
                        producer.end(true, env);
                        self.step = CommitStep::End { resent: true };
                    }
                    None => {}
                }
            }
        }
        None
    }
}
