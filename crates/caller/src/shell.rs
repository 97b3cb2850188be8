//! What the actions work with: the consumer and the producer, the API, and what is under way between them
//! and the loop.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use kafka::producer::Producer;
use kafka::{ClientError, Consumer};
use pipeline::delivery::CallId;
use rdkafka::consumer::ConsumerGroupMetadata;
use records::call_dead_letter::Reason;
use records::parked;
use records::{Offset, Partition, Position};
use service::Health;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::arrived::Arrived;
use crate::config::Config;
use crate::deferrals::Deferrals;
use crate::ends::Calendar;
use crate::http::Api;
use crate::job::Job;
use crate::latch::ExtendLease;
use crate::metrics::Metrics;
use crate::policies::Policies;

/// Everything that the actions need.
pub(crate) struct Shell {
    pub(crate) config: Config,
    pub(crate) api: Arc<Api>,
    pub(crate) policies: Policies,
    pub(crate) consumer: Arc<Consumer>,
    pub(crate) ready: Arc<Notify>,
    pub(crate) producer: Producer,
    pub(crate) inbox: UnboundedSender<Arrived>,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) calendar: Calendar,
    pub(crate) permits: BTreeMap<Partition, ExtendLease>,
    pub(crate) permitted_until: Option<Instant>,
    pub(crate) epoch: Instant,
    pub(crate) waits: BTreeMap<(Instant, u64), CallId>,
    pub(crate) waits_begun: u64,
    pub(crate) publications: HashMap<usize, Publication>,
    pub(crate) publications_begun: usize,
    /// Commits and deferrals, of which one is in flight at a time.
    pub(crate) commits_sent: u64,
    pub(crate) deferrals: Deferrals,
    /// The membership as of the generation that the loop has heard of last, for deferrals.
    pub(crate) group_metadata: Option<Arc<ConsumerGroupMetadata>>,
    pub(crate) refused: BTreeMap<Partition, String>,
    /// Another member has taken our instance id, and it is not known yet whose it is.
    pub(crate) is_fenced: bool,
    pub(crate) is_finished: bool,
}

/// A record on its way to Kafka.
pub(crate) struct Publication {
    pub(crate) call: CallId,
    pub(crate) job: Arc<Job>,
    /// What kind of end it tells.
    pub(crate) told: ToldEnd,
}

/// What kind of end a record tells.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ToldEnd {
    Outcome,
    DeadLetter(Reason),
    Parked(parked::Reason),
}

impl Shell {
    pub(crate) fn new(
        config: &Config,
        (consumer, ready): (Consumer, Arc<Notify>),
        producer: Producer,
        inbox: UnboundedSender<Arrived>,
        metrics: Metrics,
        health: &Health,
    ) -> anyhow::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            api: Arc::new(Api::new(&config.api)?.with_look_ups(&config.verify, &config.api)?),
            policies: Policies::new(config),
            config: config.clone(),
            consumer: Arc::new(consumer),
            ready,
            producer,
            inbox,
            metrics,
            health: health.clone(),
            calendar: Calendar::new(now),
            permits: BTreeMap::new(),
            permitted_until: None,
            epoch: now,
            waits: BTreeMap::new(),
            waits_begun: 0,
            publications: HashMap::new(),
            publications_begun: 0,
            commits_sent: 0,
            deferrals: Deferrals::new(config, Calendar::new(now)),
            group_metadata: None,
            refused: BTreeMap::new(),
            is_fenced: false,
            is_finished: false,
        })
    }

    pub(crate) fn position(&self, call: CallId) -> Position {
        self.place(call.partition, call.offset)
    }

    pub(crate) fn place(&self, partition: Partition, offset: Offset) -> Position {
        Position {
            topic: self.config.topics.pending.clone(),
            partition,
            offset,
        }
    }
}

/// Joins the group; the notify wakes the loop when there is something to poll.
pub(crate) fn join(config: &Config) -> Result<(Consumer, Arc<Notify>), ClientError> {
    let mut consumer = Consumer::join(&config.kafka, &config.membership(), &config.topics.pending)?;
    let ready = Arc::new(Notify::new());
    consumer.on_ready({
        let ready = Arc::clone(&ready);
        move || ready.notify_one()
    });
    Ok((consumer, ready))
}

pub(crate) fn numbers(partitions: &[Partition]) -> Vec<i32> {
    partitions.iter().map(|partition| partition.0).collect()
}
