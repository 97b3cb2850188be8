//! A commit that tells what became of each partition.
//!
//! rust-rdkafka 0.39 commits with `rd_kafka_commit`, which waits for the coordinator's answer and then drops
//! the list with each partition's own error. A note that the broker refused for one partition of several
//! (`OFFSET_METADATA_TOO_LARGE`, say) could so be taken for noted, and its calls would be made without a
//! beginning that anybody else can read. `rd_kafka_commit_queue` hands the list out; this module is that one
//! call.

#![expect(unsafe_code, reason = "librdkafka's function has no safe wrapper")]

use std::os::raw::c_void;
use std::ptr;

use rdkafka::TopicPartitionList;
use rdkafka::bindings::{self, rd_kafka_commit_queue, rd_kafka_resp_err_t};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use records::Partition;

/// What the coordinator refused.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The partition that it was refused for; `None` if for all.
    pub(crate) partition: Option<Partition>,
    /// What the coordinator, or librdkafka, said.
    pub(crate) error: KafkaError,
}

/// Commits the offsets and metadata of `list` under the current generation, and waits for the answer. Blocks
/// for as long as librdkafka keeps trying.
pub(crate) fn commit_and_wait<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &TopicPartitionList,
) -> Result<(), Refused> {
    let mut errors: Vec<(i32, rd_kafka_resp_err_t)> = Vec::new();
    let opaque: *mut Vec<(i32, rd_kafka_resp_err_t)> = &raw mut errors;
    // SAFETY: client and list outlive the call. Without a queue of ours librdkafka serves the answer within
    // the call, on this thread, so the callback runs before it returns, or never; nothing else has `errors`
    // meanwhile.
    let code = unsafe {
        rd_kafka_commit_queue(
            consumer.client().native_ptr(),
            list.ptr(),
            ptr::null_mut(),
            Some(collect),
            opaque.cast::<c_void>(),
        )
    };
    let first = errors
        .iter()
        .find(|(_, error)| *error != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
    match (first, code) {
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
    // SAFETY: librdkafka's list is null or valid for the time of the callback, and has `cnt` elements.
    let Some(list) = (unsafe { list.as_ref() }) else {
        return;
    };
    let Ok(count) = usize::try_from(list.cnt) else {
        return;
    };
    if count == 0 || list.elems.is_null() {
        return;
    }
    // SAFETY: as above; `opaque` is the vector of the call that waits for this callback.
    let (elements, errors) = unsafe {
        (
            std::slice::from_raw_parts(list.elems, count),
            &mut *opaque.cast::<Vec<(i32, rd_kafka_resp_err_t)>>(),
        )
    };
    errors.extend(elements.iter().map(|element| (element.partition, element.err)));
}
