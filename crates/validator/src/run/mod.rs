//! The run loop: next event, ask the state machine, do the actions. One thread owns consumer, producer
//! and stores.

mod fenced;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::bail;
use crossbeam_channel::Receiver;
use kafka::admin::Admin;
use kafka::error::{ClientError, ErrorClass};
use kafka::{Consumer, ConsumerEvent, Headers};
use membership::{GroupHealth, GroupMember, MemberSettings};
use pipeline::admission::{Action, Admission, Event, Input, Membership, PartitionState, Taken};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::message::{BorrowedMessage, Message};
use records::{Offset, Partition, Timestamp};
use service::{Health, Shutdown};
use store::StateDirectory;

use crate::cluster_monitor::{self, Noticed};
use crate::config::Config;
use crate::effects::perform::{Bound, Shell};
use crate::metrics::Metrics;
use crate::queries::{self, Query};
use crate::restore::{Outcome, Restored, Restorers};
use crate::topics::{self, Topics};

/// The longest sound turn of the loop: a commit and the opening of a producer, each at their limits.
const TICK_WAIT_MAX: Duration = Duration::from_secs(60);

/// A commit and the closing of stores and clients take a second or two; supervisors kill after 30 s.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(25);

/// Runs until asked to leave.
///
/// # Errors
/// The program cannot start, or cannot go on; says what to do.
pub(crate) fn run(config: &Config, shutdown: &Shutdown) -> anyhow::Result<()> {
    let health = Health::new(TICK_WAIT_MAX);
    let directory = Arc::new(StateDirectory::lock(&config.store.dir)?);
    let Topics {
        partitions,
        record_bytes_max,
        ids,
    } = topics::check(config)?;
    directory.claim(&format!(
        "{} and {} with {partitions} partitions",
        config.topics.orders, config.topics.changelog
    ))?;
    directory.claim_ids(&ids)?;

    let mut registry = service::metrics::registry("validator", env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::register(&mut registry);
    let group_health = GroupHealth::register(&mut registry, &health);
    let (route, queries) = queries::route();
    service::admin::spawn_thread(config.admin.listen, Arc::new(registry), health.clone(), route)?;

    let admin = Arc::new(Admin::connect(&config.kafka, &config.validator.instance_id)?);
    let noticed = cluster_monitor::watch(Arc::clone(&admin), ids.clone(), partitions, &health)?;
    let member = GroupMember::watch(member_settings(config), Arc::clone(&admin), group_health)?;
    let restorers = Restorers::start(config, partitions, ids, &admin, &directory, &metrics)?;
    let mut consumer = join(config)?;
    let rules = config.rules(partitions, record_bytes_max)?;
    let admission = Admission::new(rules, config.limits(), Instant::now());
    let shell = Shell {
        config: config.clone(),
        metrics,
        directory,
        stores: [].into(),
        restorers,
        producer: None,
        transaction_orders: 0,
        left: false,
    };
    tracing::info!(
        instance_id = config.validator.instance_id,
        group = config.kafka.group_id,
        partitions,
        "validator started",
    );
    let mut run = Loop {
        is_assigned: false,
        noticed,
        member,
        partitions,
        admission,
        shell,
        queries,
        health: &health,
        persist_next: 0,
        persist_at: Instant::now(),
    };
    run.tell_unassigned();
    health.set_ready(Health::STARTED);
    while let Err(error) = run.turn_until_left(&consumer, shutdown) {
        let error = fencing_error(error)?;
        run.release_all(consumer, &error)?;
        if !run.await_instance_id(shutdown)? {
            tracing::info!("validator stopped");
            return Ok(());
        }
        consumer = join(config)?;
        run.member.report_rejoined();
    }
    consumer.leave();
    tracing::info!("validator left");
    Ok(())
}

fn join(config: &Config) -> Result<Consumer, ClientError> {
    Consumer::join(&config.kafka, &config.membership(), &config.topics.orders)
}

fn member_settings(config: &Config) -> MemberSettings {
    MemberSettings {
        program: "validator",
        kafka: config.kafka.clone(),
        instance_id: config.validator.instance_id.clone(),
        topic: config.topics.orders.clone(),
        unused_topic: config.topics.changelog.clone(),
        session_timeout: config.validator.session_timeout,
        // A revoked partition is released once the open transaction has ended.
        revoke_timeout: config.validator.commit_timeout,
    }
}

pub(crate) struct Loop<'a> {
    /// Whether the group has told of an assignment, perhaps of none.
    is_assigned: bool,
    noticed: Arc<Noticed>,
    member: GroupMember,
    /// How many the orders topic had at the start.
    partitions: usize,
    admission: Admission<Bound>,
    pub(crate) shell: Shell,
    queries: Receiver<Query>,
    pub(crate) health: &'a Health,
    /// Which store is made durable next, and when: one after the other, so that no turn waits for all.
    persist_next: usize,
    persist_at: Instant,
}

impl Loop<'_> {
    fn turn_until_left(&mut self, consumer: &Consumer, shutdown: &Shutdown) -> anyhow::Result<()> {
        while !self.shell.left {
            self.health.tick();
            if shutdown.is_requested() {
                self.tell(consumer, Event::Stop)?;
                tracing::info!("drained; closing the clients");
                break;
            }
            while let Some(restored) = self.shell.restorers.finished() {
                self.restored(consumer, restored)?;
            }
            self.heed_topics(consumer)?;
            if self.shell.restorers.has_news() {
                self.tell_health();
            }
            self.persist(consumer)?;
            self.answer();
            // Many records for each look at all the rest, which costs as much as a record.
            for _ in 0..RECORDS_PER_TURN {
                let mut now = Instant::now();
                if self.admission.due().is_some_and(|due| due <= now) {
                    self.tell(consumer, Event::Tick)?;
                    // Ending a transaction takes a while; the next one begins after it, not before.
                    now = Instant::now();
                }
                let wait = self
                    .admission
                    .due()
                    .map_or(POLL_MAX, |due| due.saturating_duration_since(now));
                let wait = wait.clamp(POLL_MIN, POLL_MAX);
                if !self.poll(consumer, wait, now)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Acts on what was noticed of the topics since the last turn.
    fn heed_topics(&mut self, consumer: &Consumer) -> anyhow::Result<()> {
        if self.noticed.recreated.swap(false, Ordering::AcqRel) {
            tracing::error!(
                "a topic was deleted and created again; nothing is processed until it was looked at"
            );
            self.tell(consumer, Event::Failed)?;
        }
        match self.noticed.grown_to.load(Ordering::Acquire) {
            0 => Ok(()),
            grown_to => bail!("{}", self.grown(grown_to)),
        }
    }

    /// A key's partition follows from their number, so that with another one no partition can be trusted, neither the
    /// new ones nor the old ones.
    fn grown(&self, grown_to: usize) -> String {
        format!(
            "{} and {} had {} partitions when this validator started, and one of them has {grown_to} now: keys are spread \
             over the partitions in another way, and an order that was admitted on its old partition is not known on its \
             new one. Stop the producers; the next start says what to do",
            self.shell.config.topics.orders, self.shell.config.topics.changelog, self.partitions,
        )
    }

    /// Waits for what Kafka brings. `false` if nothing came, or something other than a record.
    fn poll(&mut self, consumer: &Consumer, wait: Duration, now: Instant) -> anyhow::Result<bool> {
        let event = match consumer.poll(wait) {
            Ok(Some(ConsumerEvent::Record(record))) => {
                self.record(consumer, &record, now)?;
                return Ok(true);
            }
            Ok(Some(ConsumerEvent::Assigned {
                partitions,
                metadata,
                member_id,
            })) => {
                let behind = partitions
                    .iter()
                    .filter_map(|partition| usize::try_from(partition.0 + 1).ok())
                    .max();
                if let Some(grown_to) = behind.filter(|behind| *behind > self.partitions) {
                    bail!("{}", self.grown(grown_to));
                }
                tracing::info!(?partitions, member_id, "partitions assigned");
                self.is_assigned = true;
                self.member.set_id(&member_id);
                Event::Assigned(partitions, membership(member_id, metadata))
            }
            Ok(Some(ConsumerEvent::Revoked {
                partitions,
                metadata,
                member_id,
            })) => {
                tracing::info!(?partitions, member_id, "partitions revoked");
                self.member.set_id(&member_id);
                Event::Revoked(partitions, membership(member_id, metadata))
            }
            Ok(Some(ConsumerEvent::Lost { partitions })) => {
                tracing::warn!(
                    ?partitions,
                    "partitions lost: the group took this validator for dead"
                );
                Event::Lost(partitions)
            }
            Ok(None) => return Ok(false),
            Err(fault) if fault.is_out_of_range() => {
                // It is not said of which partition. Each one's restore compares its offset with what there is; of
                // those that have lost nothing none is refused.
                tracing::error!(error = %fault, "orders may have been deleted before they were processed; looking");
                Event::Failed
            }
            Err(fault) => return self.poll_failed(fault).map(|()| false),
        };
        self.tell(consumer, event)?;
        Ok(false)
    }

    fn poll_failed(&mut self, fault: ClientError) -> anyhow::Result<()> {
        match fault.class {
            ErrorClass::Fenced => Err(fault.into()),
            ErrorClass::Fatal | ErrorClass::Permanent => bail!("{fault}; the validator cannot go on"),
            ErrorClass::Retriable | ErrorClass::Abortable => {
                tracing::warn!(error = %fault, "reading the orders is tried again");
                Ok(())
            }
        }
    }

    fn record(
        &mut self,
        consumer: &Consumer,
        record: &BorrowedMessage<'_>,
        now: Instant,
    ) -> anyhow::Result<()> {
        let partition = Partition(record.partition());
        let headers = Headers::of(record);
        let input = Input {
            partition,
            offset: Offset(record.offset()),
            key: record.key(),
            value: record.payload(),
            headers: &headers.readable,
            unreadable_header: headers.unreadable,
        };
        let stores = &self.shell.stores;
        let taken = self.admission.admit(&input, Timestamp::now(), now, |key| {
            // A running partition has its store; without it nothing may be decided.
            stores
                .get(&partition)
                .map_or_else(|| Err(None), |store| store.get(key).map_err(Some))
        });
        let event = match taken {
            Ok(Taken::NotRunning) => return Ok(()),
            Ok(Taken::Decided { verdict, begins }) => {
                match self.shell.send(record, &headers.readable, &verdict, begins) {
                    Ok(()) => return Ok(()),
                    Err(fault) => {
                        tracing::warn!(error = %fault, "the transaction is aborted, and its orders are read again");
                        Event::Failed
                    }
                }
            }
            Err(error) => {
                let error = error.map_or("it is not open".to_owned(), |error| error.to_string());
                tracing::error!(%partition, error, "the store failed and is rebuilt from the changelog");
                Event::StoreFailed(partition)
            }
        };
        self.tell(consumer, event)
    }

    fn restored(&mut self, consumer: &Consumer, restored: Restored) -> anyhow::Result<()> {
        let Restored {
            partition,
            token,
            outcome,
        } = restored;
        // A store of a restore that is no longer wanted is closed here, by being dropped.
        let wanted = self.admission.partitions().get(&partition) == Some(&PartitionState::Restoring(token));
        let event = match outcome {
            Outcome::Ready(store, next) if wanted => {
                self.shell.stores.insert(partition, store);
                Event::Restored(partition, token, next)
            }
            Outcome::Refused(reason) if wanted => {
                tracing::error!(%partition, reason, "partition refused: it stands still until a person has acted");
                Event::RestoreRefused(partition, token, reason)
            }
            Outcome::Ready(..) | Outcome::Refused(_) | Outcome::Cancelled => return Ok(()),
        };
        self.tell(consumer, event)
    }

    /// Tells the machine what happened, and does what it asks for: in its order, but what comes of an
    /// action comes before the next one.
    pub(crate) fn tell(&mut self, consumer: &Consumer, event: Event<Bound>) -> anyhow::Result<()> {
        let mut actions: VecDeque<Action<Bound>> = self.admission.on(event, Instant::now()).into();
        while let Some(action) = actions.pop_front() {
            if let Some(event) = self.shell.perform(consumer, action)? {
                for action in self.admission.on(event, Instant::now()).into_iter().rev() {
                    actions.push_front(action);
                }
            }
        }
        self.tell_health();
        Ok(())
    }

    /// Without an assignment nothing is known of any partition; then it is known that there is none.
    pub(crate) fn tell_unassigned(&mut self) {
        self.is_assigned = false;
        self.health
            .set_unready(PARTITIONS, "the group has not assigned any partitions yet");
    }

    fn tell_health(&self) {
        if !self.is_assigned {
            return;
        }
        let stages = self.admission.partitions();
        self.shell.metrics.stages(stages.values());
        let waiting: Vec<String> = stages
            .iter()
            .filter_map(|(partition, stage)| match stage {
                PartitionState::Running { .. } => None,
                PartitionState::AwaitsProducer => Some(format!("partition {partition} waits for a producer")),
                PartitionState::Restoring(_) => Some(match self.shell.restorers.trouble(*partition) {
                    None => format!("partition {partition} is being restored"),
                    Some(error) => format!("partition {partition} is being restored; the last try: {error}"),
                }),
                PartitionState::Refused(reason) => {
                    Some(format!("partition {partition} is refused: {reason}"))
                }
            })
            .collect();
        if waiting.is_empty() {
            self.health.set_ready(PARTITIONS);
        } else {
            self.health.set_unready(PARTITIONS, waiting.join("; "));
        }
    }

    fn persist(&mut self, consumer: &Consumer) -> anyhow::Result<()> {
        let now = Instant::now();
        let stores = self.shell.stores.len();
        if now < self.persist_at || stores == 0 {
            return Ok(());
        }
        let every = self.shell.config.store.persist_interval / u32::try_from(stores).unwrap_or(u32::MAX);
        self.persist_at = now + every;
        self.persist_next = (self.persist_next + 1) % stores;
        let Some(partition) = self.shell.stores.keys().nth(self.persist_next).copied() else {
            return Ok(());
        };
        match self.shell.persist(partition) {
            Some(event) => self.tell(consumer, event),
            None => Ok(()),
        }
    }

    pub(crate) fn answer(&self) {
        while let Ok(Query { key, answer }) = self.queries.try_recv() {
            let found = self.shell.stores.iter().find_map(|(partition, store)| {
                store.get(&key).ok().flatten().map(|entry| (*partition, entry))
            });
            // Who asked may have gone.
            let _ = answer.send(found);
        }
    }
}

/// Returns the error by which the group reports fencing.
///
/// # Errors
/// `error` itself, if it is another one.
fn fencing_error(error: anyhow::Error) -> anyhow::Result<ClientError> {
    let says_so = |fault: &ClientError| fault.class == ErrorClass::Fenced;
    if error.downcast_ref().is_some_and(says_so) {
        error.downcast()
    } else {
        Err(error)
    }
}

fn membership(member_id: String, metadata: ConsumerGroupMetadata) -> Membership<Bound> {
    Membership {
        member_id: member_id.into(),
        metadata: Arc::new(metadata),
    }
}

/// The name of the condition that each assigned partition is running.
const PARTITIONS: &str = "partitions";
const RECORDS_PER_TURN: usize = 256;
/// librdkafka waits in whole milliseconds; less would spin.
const POLL_MIN: Duration = Duration::from_millis(1);
/// How late a finished restore or a question may be seen.
const POLL_MAX: Duration = Duration::from_millis(10);
