//! A member that joins a group for a moment and wants nothing, so that the group shares out its partitions anew.
//!
//! That somebody comes is what the group cannot overlook. A member that is in it already would have to give up all
//! its partitions first, and while it drains, librdkafka sends no heartbeats for it (it has no subscription then).
//! With a guest all go on with what they have.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};

use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;

/// Joins the group, waits until a new generation has begun, and leaves. `unused_topic` is a topic that no member of the
/// group reads: the guest subscribes to it, so that none of theirs is handed to it. Blocks.
///
/// # Errors
/// No new generation has begun within the limit; one may be under way nevertheless.
pub(crate) fn visit(
    settings: &KafkaSettings,
    client_id: &str,
    unused_topic: &str,
    session_timeout: Duration,
    limit: Duration,
) -> Result<(), ClientError> {
    let attempted = || format!("joining group {:?} as a guest", settings.group_id);
    let guest: BaseConsumer<Visit> = settings
        .client(&format!("{client_id}-guest"))
        .set("group.id", &settings.group_id)
        // As the members do; see `Consumer::join`.
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "cooperative-sticky")
        // The group waits for so long for a guest whose process has ended.
        .set("session.timeout.ms", session_timeout.as_millis().to_string())
        .set(
            "heartbeat.interval.ms",
            (session_timeout / 10).as_millis().to_string(),
        )
        .set("enable.auto.commit", "false")
        .create_with_context(Visit::default())
        .map_err(|error| ClientError::new(attempted(), error))?;
    guest
        .subscribe(&[unused_topic])
        .map_err(|error| ClientError::new(attempted(), error))?;
    let began = Instant::now();
    let mut last = KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut);
    while began.elapsed() < limit {
        if let Some(Err(error)) = guest.poll(POLL_MAX) {
            last = error;
        }
        if guest.context().is_in.load(Ordering::Acquire) {
            // It leaves by being dropped.
            return Ok(());
        }
    }
    Err(ClientError::new(attempted(), last))
}

const POLL_MAX: Duration = Duration::from_millis(100);

/// Whether the guest is in.
#[derive(Default)]
struct Visit {
    is_in: AtomicBool,
}

impl ClientContext for Visit {}

impl ConsumerContext for Visit {
    /// Takes nothing of what it is handed, so that nothing is fetched, and gives nothing back.
    fn rebalance(&self, guest: &BaseConsumer<Self>, event: RDKafkaRespErr, _: &mut TopicPartitionList) {
        let nothing = TopicPartitionList::new();
        let completed = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.is_in.store(true, Ordering::Release);
            guest.incremental_assign(&nothing)
        } else {
            guest.incremental_unassign(&nothing)
        };
        if let Err(error) = completed {
            tracing::warn!(%error, "a guest could not complete a rebalance");
        }
    }
}
