//! Committing offsets, with the result of each partition.
//!
//! rust-rdkafka 0.39 commits with `rd_kafka_commit`, which waits for the coordinator's response and then
//! drops the list with each partition's own error. Call notes that the broker refused for one partition of
//! several (`OFFSET_METADATA_TOO_LARGE`, for example) would look committed, and calls would be sent without
//! an intent that anybody else can read. `rd_kafka_commit_queue` returns the list.

#![expect(unsafe_code, reason = "librdkafka's function has no safe wrapper")]

pub(super) mod responses;

use std::os::raw::c_void;
use std::ptr;

use rdkafka::bindings::{self, rd_kafka_commit_queue, rd_kafka_resp_err_t};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset as Seek, TopicPartitionList};
use records::{LeaderEpoch, Offset, Partition};

use self::responses::OffsetCommitResponses;
use super::Consumer;
use super::offsets::leader_epoch;
use crate::client::error::ClientError;
use crate::client::log_bridge;
use crate::client::log_queue::LogQueue;

/// An offset to commit, with its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffset {
    /// Partition of the offset.
    pub partition: Partition,
    /// First offset that is not final yet.
    pub offset: Offset,
    /// Commit metadata: ASCII, and at most 4096 bytes (the broker's default limit).
    pub metadata: String,
    /// Leader epoch of the last record before the offset, or a later one that was seen since; `None` if none is
    /// known.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// What is known of a commit that has ended.
#[derive(Debug)]
pub struct CommitResponse {
    /// The coordinator took it; or it refused at least one partition, or did not respond.
    pub result: Result<(), ClientError>,
    /// Evidence for a request of this commit that may still be in flight, whatever the result is. It would
    /// put this commit over later ones of the same membership, or of a group without members.
    pub request_in_flight: Option<String>,
}

impl Consumer {
    /// Commits offsets under the current generation, and waits for the coordinator's response. Blocks for as
    /// long as librdkafka keeps trying, so it must run on a thread of its own. One at a time.
    ///
    /// The caller must wait for the response before it releases one of these partitions.
    pub fn commit_and_wait(&self, commits: &[CommitOffset]) -> CommitResponse {
        let attempted = |partition| attempted(&self.topic, &self.group_id, partition);
        for commit in commits {
            // librdkafka stamps a commit with the generation that is current when it is sent, so that a
            // commit of a released partition could overwrite what its new owner has committed.
            if !self.next().contains_key(&commit.partition) {
                return CommitResponse {
                    result: Err(ClientError::unavailable(attempted(Some(commit.partition)))),
                    request_in_flight: None,
                };
            }
        }
        self.commit_responses.reset();
        let result = list(&self.topic, commits)
            .and_then(|list| commit_and_wait(&self.inner, &list))
            .map_err(|refused| ClientError::new(attempted(refused.partition), self.cause(refused.error)));
        self.serve_log();
        CommitResponse {
            result,
            request_in_flight: self.commit_responses.request_in_flight(),
        }
    }
}

/// Commits offsets of a group with a client of its own, which is no member, and waits for the coordinator's
/// response. The coordinator refuses the commit while the group has members.
pub(super) fn without_membership(
    mut config: ClientConfig,
    group_id: &str,
    topic: &str,
    commits: &[CommitOffset],
) -> CommitResponse {
    let failed =
        |refused: Refused| ClientError::new(attempted(topic, group_id, refused.partition), refused.error);
    let debug = log_bridge::debug(&config, responses::DEBUG_CONTEXTS);
    // The responses are logged at this level.
    config.set("debug", debug).set_log_level(RDKafkaLogLevel::Debug);
    let opened = config.create::<BaseConsumer>().map_err(|error| Refused {
        partition: None,
        error,
    });
    let (consumer, list) = match opened.and_then(|consumer| Ok((consumer, list(topic, commits)?))) {
        Ok(opened) => opened,
        Err(refused) => {
            return CommitResponse {
                result: Err(failed(refused)),
                request_in_flight: None,
            };
        }
    };
    // SAFETY: it is dropped before the client, which was declared earlier.
    let log = unsafe { LogQueue::of(consumer.client()) };
    let commit_responses = OffsetCommitResponses::default();
    let result = commit_and_wait(&consumer, &list).map_err(failed);
    log.serve(|level, facility, line| {
        commit_responses.observe_log(facility, line);
        log_bridge::log(level, facility, line);
    });
    CommitResponse {
        result,
        request_in_flight: commit_responses.request_in_flight(),
    }
}

fn attempted(topic: &str, group_id: &str, partition: Option<Partition>) -> String {
    let of = partition.map_or(String::new(), |partition| format!("/{partition}"));
    format!("committing offsets of {topic:?}{of} in group {group_id:?}")
}

fn list(topic: &str, commits: &[CommitOffset]) -> Result<TopicPartitionList, Refused> {
    let mut list = TopicPartitionList::with_capacity(commits.len());
    for commit in commits {
        let mut element = list.add_partition(topic, commit.partition.0);
        element.set_metadata(&commit.metadata);
        element
            .set_offset(Seek::Offset(commit.offset.0))
            .map_err(|error| Refused {
                partition: Some(commit.partition),
                error,
            })?;
    }
    for commit in commits {
        leader_epoch::set(&list, topic, commit.partition, commit.leader_epoch);
    }
    Ok(list)
}

/// Refusal of a commit.
#[derive(Debug)]
struct Refused {
    /// Refused partition; `None` if the commit failed as a whole.
    partition: Option<Partition>,
    error: KafkaError,
}

fn commit_and_wait<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &TopicPartitionList,
) -> Result<(), Refused> {
    let mut results: Vec<(i32, rd_kafka_resp_err_t)> = Vec::new();
    let opaque: *mut Vec<(i32, rd_kafka_resp_err_t)> = &raw mut results;
    // SAFETY: `consumer` and `list` outlive the call. With a null queue librdkafka serves the response within
    // the call, on this thread, so that `collect` runs before the call returns, or never; `results` is not
    // accessed meanwhile.
    let code = unsafe {
        rd_kafka_commit_queue(
            consumer.client().native_ptr(),
            list.ptr(),
            ptr::null_mut(),
            Some(collect),
            opaque.cast::<c_void>(),
        )
    };
    let first_error = results
        .iter()
        .find(|(_, error)| *error != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
    match (first_error, code) {
        // Before the code: the request as a whole succeeds even if the broker refused a partition.
        (Some((partition, error)), _) => Err(Refused {
            partition: Some(Partition(*partition)),
            error: KafkaError::ConsumerCommit(RDKafkaErrorCode::from(*error)),
        }),
        (None, rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR) => Ok(()),
        (None, code) => Err(Refused {
            partition: None,
            error: KafkaError::ConsumerCommit(RDKafkaErrorCode::from(code)),
        }),
    }
}

/// Copies each partition's result out of librdkafka's list.
unsafe extern "C" fn collect(
    _client: *mut bindings::rd_kafka_t,
    _error: rd_kafka_resp_err_t,
    list: *mut bindings::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: the list is null, or valid and unchanged for the duration of the callback.
    let Some(list) = (unsafe { list.as_ref() }) else {
        return;
    };
    let Ok(count) = usize::try_from(list.cnt) else {
        return;
    };
    // A slice must not start at a null pointer, not even an empty one.
    if count == 0 || list.elems.is_null() {
        return;
    }
    // SAFETY: `elems` points to `cnt` elements, which live as long as the list. `opaque` is the vector of
    // `commit_and_wait`, which waits for this callback on the same thread and does not access it meanwhile.
    let (elements, results) = unsafe {
        (
            std::slice::from_raw_parts(list.elems, count),
            &mut *opaque.cast::<Vec<(i32, rd_kafka_resp_err_t)>>(),
        )
    };
    results.extend(elements.iter().map(|element| (element.partition, element.err)));
}
