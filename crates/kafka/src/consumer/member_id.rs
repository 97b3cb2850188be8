//! The identity that the group's coordinator has given to a member.

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata};

use crate::client::c_string;
use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;

/// Returns the member id that the coordinator has given to this member; empty while there is none.
#[expect(unsafe_code, reason = "rust-rdkafka does not expose the member id")]
pub(super) fn member_id<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> String {
    let client = consumer.client().native_ptr();
    // SAFETY: `consumer` keeps the client alive. The function returns null, or a text that ends with a zero
    // and that librdkafka has allocated for us; it is copied and then freed once, by the function that
    // librdkafka names for it.
    unsafe {
        let text = rdkafka::bindings::rd_kafka_memberid(client);
        if text.is_null() {
            return String::new();
        }
        let id = c_string::copy(text);
        rdkafka::bindings::rd_kafka_mem_free(client, text.cast());
        id
    }
}

/// Returns the metadata of a consumer that never joined its group.
///
/// Kafka accepts it within a transaction and fences nothing by it. Only for the test that shows why
/// [`super::ConsumerEvent::Assigned`] has the member's own metadata.
///
/// # Errors
/// librdkafka refused a setting.
pub fn unjoined_metadata(settings: &KafkaSettings) -> Result<ConsumerGroupMetadata, ClientError> {
    let attempted = "opening a consumer that does not join";
    let consumer: BaseConsumer = settings
        .client("unjoined")
        .set("group.id", &settings.group_id)
        .create()
        .map_err(|error| ClientError::new(attempted, error))?;
    consumer
        .group_metadata()
        .ok_or_else(|| ClientError::unavailable(attempted))
}
