//! Names of spans' attributes: those of the semantic conventions of OpenTelemetry 1.44 (messaging, HTTP client spans,
//! services), and our own, which start with `outbox.`.
//!
//! From 1.45 on the conventions call some of them otherwise (`messaging.system.name`, `kafka.offset`). [`SCHEMA_URL`] says
//! which version these are of, so that a backend can translate them.

/// Version of the conventions.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";

pub use messaging::*;

mod messaging {
    //! Spans of records.

    /// Messaging system: [`KAFKA`].
    pub const MESSAGING_SYSTEM: &str = "messaging.system";
    /// Value of [`MESSAGING_SYSTEM`].
    pub const KAFKA: &str = "kafka";
    /// Name of the operation: [`PROCESS`]. The span is called by it and by the topic.
    pub const OPERATION_NAME: &str = "messaging.operation.name";
    /// Kind of the operation: [`PROCESS`].
    pub const OPERATION_TYPE: &str = "messaging.operation.type";
    /// Value of [`OPERATION_NAME`] and [`OPERATION_TYPE`] where a record is processed.
    pub const PROCESS: &str = "process";
    /// Topic of the record.
    pub const DESTINATION_NAME: &str = "messaging.destination.name";
    /// Partition of the record, as text.
    pub const DESTINATION_PARTITION_ID: &str = "messaging.destination.partition.id";
    /// Offset of the record.
    pub const KAFKA_OFFSET: &str = "messaging.kafka.offset";
    /// Key of the record, which is the idempotency key.
    pub const KAFKA_MESSAGE_KEY: &str = "messaging.kafka.message.key";
    /// Consumer group that reads the record.
    pub const CONSUMER_GROUP_NAME: &str = "messaging.consumer.group.name";
    /// Client that reads the record: the instance id.
    pub const CLIENT_ID: &str = "messaging.client.id";
}

/// Method of the request.
pub const HTTP_REQUEST_METHOD: &str = "http.request.method";
/// Number of times the request was sent before; absent at the first time.
pub const HTTP_REQUEST_RESEND_COUNT: &str = "http.request.resend_count";
/// Status of the response.
pub const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
/// URL of the request, without its query.
pub const URL_FULL: &str = "url.full";
/// URL of the request, without its query and with placeholders.
pub const URL_TEMPLATE: &str = "url.template";
/// Host of the request.
pub const SERVER_ADDRESS: &str = "server.address";
/// Port of the request.
pub const SERVER_PORT: &str = "server.port";
/// Kind of the failure that the span ended with.
pub const ERROR_TYPE: &str = "error.type";

/// Name of the program.
pub const SERVICE_NAME: &str = "service.name";
/// Name of the group of programs.
pub const SERVICE_NAMESPACE: &str = "service.namespace";
/// Instance of the program.
pub const SERVICE_INSTANCE_ID: &str = "service.instance.id";
/// Version of the program.
pub const SERVICE_VERSION: &str = "service.version";

/// Verdict on an order.
pub const VERDICT: &str = "outbox.verdict";
/// Reason why an order was refused.
pub const REASON: &str = "outbox.reason";
/// End of the transaction in which an order was decided: `committed`, `aborted`, `unknown`.
pub const TRANSACTION: &str = "outbox.transaction";
/// End of a call: its final state, `deferred`, or `released` if another caller goes on with it.
pub const CALL_END: &str = "outbox.call.end";
/// Number of the attempt, from 1, over all positions of the call in the outbox.
pub const ATTEMPT: &str = "outbox.call.attempt";
/// Reason why the request may repeat an earlier one that was processed.
pub const REPEATS: &str = "outbox.call.repeats";
