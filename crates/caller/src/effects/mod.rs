//! Execution of the delivery's actions: one short function per action in `perform.rs`, and a file for each
//! effect whose result comes back later as a [`completion::Completion`].

pub(crate) mod await_schema;
mod commit;
pub(crate) mod completion;
mod defer;
pub(crate) mod load_offsets;
mod look_up;
mod outage;
mod panics;
mod perform;
mod publish;
mod recover_producer;
mod send;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use kafka::offsets::log_check::LogCheck;
use kafka::producer::Producer;
use kafka::{ClientError, Consumer};
use membership::GroupMember;
use pipeline::delivery::CallId;
use rdkafka::consumer::ConsumerGroupMetadata;
use records::{Offset, Partition, Position};
use service::Health;
use service::traces::Traces;
use tokio::sync::Notify;

use crate::config::Config;
use crate::effects::await_schema::OrderSchemas;
use crate::effects::completion::Completions;
use crate::effects::load_offsets::assigned::AssignedPartitions;
use crate::effects::publish::Publication;
use crate::http::{Api, SendPermit};
use crate::metrics::Metrics;
use crate::outbox::call_span::CallSpans;
use crate::outbox::deferral_txn::DeferralProducer;
use crate::outbox::policies::Policies;
use crate::outbox::wall_clock::WallClock;

/// Clients, channels and bookkeeping that the actions work with.
pub(crate) struct Shell {
    pub(crate) config: Config,
    pub(crate) api: Arc<Api>,
    pub(crate) policies: Policies,
    /// Starts the spans of calls; `None` without traces.
    pub(crate) spans: Option<CallSpans>,
    pub(crate) consumer: Arc<Consumer>,
    /// Partitions whose intake the delivery has paused.
    pub(crate) intake_paused: BTreeSet<Partition>,
    /// Schemas by which orders are read; `None` if they are read as they are.
    pub(crate) order_schemas: Option<OrderSchemas>,
    /// Checks the outbox's log at each assignment.
    pub(crate) log_check: Arc<Mutex<LogCheck>>,
    /// Wakes the run loop when the consumer has something to poll.
    pub(crate) consumer_ready: Arc<Notify>,
    pub(crate) producer: Producer,
    /// The producer has failed for good, and a new client has not proved to work yet.
    pub(crate) is_producer_unready: bool,
    /// Sending half of the run loop's channel.
    pub(crate) completions: Completions,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) member: GroupMember,
    pub(crate) wall_clock: WallClock,
    /// Permits by partition. Each request is checked against its own just before it leaves.
    pub(crate) send_permits: BTreeMap<Partition, SendPermit>,
    /// End of the ownership lease: no request leaves later.
    pub(crate) lease_until: Option<Instant>,
    /// Instant that the permits count from.
    pub(crate) epoch: Instant,
    /// Waiting calls by the end of their wait. The number keeps equal instants apart.
    pub(crate) waits: BTreeMap<(Instant, u64), CallId>,
    pub(crate) waits_started: u64,
    /// Terminal records that Kafka has not acknowledged yet, by token.
    pub(crate) publications: HashMap<usize, Publication>,
    pub(crate) publications_started: usize,
    /// Number of commits and deferrals sent. One is in flight at a time; a completion with another number
    /// belongs to an earlier membership.
    pub(crate) commits_sent: u64,
    pub(crate) deferral_producer: DeferralProducer,
    /// Group metadata of the latest generation that the loop has seen; fences deferral transactions.
    pub(crate) group_metadata: Option<Arc<ConsumerGroupMetadata>>,
    /// Partitions that are not being read, for readiness.
    pub(crate) assigned: AssignedPartitions,
    /// Another member has taken the instance id, and its owner is not known yet.
    pub(crate) is_fenced: bool,
    /// Error with which the program ends once it has drained.
    pub(crate) failure: Option<ClientError>,
    pub(crate) is_finished: bool,
}

impl Shell {
    pub(crate) fn new(
        config: &Config,
        (consumer, consumer_ready): (Consumer, Arc<Notify>),
        (producer, deferral_producer): (Producer, DeferralProducer),
        completions: Completions,
        metrics: Metrics,
        health: &Health,
        (member, traces, order_schemas): (GroupMember, Option<Traces>, Option<OrderSchemas>),
    ) -> anyhow::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            api: Arc::new(Api::new(&config.api)?.with_look_ups(&config.verify, &config.api)?),
            policies: Policies::new(config),
            spans: traces.map(|traces| CallSpans::new(traces, config)),
            config: config.clone(),
            consumer: Arc::new(consumer),
            intake_paused: BTreeSet::new(),
            order_schemas,
            log_check: load_offsets::open_log_check(config)?,
            consumer_ready,
            producer,
            is_producer_unready: false,
            completions,
            metrics,
            health: health.clone(),
            member,
            wall_clock: WallClock::new(now),
            send_permits: BTreeMap::new(),
            lease_until: None,
            epoch: now,
            waits: BTreeMap::new(),
            waits_started: 0,
            publications: HashMap::new(),
            publications_started: 0,
            commits_sent: 0,
            deferral_producer,
            group_metadata: None,
            assigned: AssignedPartitions::default(),
            is_fenced: false,
            failure: None,
            is_finished: false,
        })
    }

    pub(crate) fn position(&self, call: CallId) -> Position {
        self.position_at(call.partition, call.offset)
    }

    pub(crate) fn position_at(&self, partition: Partition, offset: Offset) -> Position {
        Position {
            topic: self.config.topics.pending.clone(),
            partition,
            offset,
        }
    }
}

/// Joins the group. The returned notify wakes the run loop when there is something to poll.
pub(crate) fn join(config: &Config) -> Result<(Consumer, Arc<Notify>), ClientError> {
    let mut consumer = Consumer::join(&config.kafka, &config.membership(), &config.topics.pending)?;
    let ready = Arc::new(Notify::new());
    consumer.on_ready({
        let ready = Arc::clone(&ready);
        move || ready.notify_one()
    });
    Ok((consumer, ready))
}

/// Returns the bare partition numbers, for log fields.
pub(crate) fn numbers(partitions: &[Partition]) -> Vec<i32> {
    partitions.iter().map(|partition| partition.0).collect()
}
