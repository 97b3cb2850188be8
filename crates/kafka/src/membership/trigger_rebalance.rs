//! A temporary member without interest in partitions, whose joining makes the group rebalance.
//!
//! A new member always triggers a rebalance. A member that is already in the group would have to release all
//! its partitions first, and while it drains, librdkafka sends no heartbeats for it, because it has no
//! subscription then. With a temporary member all others keep their partitions and continue.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};

use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;

/// Wait for the next event before the timeout is checked.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

/// Joins the group, waits until a new generation has started, and leaves. Blocks.
///
/// `unused_topic` is a topic that no member of the group reads: the temporary member subscribes to it, so
/// that it is assigned none of their partitions.
///
/// # Errors
/// No new generation started within the timeout; one may be starting nevertheless.
pub(super) fn trigger_rebalance(
    settings: &KafkaSettings,
    client_id: &str,
    unused_topic: &str,
    session_timeout: Duration,
    timeout: Duration,
) -> Result<(), ClientError> {
    let failed = |error| {
        let attempted = format!("joining group {:?} to trigger a rebalance", settings.group_id);
        ClientError::new(attempted, error)
    };
    let member: BaseConsumer<TemporaryMember> = settings
        .client(&format!("{client_id}-rebalance-trigger"))
        .set("group.id", &settings.group_id)
        // A member with another protocol or strategy would be refused; see `Consumer::join`.
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "cooperative-sticky")
        // If this process dies here, the group waits for the temporary member for this long.
        .set("session.timeout.ms", session_timeout.as_millis().to_string())
        .set(
            "heartbeat.interval.ms",
            (session_timeout / 10).as_millis().to_string(),
        )
        .set("enable.auto.commit", "false")
        .create_with_context(TemporaryMember::default())
        .map_err(failed)?;
    member.subscribe(&[unused_topic]).map_err(failed)?;
    let started = Instant::now();
    let mut last_error = KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut);
    while started.elapsed() < timeout {
        // librdkafka retries by itself; the last error only explains a timeout.
        if let Some(Err(error)) = member.poll(POLL_TIMEOUT) {
            last_error = error;
        }
        if member.context().has_joined.load(Ordering::Acquire) {
            // Dropping the consumer leaves the group.
            return Ok(());
        }
    }
    Err(failed(last_error))
}

/// Context of the temporary member.
#[derive(Default)]
struct TemporaryMember {
    has_joined: AtomicBool,
}

impl ClientContext for TemporaryMember {}

impl ConsumerContext for TemporaryMember {
    fn rebalance(&self, member: &BaseConsumer<Self>, event: RDKafkaRespErr, _: &mut TopicPartitionList) {
        // Completes each rebalance with no partitions, so that nothing is fetched and nothing is handed back.
        let nothing = TopicPartitionList::new();
        let completed = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.has_joined.store(true, Ordering::Release);
            member.incremental_assign(&nothing)
        } else {
            member.incremental_unassign(&nothing)
        };
        if let Err(error) = completed {
            tracing::warn!(%error, "temporary member could not complete a rebalance");
        }
    }
}
