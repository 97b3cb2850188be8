//! Joining a group: the settings of a member, each with its reason.

#![expect(unsafe_code, reason = "the queue of the log must not outlive the client")]

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::Consumer;
use super::commit::responses::OffsetCommitResponses;
use super::event::RebalanceQueue;
use super::{commit, topic_recreation};
use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;
use crate::client::log_bridge;
use crate::client::log_queue::LogQueue;
use crate::client::with_deadline::DroppedWithin;

/// Maximum time for leaving the group. While it closes, librdkafka may wait for ever for a rebalance that comes then: its
/// thread for the group has ended, and the callback's request is never taken. Nothing depends on it.
const LEAVE_MAX: Duration = Duration::from_secs(5);
const NOT_LEFT: &str = "group not left in time, going on all the same; its coordinator finds out by itself";

/// Kind and timeouts of a membership.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Id of a static membership: a restart takes over at once, and a stopped member keeps its partitions
    /// until the session timeout. `None` is a dynamic membership: a stopped member hands over at once.
    pub instance_id: Option<String>,
    /// Time without a heartbeat after which the group removes the member.
    pub session_timeout: Duration,
    /// Interval of the heartbeats, which is also the delay until the member learns of a rebalance.
    pub heartbeat_interval: Duration,
    /// Maximum size of the records that librdkafka fetches ahead, in KiB.
    pub prefetch_kib_max: u32,
}

impl Consumer {
    /// Joins the group. Returns at once; the first assignment is returned by [`Self::poll`].
    ///
    /// # Errors
    /// librdkafka refused a setting.
    pub fn join(settings: &KafkaSettings, membership: &Membership, topic: &str) -> Result<Self, ClientError> {
        let mut config = settings.client(membership.instance_id.as_deref().unwrap_or(&settings.group_id));
        let contexts = [topic_recreation::DEBUG_CONTEXT, commit::responses::DEBUG_CONTEXTS];
        let debug = log_bridge::debug(&config, &contexts.join(","));
        config
            .set("debug", debug)
            // The new id of a recreated topic, and the responses to commits, are logged at this level.
            .set_log_level(RDKafkaLogLevel::Debug)
            .set("group.id", &settings.group_id)
            // KIP-848 ends in a fatal error after a lost membership, where the classic protocol rejoins.
            .set("group.protocol", "classic")
            // Members keep the partitions that do not move, and continue during a rebalance.
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set(
                "session.timeout.ms",
                membership.session_timeout.as_millis().to_string(),
            )
            .set(
                "heartbeat.interval.ms",
                membership.heartbeat_interval.as_millis().to_string(),
            )
            // Offsets are committed by the programs alone, when records are final.
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A lost position is an error for an operator, never a silent jump.
            .set("auto.offset.reset", "error")
            // A record of an aborted transaction must not be processed.
            .set("isolation.level", "read_committed")
            // A batch that the disk or the network has changed is an error, not a gap.
            .set("check.crcs", "true")
            .set(
                "queued.max.messages.kbytes",
                membership.prefetch_kib_max.to_string(),
            )
            // Fetches ahead up to this many records, of all partitions together, within the limit in KiB above: small
            // records take several times their size. The default is 100,000.
            .set("queued.min.messages", "20000")
            // A broker without new records responds after this time, which also bounds the delay until a
            // resumed partition is fetched again.
            .set("fetch.wait.max.ms", "100")
            // With the default a consumer whose queue was full does not fetch for a second.
            .set("fetch.queue.backoff.ms", "5");
        let is_fetch_size_set = ["fetch.message.max.bytes", "max.partition.fetch.bytes"]
            .iter()
            .any(|name| config.get(name).is_some());
        if !is_fetch_size_set {
            // A response is allocated whole. Of many partitions with the default of 1 MiB it would be so large that the
            // allocator gives its memory back to the system each time, and gets it again page by page.
            config.set("fetch.message.max.bytes", "262144");
        }
        if let Some(id) = &membership.instance_id {
            config.set("group.instance.id", id);
        }
        let failed = |error| {
            let attempted = format!("joining group {:?} for topic {topic:?}", settings.group_id);
            ClientError::new(attempted, error)
        };
        let inner: BaseConsumer<RebalanceQueue> = config
            .create_with_context(RebalanceQueue::new(topic))
            .map_err(failed)?;
        inner.subscribe(&[topic]).map_err(failed)?;
        // SAFETY: `Consumer` drops the queue before the client.
        let log = unsafe { LogQueue::of(inner.client()) };
        Ok(Self {
            log,
            records: None,
            batches: AtomicU64::new(0),
            commit_responses: OffsetCommitResponses::default(),
            inner: DroppedWithin::new(inner, LEAVE_MAX, NOT_LEFT),
            topic: topic.to_owned(),
            group_id: settings.group_id.clone(),
            next: Mutex::default(),
            uncompleted: Mutex::default(),
        })
    }
}
