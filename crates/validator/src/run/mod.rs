//! Run loop: take the next event, ask the admission, perform its actions. One thread owns consumer, producer
//! and stores.

mod consumer_events;
mod fenced;
mod forgetting;
mod readiness;
mod schema_waits;
mod topic_changes;
mod unused_stores;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use kafka::Consumer;
use kafka::admin::Admin;
use kafka::error::ClientError;
use membership::{GroupHealth, GroupMember, MemberSettings};
use pipeline::admission::{Action, Admission, Event, OrdersLag, PartitionState, Window};
use records::{Offset, Partition, Timestamp};
use registry::{EndsWait, Registry, RegistryMetrics};
use schemas::{Answer, SchemaId};
use service::failpoint::guard_removed;
use service::status::{self, Identity, WorkReport};
use service::traces::{FlushOnDrop, Traces, TracesMetrics};
use service::{Health, Shutdown};
use store::StateDirectory;

use crate::changelog_deletions::ChangelogDeletions;
use crate::cluster_monitor::{self, TopicChanges};
use crate::config::Config;
use crate::effects::{Fence, OrderSpans, Shell};
use crate::metrics::Metrics;
use crate::queries::{self, Query};
use crate::restore::{LostValidators, OpenTransactions, Outcome, Restored, Restorers};
use crate::topics::{self, Topics};

/// Maximum time between two turns of a healthy loop, for the watchdog: more than a commit and the opening of
/// a producer take together, each at its default timeout.
const TICK_WAIT_MAX: Duration = Duration::from_secs(60);

/// Timeout of the drain after a shutdown request. Supervisors kill after 30 s; a commit and the closing of
/// stores and clients take a second or two.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// Minimum wait for a record: librdkafka truncates to whole milliseconds, so less would spin.
const POLL_MIN: Duration = Duration::from_millis(1);

/// Maximum wait for a record. It bounds the delay of finished restores and queries.
const POLL_MAX: Duration = Duration::from_millis(10);

/// Runs until the shutdown is requested.
///
/// # Errors
/// The program cannot start or continue; the text says what an operator must do.
pub(crate) fn run(config: &Config, shutdown: &Shutdown) -> anyhow::Result<()> {
    let health = Health::new(TICK_WAIT_MAX);
    // The lock first: a second validator on the same directory must not get as far as the group.
    let directory = Arc::new(StateDirectory::lock(&config.store.dir)?);
    let Topics {
        partitions,
        record_bytes_max,
        record_sizes,
        dead_letter_bytes_max,
        ids,
        note,
    } = topics::check(config)?;
    // The directory remembers what the group's committed offsets remember, too. Brokers delete those with the
    // orders topic, and a week after the group's last member has left; an operator may delete them, or change
    // kafka.group_id.
    directory.claim(&format!(
        "{} and {} with {partitions} partitions",
        config.topics.orders, config.topics.changelog
    ))?;
    directory.claim_ids(&ids)?;

    let mut registry = service::metrics::registry("validator", service::VERSION);
    let metrics = Metrics::register(&mut registry);
    let group_health = GroupHealth::register(&mut registry, &health);
    let registry_metrics = RegistryMetrics::register(&mut registry);
    let (route, queries) = queries::route();
    let identity = Identity {
        program: "validator",
        version: service::VERSION,
        instance_id: config.validator.instance_id.clone(),
    };
    // Declared before whatever has spans, so that it is dropped after it.
    let traces = Traces::start(&config.traces, &identity, TracesMetrics::register(&mut registry))?;
    let _flush = FlushOnDrop(traces.clone());
    let work = WorkReport::default();
    let route = route.merge(status::route(identity, &health, &work));
    // Before the group is joined, so that readiness explains a slow start.
    service::admin::spawn_thread(&config.admin, Arc::new(registry), health.clone(), route)?;

    let admin = Arc::new(Admin::connect(&config.kafka, &config.validator.instance_id)?);
    let topic_changes = cluster_monitor::start(Arc::clone(&admin), &config.topics, ids, partitions, &health)?;
    let member = GroupMember::watch(member_settings(config), Arc::clone(&admin), group_health)?;
    // Before the group is joined, so that the restore threads are connected when partitions come.
    let open_transactions = OpenTransactions::start(LostValidators {
        config: config.clone(),
        admin: Arc::clone(&admin),
        former: member.former_members().clone(),
        record_sizes,
    })?;
    let restorers = Restorers::start(config, &note, &admin, &directory, &metrics, open_transactions)?;
    let deletions = ChangelogDeletions::start(&config.topics.changelog, note.changelog.clone(), &admin)?;
    // Bounded by the schemas that are wanted, one for each partition.
    let (answer, schema_answers) = crossbeam_channel::unbounded();
    let registry = Registry::start(
        &config.schema_registry,
        registry_metrics.clone(),
        EndsWait::AnyAnswer,
        move |id, said| {
            // The loop has ended, and so does the process.
            let _ = answer.send((id, said));
        },
    )?;
    let mut consumer = join(config)?;
    let rules = config.rules(partitions, record_bytes_max)?;
    let admission = Admission::new(rules, config.limits(), Instant::now())
        .with_refusals(config.refusals())
        .with_schemas(config.schema_registry.schemas())
        .with_retention(config.store.retention);
    let shell = Shell {
        config: config.clone(),
        metrics,
        directory,
        stores: [].into(),
        leader_epochs: [].into(),
        restorers,
        deletions,
        producer: None,
        record_sizes,
        dead_letter_bytes_max,
        note,
        transaction_orders: 0,
        spans: traces.map(|traces| OrderSpans::new(traces, config)),
        has_left: false,
    };
    tracing::info!(
        instance_id = config.validator.instance_id,
        group = config.kafka.group_id,
        partitions,
        "validator started",
    );
    let mut run = Loop {
        is_assigned: false,
        refusing: [].into(),
        topic_changes,
        member,
        partitions,
        admission,
        shell,
        queries,
        health: &health,
        work,
        persist_next: 0,
        persist_at: Instant::now(),
        markers_due: Instant::now(),
        unused_stores_due: Instant::now(),
        forgetting_due: Instant::now(),
        is_size_reported: false,
        lag: OrdersLag::default(),
        look_ups: 0,
        registry,
        registry_metrics,
        schema_answers,
        is_awaiting_schemas: false,
    };
    run.set_unassigned();
    health.set_ready(Health::STARTED);
    // Fencing alone is survived; any other error ends the program, and its restart restores everything.
    while let Err(error) = run.run_until_stopped(&consumer, shutdown) {
        let error = fenced::fencing_error(error)?;
        run.release_all(consumer, &error)?;
        if !run.await_instance_id(shutdown)? {
            tracing::info!("validator stopped");
            return Ok(());
        }
        consumer = join(config)?;
        run.member.report_rejoined();
    }
    consumer.leave();
    tracing::info!("validator stopped");
    Ok(())
}

fn join(config: &Config) -> Result<Consumer, ClientError> {
    let consumer = Consumer::join(&config.kafka, &config.membership(), &config.topics.orders)?;
    Ok(consumer.with_batches())
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

/// A reading of the clocks.
#[derive(Clone, Copy)]
struct Time {
    now: Instant,
    wall: Timestamp,
}

impl Time {
    fn now() -> Self {
        Self {
            now: Instant::now(),
            wall: wall_clock(),
        }
    }
}

/// Reads the wall clock. Tests have it a year off.
fn wall_clock() -> Timestamp {
    const YEAR_MS: i64 = 365 * 24 * 3_600_000;
    let Timestamp(now) = Timestamp::now();
    if guard_removed!("guard-clock-not-ahead") {
        return Timestamp(now + YEAR_MS);
    }
    if guard_removed!("guard-clock-not-behind") {
        return Timestamp(now - YEAR_MS);
    }
    Timestamp(now)
}

struct Loop<'a> {
    /// The group has reported an assignment, perhaps an empty one.
    is_assigned: bool,
    /// Partitions that are reported as paused for their refusals.
    refusing: BTreeSet<Partition>,
    topic_changes: Arc<TopicChanges>,
    member: GroupMember,
    /// Partition count of the orders topic at start-up.
    partitions: usize,
    admission: Admission<Fence>,
    shell: Shell,
    queries: Receiver<Query>,
    health: &'a Health,
    work: WorkReport,
    /// Index of the store that is persisted next.
    persist_next: usize,
    persist_at: Instant,
    /// Time at which transaction markers are looked for next.
    markers_due: Instant,
    /// Time at which unused stores are looked for next.
    unused_stores_due: Instant,
    /// Time at which keys to forget are looked for next.
    forgetting_due: Instant,
    /// The stores are larger than `store.size_alarm`, and the operator was asked to act.
    is_size_reported: bool,
    /// Time by which the decisions lag behind the orders.
    lag: OrdersLag,
    /// Number of look-ups of keys, of which some are measured.
    look_ups: u64,
    /// Registry of the orders' schemas; `None` if orders are read as they are.
    registry: Option<Registry>,
    registry_metrics: RegistryMetrics,
    schema_answers: Receiver<(SchemaId, Answer)>,
    /// Partitions were waiting for schemas at the last look.
    is_awaiting_schemas: bool,
}

impl Loop<'_> {
    fn run_until_stopped(&mut self, consumer: &Consumer, shutdown: &Shutdown) -> anyhow::Result<()> {
        while !self.shell.has_left {
            self.health.tick();
            // Before the clients are closed, too, which would have to complete a rebalance of the last wait.
            self.poll(consumer)?;
            if shutdown.is_requested() {
                // Ends the open transaction, so that a restart has nothing to wait for.
                self.apply(consumer, Event::Stop)?;
                tracing::info!("drained, closing the clients");
                break;
            }
            while let Some(restored) = self.shell.restorers.finished() {
                self.restored(consumer, restored)?;
            }
            self.follow_schemas(consumer)?;
            self.check_topic_changes(consumer)?;
            // Errors of restores lead to no event of their own.
            if self.shell.restorers.errors_changed() {
                self.update_readiness();
            }
            self.persist_one(consumer)?;
            self.answer_queries();
            let mut time = Time::now();
            self.remove_unused_stores(time.now);
            self.forget_old_keys(consumer, time.now)?;
            self.take_turn(consumer, &mut time)?;
        }
        Ok(())
    }

    /// Handles what is due, and the records that have come.
    fn take_turn(&mut self, consumer: &Consumer, time: &mut Time) -> anyhow::Result<()> {
        self.end_if_due(consumer, time)?;
        // Without a wait at first: that a record came within a wait says nothing of a backlog.
        let mut taken = self.take(consumer, Duration::ZERO)?;
        if taken.is_none() {
            // The queue is empty at times while the brokers have more than this validator takes.
            if !consumer.is_behind() {
                self.admission.caught_up();
            }
            *time = Time::now();
            let wait = self
                .admission
                .due()
                .map_or(POLL_MAX, |due| due.saturating_duration_since(time.now));
            if wait.is_zero() {
                return Ok(());
            }
            taken = self.take(consumer, wait.clamp(POLL_MIN, POLL_MAX))?;
            *time = Time::now();
        }
        let Some(mut records) = taken else {
            self.admission.caught_up();
            return self.pass_markers(consumer, time.now);
        };
        loop {
            self.end_if_due(consumer, time)?;
            if !self.next_record(consumer, &mut records, *time)? {
                return Ok(());
            }
        }
    }

    fn end_if_due(&mut self, consumer: &Consumer, time: &mut Time) -> anyhow::Result<()> {
        if self.admission.due().is_some_and(|due| due <= time.now) {
            self.apply(consumer, Event::Tick)?;
            // Read again: ending a transaction takes a while, and the next one must not start in the past.
            *time = Time::now();
        }
        Ok(())
    }

    fn restored(&mut self, consumer: &Consumer, restored: Restored) -> anyhow::Result<()> {
        let Restored {
            partition,
            id,
            outcome,
        } = restored;
        // The partition may have been revoked or restored again meanwhile. The store of such a restore is
        // closed here, by being dropped.
        let is_wanted = self.admission.partitions().get(&partition) == Some(&PartitionState::Restoring(id));
        let event = match outcome {
            Outcome::Ready(store, next, leader_epoch, forgotten) if is_wanted => {
                // A restore leaves a store without a checkpoint only where the changelog is empty.
                let checkpoint = store.checkpoint().unwrap_or(Offset(0));
                let window = Window::new(store.newest(), forgotten);
                self.shell.stores.insert(partition, store);
                // One of an earlier restore that never started is replaced, too.
                self.shell.leader_epochs.remove(&partition);
                self.shell
                    .leader_epochs
                    .extend(leader_epoch.map(|epoch| (partition, epoch)));
                Event::Restored {
                    partition,
                    id,
                    next,
                    checkpoint,
                    window,
                }
            }
            Outcome::Halted(reason) if is_wanted => {
                tracing::error!(%partition, reason, "partition halted, operator action required");
                Event::RestoreHalted(partition, id, reason)
            }
            Outcome::Ready(..) | Outcome::Halted(_) | Outcome::Cancelled => return Ok(()),
        };
        self.apply(consumer, event)
    }

    /// Applies an event and performs the actions that follow, in order. An event that an action leads to is
    /// applied before the next action, as the admission expects.
    fn apply(&mut self, consumer: &Consumer, event: Event<Fence>) -> anyhow::Result<()> {
        let mut actions: VecDeque<Action<Fence>> = self.admission.on(event, Instant::now()).into();
        while let Some(action) = actions.pop_front() {
            if let Some(event) = self.shell.perform(consumer, action)? {
                for action in self.admission.on(event, Instant::now()).into_iter().rev() {
                    actions.push_front(action);
                }
            }
        }
        // After the actions, which have closed the stores of revoked partitions.
        if self.is_assigned {
            let assigned = self.admission.partitions().keys();
            self.shell.restorers.set_assigned(assigned);
        }
        self.update_readiness();
        Ok(())
    }

    /// Has one store persisted, if it is time. The stores take turns within `store.persist_interval`, so that their
    /// writer is never far behind.
    fn persist_one(&mut self, consumer: &Consumer) -> anyhow::Result<()> {
        let now = Instant::now();
        let stores = self.shell.stores.len();
        if now < self.persist_at || stores == 0 {
            return Ok(());
        }
        let interval = self.shell.config.store.persist_interval / u32::try_from(stores).unwrap_or(u32::MAX);
        self.persist_at = now + interval;
        self.persist_next = (self.persist_next + 1) % stores;
        let Some(partition) = self.shell.stores.keys().nth(self.persist_next).copied() else {
            return Ok(());
        };
        match self.shell.persist_store(partition) {
            Some(event) => self.apply(consumer, event),
            None => Ok(()),
        }
    }

    fn answer_queries(&self) {
        while let Ok(Query { key, result }) = self.queries.try_recv() {
            let found = self.shell.stores.iter().find_map(|(partition, store)| {
                // A failing store counts as one without the key here; the next order finds the failure.
                store.get(&key).ok().flatten().map(|entry| (*partition, entry))
            });
            // The client may have closed its connection, or its query timed out.
            let _ = result.send(found);
        }
    }
}
