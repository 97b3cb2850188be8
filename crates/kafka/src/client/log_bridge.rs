//! librdkafka's log, in ours.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

/// The contexts of the debug log that the user has asked for, and one more.
pub(crate) fn debug(config: &ClientConfig, context: &str) -> String {
    config
        .get("debug")
        .map_or_else(|| context.to_owned(), |of_user| format!("{of_user},{context}"))
}

/// Logs a line of librdkafka's.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => tracing::error!(target: "librdkafka", "{facility} {line}"),
        RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", "{facility} {line}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", "{facility} {line}");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", "{facility} {line}"),
    }
}
