//! Leader epochs of records and of partitions in a list.

#![expect(unsafe_code, reason = "rust-rdkafka 0.39 has no bindings for leader epochs")]

use std::ffi::CString;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as rd;
use rdkafka::message::BorrowedMessage;
use records::{LeaderEpoch, Partition};

/// Returns the leader epoch that a record was written in; `None` in logs of very old brokers.
pub(crate) fn of(record: &BorrowedMessage<'_>) -> Option<LeaderEpoch> {
    // SAFETY: the record is borrowed from its client, so the pointer is valid.
    unsafe { of_message(record.ptr()) }
}

/// As [`of`], for librdkafka's message.
///
/// # Safety
/// The message is valid.
pub(crate) unsafe fn of_message(message: *const rd::rd_kafka_message_t) -> Option<LeaderEpoch> {
    // SAFETY: the caller's promise.
    known(unsafe { rd::rd_kafka_message_leader_epoch(message) })
}

/// Returns the leader epoch of a partition in the list.
pub(crate) fn get(list: &TopicPartitionList, topic: &str, partition: Partition) -> Option<LeaderEpoch> {
    let element = find(list, topic, partition)?;
    // SAFETY: the element belongs to `list`, which is borrowed.
    known(unsafe { rd::rd_kafka_topic_partition_get_leader_epoch(element) })
}

/// Sets the leader epoch of a partition in the list; `None` is unknown, which is checked by nobody.
pub(crate) fn set(
    list: &TopicPartitionList,
    topic: &str,
    partition: Partition,
    leader_epoch: Option<LeaderEpoch>,
) {
    let (Some(element), Some(LeaderEpoch(epoch))) = (find(list, topic, partition), leader_epoch) else {
        return;
    };
    // SAFETY: the element belongs to `list`, which no other thread uses while it is being built.
    unsafe { rd::rd_kafka_topic_partition_set_leader_epoch(element, epoch) }
}

fn find(
    list: &TopicPartitionList,
    topic: &str,
    partition: Partition,
) -> Option<*mut rd::rd_kafka_topic_partition_t> {
    let topic = CString::new(topic).ok()?;
    // SAFETY: `list` is valid while it is borrowed, and the name ends with a zero.
    let element = unsafe { rd::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), partition.0) };
    (!element.is_null()).then_some(element)
}

fn known(epoch: i32) -> Option<LeaderEpoch> {
    (epoch >= 0).then_some(LeaderEpoch(epoch))
}
