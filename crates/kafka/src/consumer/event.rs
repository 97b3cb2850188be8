//! Events of a consumer, and the queue of rebalances between librdkafka's callback and
//! [`super::Consumer::poll`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};
use records::Partition;

use super::member_id::member_id;
use super::topic_recreation::TopicRecreation;
use crate::client::log_bridge;

/// Event that [`super::Consumer::poll`] returns.
pub enum ConsumerEvent<'a> {
    /// A record of a started partition.
    Record(BorrowedMessage<'a>),
    /// The group has a new generation. Comes with each generation, often without new partitions.
    Assigned {
        /// Partitions that are new to this member.
        partitions: Vec<Partition>,
        /// Membership as of this generation, for the transactions of this assignment.
        // Taken in the callback and nowhere else: metadata taken before the first assignment fences nothing.
        metadata: ConsumerGroupMetadata,
        /// Id that the coordinator has given to this member. A changed id shows that the member was out of
        /// the group in between, which it may not have been notified of otherwise.
        member_id: String,
    },
    /// Another member is to be assigned partitions of this one, which still owns them until it releases them.
    Revoked {
        /// Partitions that this member must release.
        partitions: Vec<Partition>,
        /// Membership as of this generation, with which a transaction can still end.
        metadata: ConsumerGroupMetadata,
        /// As in [`Self::Assigned`].
        member_id: String,
    },
    /// Partitions that may already belong to another member. Nothing may be committed for them.
    Lost {
        /// Partitions that this member must release.
        partitions: Vec<Partition>,
    },
}

/// Rebalance that librdkafka waits for.
pub(super) struct Rebalance {
    pub(super) is_assign: bool,
    pub(super) partitions: Vec<Partition>,
}

impl Rebalance {
    /// Returns the rebalance of an event; `None` for a record.
    pub(super) fn of(event: &ConsumerEvent<'_>) -> Option<Self> {
        let (is_assign, partitions) = match event {
            ConsumerEvent::Record(_) => return None,
            ConsumerEvent::Assigned { partitions, .. } => (true, partitions),
            ConsumerEvent::Revoked { partitions, .. } | ConsumerEvent::Lost { partitions } => {
                (false, partitions)
            }
        };
        Some(Self {
            is_assign,
            partitions: partitions.clone(),
        })
    }
}

/// Context of a consumer: queues rebalances, and watches librdkafka's log for a recreated topic.
pub(super) struct RebalanceQueue {
    // Bounded by the group, which sends no second rebalance before the first one is completed.
    queued: Mutex<VecDeque<ConsumerEvent<'static>>>,
    /// Number of queued rebalances: it is asked for each record, and costs less than the lock.
    count: AtomicUsize,
    /// Set while the consumer is being closed: the callback then completes rebalances itself.
    pub(super) closing: AtomicBool,
    pub(super) topic_recreation: TopicRecreation,
}

impl RebalanceQueue {
    pub(super) fn new(topic: &str) -> Self {
        Self {
            queued: Mutex::default(),
            count: AtomicUsize::new(0),
            closing: AtomicBool::default(),
            topic_recreation: TopicRecreation::of(topic),
        }
    }

    /// Returns the oldest queued rebalance.
    pub(super) fn take(&self) -> Option<ConsumerEvent<'static>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        let event = queued.pop_front();
        self.count.store(queued.len(), Ordering::Release);
        event
    }

    fn put(&self, event: ConsumerEvent<'static>) {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        queued.push_back(event);
        self.count.store(queued.len(), Ordering::Release);
    }
}

impl ClientContext for RebalanceQueue {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.topic_recreation.observe_log(facility, line);
        log_bridge::log(level, facility, line);
    }
}

impl ConsumerContext for RebalanceQueue {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<Partition> = list.elements().iter().map(|e| Partition(e.partition())).collect();
        let is_assign = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            complete(consumer, is_assign, list);
            return;
        }
        // In this order: if the member rejoins between the two, the metadata is stale and the id is already
        // the new one, which shows it.
        let metadata = consumer.group_metadata();
        let member_id = member_id(consumer);
        match metadata {
            Some(metadata) if is_assign => self.put(ConsumerEvent::Assigned {
                partitions,
                metadata,
                member_id,
            }),
            Some(metadata) if !consumer.assignment_lost() => self.put(ConsumerEvent::Revoked {
                partitions,
                metadata,
                member_id,
            }),
            _ if !is_assign => self.put(ConsumerEvent::Lost { partitions }),
            // Only a consumer without a group id has no metadata.
            _ => tracing::error!("assignment without group metadata, partitions not accepted"),
        }
    }
}

/// Completes a rebalance while the group is being left.
pub(super) fn complete(consumer: &BaseConsumer<RebalanceQueue>, is_assign: bool, list: &TopicPartitionList) {
    let completed = if is_assign {
        consumer.incremental_assign(list)
    } else {
        consumer.incremental_unassign(list)
    };
    if let Err(error) = completed {
        tracing::warn!(%error, "rebalance not completed while leaving the group");
    }
}
