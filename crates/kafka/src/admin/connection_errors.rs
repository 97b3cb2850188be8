//! The reason of the last failed connection, for the error that a user sees.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};

use crate::client::connection_failure::explain;
use crate::client::log_bridge;

/// Context of a client that keeps the reason of its last failed connection.
#[derive(Clone, Default)]
pub(super) struct ConnectionErrors(Arc<Mutex<Option<String>>>);

impl ConnectionErrors {
    /// Returns the last reason with its explanation, in brackets; empty if no connection has failed.
    pub(super) fn last(&self) -> String {
        match self.lock().as_deref() {
            None => String::new(),
            Some(reason) => match explain(reason) {
                None => format!(" (last attempt: {reason})"),
                Some(explanation) => format!(" (last attempt: {reason}; {explanation})"),
            },
        }
    }

    /// Forgets the last reason: a broker has responded since.
    pub(super) fn clear(&self) {
        *self.lock() = None;
    }

    fn note(&self, reason: &str) {
        let mut last = self.lock();
        // librdkafka does not repeat a reason for half a minute, so one that says less must not take its place.
        let is_known = |reason: &String| explain(reason).is_some();
        if explain(reason).is_some() || !last.as_ref().is_some_and(is_known) {
            *last = Some(reason.to_owned());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for ConnectionErrors {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "connection to kafka failed");
        // "All brokers are down" is a consequence, and would hide the reason that preceded it.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            return;
        }
        self.note(reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // A connection that the broker has closed is logged, and is no error to librdkafka.
        if facility == "FAIL"
            && let Some((_thread, reason)) = line.split_once("]: ")
        {
            self.note(reason);
        }
        log_bridge::log(level, facility, line);
    }
}

impl ProducerContext for ConnectionErrors {
    type DeliveryOpaque = ();

    fn delivery(&self, _report: &DeliveryResult<'_>, (): ()) {}
}
