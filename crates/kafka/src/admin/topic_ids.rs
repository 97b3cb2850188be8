//! The identity of a topic: the id that Kafka gave it, and its partition count.
//!
//! A topic that was deleted and created again under its old name has a new id. rust-rdkafka does not return
//! ids, so librdkafka is called directly.
#![expect(
    unsafe_code,
    reason = "rust-rdkafka 0.39 has no binding for describing topics"
)]

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings as native;
use rdkafka::client::Client;
use rdkafka::error::{IsError, KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::{RDKafkaAdminOp, RDKafkaRespErr};

use crate::client::c_string;

/// Id that a broker without support for topic ids reports: 16 zero bytes in base64.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";
/// Size of the buffer for librdkafka's error text.
const ERROR_TEXT_BYTES: usize = 512;
/// Margin for librdkafka's own work, on top of the request's timeout.
const RESPONSE_MARGIN: Duration = Duration::from_secs(1);

/// Identity of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicIdentity {
    /// Id that Kafka gave the topic when it was created, in base64.
    pub id: String,
    /// Number of partitions of the topic.
    pub partitions: usize,
}

/// Returns the identities of those of the topics that exist, by name. Blocks.
///
/// # Errors
/// No broker responded within the timeout, or it refused to describe a topic.
pub(super) fn identities<C: ClientContext>(
    client: &Client<C>,
    names: &[&str],
    timeout: Duration,
) -> KafkaResult<BTreeMap<String, TopicIdentity>> {
    let failed = |code: RDKafkaRespErr| KafkaError::AdminOp(RDKafkaErrorCode::from(code));
    let milliseconds = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
    let names = names
        .iter()
        .map(|name| CString::new(*name).map_err(KafkaError::Nul))
        .collect::<KafkaResult<Vec<CString>>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let client = client.native_ptr();
    // SAFETY: the client and the names outlive this block, and librdkafka copies the names. Objects that
    // librdkafka allocates are destroyed once, by `Owned`, in reverse order of their creation. Everything
    // that is read from the event is copied while the event lives. `described` has `count` elements, none of
    // them null.
    unsafe {
        let topics = Owned(
            native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
            native::rd_kafka_TopicCollection_destroy,
        );
        let options = Owned(
            native::rd_kafka_AdminOptions_new(client, RDKafkaAdminOp::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            native::rd_kafka_AdminOptions_destroy,
        );
        let mut text = [0; ERROR_TEXT_BYTES];
        let code = native::rd_kafka_AdminOptions_set_request_timeout(
            options.0,
            milliseconds(timeout),
            text.as_mut_ptr(),
            text.len(),
        );
        if code.is_error() {
            return Err(failed(code));
        }
        let queue = Owned(native::rd_kafka_queue_new(client), native::rd_kafka_queue_destroy);
        native::rd_kafka_DescribeTopics(client, topics.0, options.0, queue.0);
        let event = native::rd_kafka_queue_poll(queue.0, milliseconds(timeout + RESPONSE_MARGIN));
        if event.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
        }
        let event = Owned(event, native::rd_kafka_event_destroy);
        let code = native::rd_kafka_event_error(event.0);
        if code.is_error() {
            return Err(failed(code));
        }
        let result = native::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(KafkaError::AdminOpCreation(
                "a response that does not describe topics".into(),
            ));
        }
        let mut count = 0;
        let described = native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let mut identities = BTreeMap::new();
        for index in 0..count {
            let topic = *described.add(index);
            let error = native::rd_kafka_TopicDescription_error(topic);
            if !error.is_null() {
                match native::rd_kafka_error_code(error) {
                    RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
                    RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => continue,
                    code => return Err(failed(code)),
                }
            }
            let name = c_string::copy(native::rd_kafka_TopicDescription_name(topic));
            let id = native::rd_kafka_TopicDescription_topic_id(topic);
            if id.is_null() {
                continue;
            }
            let id = c_string::copy(native::rd_kafka_Uuid_base64str(id));
            // Without an id nothing shows whether the topic is still the same, so it is left out.
            if id != NO_ID {
                let mut partitions = 0;
                native::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions);
                identities.insert(name, TopicIdentity { id, partitions });
            }
        }
        Ok(identities)
    }
}

/// An object that librdkafka has allocated for us, and the function that destroys it.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: librdkafka allocated the object for us, the function is the one that it names for this
            // type, and this is the only place that destroys it.
            unsafe { (self.1)(self.0) };
        }
    }
}
