//! Forwards librdkafka's log to `tracing`.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

/// Returns the debug contexts that the user has configured, and `context` in addition.
pub(crate) fn debug(config: &ClientConfig, context: &str) -> String {
    config.get("debug").map_or_else(
        || context.to_owned(),
        |configured| format!("{configured},{context}"),
    )
}

/// Logs a line of librdkafka at the matching level.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    // The target lets a user filter these lines apart from the program's own.
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
