//! What tells whether a topic is still the same: the id that Kafka has given it, which is a new one where it was deleted
//! and created again under its old name, and its partition count.
//!
//! rust-rdkafka does not hand them out, so librdkafka is asked itself.
#![expect(
    unsafe_code,
    reason = "rust-rdkafka 0.39 has no binding for describing topics"
)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings as native;
use rdkafka::client::Client;
use rdkafka::error::{IsError, KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::{RDKafkaAdminOp, RDKafkaRespErr};

/// What a broker that knows no ids says.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";
const ERROR_TEXT_BYTES: usize = 512;
/// librdkafka answers within the request's limit; this is for its own work.
const ANSWER_LATER: Duration = Duration::from_secs(1);

/// What a topic is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicIdentity {
    /// The id that Kafka has given it.
    pub id: String,
    /// How many partitions it has.
    pub partitions: usize,
}

/// The identities of those of the topics that exist, by name. Blocks.
///
/// # Errors
/// No broker answered within the limit.
pub(crate) fn of<C: ClientContext>(
    client: &Client<C>,
    names: &[&str],
    limit: Duration,
) -> KafkaResult<BTreeMap<String, TopicIdentity>> {
    let failed = |code: RDKafkaRespErr| KafkaError::AdminOp(RDKafkaErrorCode::from(code));
    let milliseconds = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
    let names = names
        .iter()
        .map(|name| CString::new(*name).map_err(KafkaError::Nul))
        .collect::<KafkaResult<Vec<CString>>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let client = client.native_ptr();
    // SAFETY: the client outlives this function, and so do the names; what librdkafka makes is given back to it by
    // `Owned`, last made first; what is read of the event is copied while the event lives.
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
            milliseconds(limit),
            text.as_mut_ptr(),
            text.len(),
        );
        if code.is_error() {
            return Err(failed(code));
        }
        let queue = Owned(native::rd_kafka_queue_new(client), native::rd_kafka_queue_destroy);
        native::rd_kafka_DescribeTopics(client, topics.0, options.0, queue.0);
        let event = native::rd_kafka_queue_poll(queue.0, milliseconds(limit + ANSWER_LATER));
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
                "an answer that does not describe topics".into(),
            ));
        }
        let mut count = 0;
        let described = native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let mut ids = BTreeMap::new();
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
            let name = copied(native::rd_kafka_TopicDescription_name(topic));
            let id = native::rd_kafka_TopicDescription_topic_id(topic);
            if id.is_null() {
                continue;
            }
            let id = copied(native::rd_kafka_Uuid_base64str(id));
            if id != NO_ID {
                let mut partitions = 0;
                native::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions);
                ids.insert(name, TopicIdentity { id, partitions });
            }
        }
        Ok(ids)
    }
}

/// Something of librdkafka's, and how it is given back.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: it was made by librdkafka for us and is given back once, by the function meant for it.
            unsafe { (self.1)(self.0) };
        }
    }
}

/// # Safety
/// The text is null or ends with a zero.
unsafe fn copied(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
