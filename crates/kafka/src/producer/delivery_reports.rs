//! Delivery reports of the open transaction, and what librdkafka logs about its end.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, NoCustomPartitioner, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use records::{Offset, Partition};

use super::end_txn_responses::EndTxnResponses;
use super::marker_wait;
use crate::client::error::ClientError;
use crate::client::log_bridge;

/// Opaque of a record whose offset is not of interest.
pub(super) const UNTRACKED: usize = 0;
/// Opaque of a record whose offset [`DeliveryReports::take_tracked`] returns.
pub(super) const TRACKED: usize = 1;

/// Context of the transactional producer: counts records and their reports.
#[derive(Default)]
pub(super) struct DeliveryReports {
    // Outside the mutex, so that sending does not contend with the thread that serves the reports.
    sent: AtomicU64,
    /// Number of reports that were served.
    // Outside the mutex, because half of the reports change nothing else.
    count: AtomicU64,
    received: Mutex<Received>,
    changed: Condvar,
    pub(super) end_txn: EndTxnResponses,
    /// A request to add to the transaction came while the markers of the last one were being written.
    came_too_early: AtomicBool,
}

#[derive(Default)]
struct Received {
    /// Offset behind the last tracked record of each partition; `None` once one of them is unknown.
    tracked: BTreeMap<Partition, Option<Offset>>,
    failure: Option<(String, KafkaError)>,
    /// Partition that the transaction was refused for, because this user may not write to its topic.
    refused: Option<String>,
}

impl DeliveryReports {
    /// Forgets the previous transaction.
    pub(super) fn reset(&self) {
        self.sent.store(0, Ordering::Release);
        self.count.store(0, Ordering::Release);
        *self.lock() = Received::default();
    }

    /// Counts a record as sent. Precedes the send, because its report may arrive before the send returns.
    pub(super) fn record_sent(&self) {
        self.sent.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes back [`Self::record_sent`] for a record that was refused and will have no report.
    pub(super) fn record_refused(&self) {
        self.sent.fetch_sub(1, Ordering::AcqRel);
    }

    /// Waits for the report of every record that was sent.
    ///
    /// # Errors
    /// A record was not delivered, or a report is missing at the deadline.
    pub(super) fn await_all(&self, sent: u64, deadline: Instant) -> Result<(), ClientError> {
        let mut received = self.lock();
        while self.count() < sent && received.failure.is_none() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                let attempted = format!(
                    "delivering {} of {sent} records of the transaction",
                    sent.saturating_sub(self.count())
                );
                return Err(ClientError::new(
                    attempted,
                    KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut),
                ));
            };
            received = self
                .changed
                .wait_timeout(received, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let Some((attempted, error)) = received.failure.take() else {
            return Ok(());
        };
        // All records are taken back then, and their reports do not say why.
        Err(match &received.refused {
            Some(partition) => ClientError::new(
                format!("adding {partition} to the transaction"),
                KafkaError::MessageProduction(RDKafkaErrorCode::TopicAuthorizationFailed),
            ),
            None => ClientError::new(attempted, error),
        })
    }

    /// Returns the number of records sent in this transaction.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Returns, by partition, the offset behind the last tracked record. A partition is left out if Kafka did
    /// not report the offset of each of its tracked records.
    pub(super) fn take_tracked(&self) -> HashMap<Partition, Offset> {
        let tracked = std::mem::take(&mut self.lock().tracked);
        let known = |(partition, next): (_, Option<Offset>)| Some((partition, next?));
        tracked.into_iter().filter_map(known).collect()
    }

    /// Returns whether a request came too early since the last call.
    pub(super) fn take_came_too_early(&self) -> bool {
        self.came_too_early.swap(false, Ordering::AcqRel)
    }

    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Received {
    /// Notes the offset of a tracked record.
    fn track(&mut self, partition: Partition, offset: Offset) {
        // Negative where a broker knew a resent batch, but no longer its offset. The maximum of the others would
        // then look like the end of a log that has lost records.
        let next = (offset >= Offset(0)).then(|| offset.next());
        let last = self.tracked.entry(partition).or_insert(next);
        // The maximum, so that the order in which reports are served does not matter.
        *last = last.zip(next).map(|(last, next)| last.max(next));
    }
}

impl ClientContext for DeliveryReports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.end_txn.observe_log(facility, line);
        if marker_wait::is_refusal(facility, line) {
            self.came_too_early.store(true, Ordering::Release);
        }
        // In the queue of the reports, and before those that follow from it.
        if let Some(partition) = refused_partition(facility, line) {
            self.lock().refused = Some(partition);
        }
        log_bridge::log(level, facility, line);
    }
}

impl ProducerContext<NoCustomPartitioner> for DeliveryReports {
    type DeliveryOpaque = usize;

    fn delivery(&self, report: &DeliveryResult<'_>, opaque: usize) {
        let has_failed = report.is_err();
        match report {
            Ok(record) if opaque != UNTRACKED => {
                self.lock()
                    .track(Partition(record.partition()), Offset(record.offset()));
            }
            Ok(_) => {}
            Err((error, record)) => {
                // The first failure is the cause; those after it are its consequences in librdkafka.
                self.lock().failure.get_or_insert_with(|| {
                    (
                        format!("delivering a record to {}/{}", record.topic(), record.partition()),
                        error.clone(),
                    )
                });
            }
        }
        // Last: who sees the number also sees what the report has changed.
        let count = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        // Waking the loop for each of thousands of reports would cost more than the reports.
        if count >= self.sent() || has_failed {
            // The loop has either seen the number, or waits already.
            drop(self.lock());
            self.changed.notify_all();
        }
    }
}

/// Returns the partition that a user may not write to, by a line such as `[thrd:main]: 127.0.0.1:9092/1: Failed to add
/// partition "t" [6] to transaction: Broker: Topic authorization failed`.
// The error that librdkafka returns for the transaction does not name it.
fn refused_partition(facility: &str, line: &str) -> Option<String> {
    let is_refusal = facility == "ADDPARTS" && line.ends_with("Topic authorization failed");
    let (_, rest) = line
        .split_once("Failed to add partition \"")
        .filter(|_| is_refusal)?;
    let (topic, rest) = rest.split_once("\" [")?;
    let (partition, _) = rest.split_once(']')?;
    Some(format!("{topic}/{partition}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn refused_topic_is_read_from_the_log() {
        let line = |why: &str| {
            format!("[thrd:main]: 127.0.0.1:9/1: Failed to add partition \"t\" [6] to transaction: {why}")
        };
        let refused = line("Broker: Topic authorization failed");
        assert_eq!(refused_partition("ADDPARTS", &refused).as_deref(), Some("t/6"));
        assert_eq!(
            refused_partition("ADDPARTS", &line("Broker: Not coordinator")),
            None
        );
        assert_eq!(refused_partition("ADDPARTS", "Topic authorization failed"), None);
        assert_eq!(refused_partition("ENDTXN", &refused), None);
    }

    #[test]
    fn records_taken_back_tell_of_the_refused_topic() {
        let reports = DeliveryReports::default();
        let purged = KafkaError::MessageProduction(RDKafkaErrorCode::PurgeQueue);
        let fail = || {
            reports.lock().failure = Some(("delivering a record to other/0".into(), purged.clone()));
            let error = reports.await_all(1, Instant::now() + Duration::from_secs(1));
            error.expect_err("a failure").to_string()
        };
        assert!(fail().starts_with("delivering a record to other/0 failed"));
        let line = "Failed to add partition \"t\" [6] to transaction: Broker: Topic authorization failed";
        reports.log(RDKafkaLogLevel::Error, "ADDPARTS", line);
        let text = fail();
        assert!(
            text.starts_with("adding t/6 to the transaction failed") && text.contains("WRITE"),
            "{text}"
        );
        reports.reset();
        assert!(fail().starts_with("delivering"), "of an earlier transaction");
    }

    #[test]
    fn unreported_offset_makes_its_partition_unknown() {
        let reports = DeliveryReports::default();
        for (partition, offset) in [(0, 8), (0, 7), (1, 3), (1, -1001), (1, 4), (2, -1001), (3, 0)] {
            reports.lock().track(Partition(partition), Offset(offset));
        }
        let expected = HashMap::from([(Partition(0), Offset(9)), (Partition(3), Offset(1))]);
        assert_eq!(reports.take_tracked(), expected);
    }
}
