//! Run loop: take the next event, ask the delivery, perform its actions.

mod consumer_events;
mod fenced;
mod work;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kafka::admin::Admin;
use kafka::producer::{Producer, RecordSizes};
use kafka::topics::{Requirements, Role};
use membership::{GroupHealth, GroupMember, MemberSettings};
use pipeline::delivery::{Delivery, Event, NotSent, Response};
use registry::{EndsWait, Registry, RegistryMetrics};
use service::failpoint::kill_at;
use service::status::{self, Identity, WorkReport};
use service::traces::{FlushOnDrop, Traces, TracesMetrics};
use service::{Health, Shutdown};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::calls_endpoint;
use crate::config::Config;
use crate::control;
use crate::effects::await_schema::OrderSchemas;
use crate::effects::completion::{Completion, Completions};
use crate::effects::{Shell, join};
use crate::metrics::Metrics;
use crate::outbox::deferral_txn::DeferralProducer;
use crate::outbox::pending_call::PendingCall;
use crate::outbox::wall_clock::WallClock;

/// Watchdog limit between two turns of a healthy loop, also while no broker responds.
const TICK_WAIT_MAX: Duration = Duration::from_secs(30);

/// Maximum wait of one turn. The consumer wakes the loop only when its empty queue gets something; this
/// bounds the delay of whatever that misses.
const TURN_MAX: Duration = Duration::from_millis(100);

/// Minimum interval between two updates of the gauges. Prometheus scrapes every few seconds at most.
const GAUGES_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum number of consumer events, and of completions, per turn: neither may starve the other.
const EVENTS_PER_TURN: usize = 512;

/// Delay before call notes are loaded again after a failure.
const LOAD_RETRY: Duration = Duration::from_secs(1);

/// Checks the topics, and returns the sizes that those which the caller writes to accept.
///
/// # Errors
/// A topic would break a guarantee, or the cluster cannot be reached.
pub(crate) fn check_topics(config: &Config) -> anyhow::Result<RecordSizes> {
    let required = Requirements {
        topics: &config.topics,
        role: Role::Caller,
        forgets_keys: None,
        offsets_retention_minutes: None,
        unverified_brokers: &[],
        bootstrap_servers: &config.kafka.bootstrap_servers,
    };
    // Nothing but a deferral is written in a transaction.
    let defers = !config.deferral.defer_after.is_zero();
    let existing = kafka::preflight::check(&config.kafka, &config.caller.instance_id, &required, defers)?;
    // Its deferrals go to the outbox, too: the caller writes to each topic of its role but the control topic.
    let names = Role::Caller.names(&config.topics);
    let written = names.into_iter().filter(|name| *name != config.topics.control);
    Ok(RecordSizes::of(&existing, written))
}

/// Makes the calls until the shutdown is requested.
///
/// # Errors
/// The program cannot start or continue; the text says what an operator must do.
pub(crate) async fn run(
    config: &Config,
    record_sizes: RecordSizes,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let health = Health::new(TICK_WAIT_MAX);
    let mut registry = service::metrics::registry("caller", service::VERSION);
    let metrics = Metrics::register(&mut registry);
    let group_health = GroupHealth::register(&mut registry, &health);
    let registry_metrics = RegistryMetrics::register(&mut registry);
    let (sender, inbox) = unbounded_channel();
    let completions = Completions(sender);
    let queries = completions.clone();
    let route = calls_endpoint::route(move |result| queries.send(Completion::CallsQuery(result)));
    let identity = Identity {
        program: "caller",
        version: service::VERSION,
        instance_id: config.caller.instance_id.clone(),
    };
    // Declared before whatever has spans, so that it is dropped after it.
    let traces = Traces::start(&config.traces, &identity, TracesMetrics::register(&mut registry))?;
    let _flush = FlushOnDrop(traces.clone());
    let work = WorkReport::default();
    let route = route.merge(status::route(identity, &health, &work));
    // Before anything that waits for the brokers, so that readiness shows what the start waits for.
    service::admin::serve(&config.admin, Arc::new(registry), health.clone(), route).await?;

    let admin = tokio::task::spawn_blocking({
        let (kafka, name) = (config.kafka.clone(), config.caller.instance_id.clone());
        move || Admin::connect(&kafka, &name)
    });
    control::follow(config, completions.clone())?;
    let reports = completions.clone();
    let producer = Producer::open(
        &config.kafka,
        &config.caller.instance_id,
        config.caller.publish_timeout,
        record_sizes,
        move |(token, result)| reports.send(Completion::Published { token, result }),
    )?;
    let answers = completions.clone();
    let registry = Registry::start(
        &config.schema_registry,
        registry_metrics.clone(),
        // A dead letter for each admitted order would empty the outbox into them, if a registry came back without its
        // schemas.
        EndsWait::Schema,
        move |id, answer| {
            answers.send(Completion::Schema(id, answer));
        },
    )?;
    let order_schemas = registry
        .zip(config.schema_registry.schemas())
        .map(|(registry, schemas)| OrderSchemas::new(registry, schemas, registry_metrics));
    let consumer = join(config)?;
    let admin = Arc::new(admin.await.context("connecting the admin client")??);
    let member = GroupMember::watch(member_settings(config), admin, group_health)?;
    // Opened when first needed: most callers never defer, and opening fences an earlier producer.
    let deferral_producer = DeferralProducer::new(config, record_sizes, WallClock::new(Instant::now()));
    let producers = (producer, deferral_producer);
    let shell = Shell::new(
        config,
        consumer,
        producers,
        completions,
        metrics,
        &health,
        (member, traces, order_schemas),
    )?;
    shell.update_readiness();
    tracing::info!(
        instance_id = config.caller.instance_id,
        group = config.kafka.group_id,
        url = config.api.url_without_query(),
        "caller started"
    );
    health.set_ready(Health::STARTED);
    let delivery = Delivery::new(
        config.limits(),
        config.api.responses.classifier()?,
        config.verify.verify(&config.api)?,
    )
    .with_flow_control(config.flow_control());
    let mut shell = Loop {
        delivery,
        shell,
        inbox,
        work,
        gauges_set_at: None,
        markers_due: None,
        is_resolving_id: false,
    }
    .run_until_stopped(&health, shutdown)
    .await?;

    let failure = shell.failure.take();
    // Dropping the consumer leaves the group and blocks on the brokers.
    tokio::task::spawn_blocking(move || drop(shell))
        .await
        .context("leaving the group")?;
    tracing::info!("caller stopped");
    failure.map_or(Ok(()), |error| Err(error.into()))
}

fn member_settings(config: &Config) -> MemberSettings {
    MemberSettings {
        program: "caller",
        kafka: config.kafka.clone(),
        instance_id: config.caller.instance_id.clone(),
        topic: config.topics.pending.clone(),
        unused_topic: config.topics.processed.clone(),
        session_timeout: config.caller.session_timeout,
        // A revoked partition is released once its calls in flight are final.
        revoke_timeout: config.caller.drain_timeout,
    }
}

struct Loop {
    delivery: Delivery<PendingCall>,
    shell: Shell,
    inbox: UnboundedReceiver<Completion>,
    work: WorkReport,
    gauges_set_at: Option<Instant>,
    /// Time at which transaction markers are looked for next.
    markers_due: Option<Instant>,
    /// The owner of the instance id is being looked for.
    is_resolving_id: bool,
}

impl Loop {
    async fn run_until_stopped(mut self, health: &Health, shutdown: &Shutdown) -> anyhow::Result<Shell> {
        let mut is_stopping = false;
        // Until the control topic is read: an operator may have paused the calls.
        self.shell.control_unknown();
        self.apply(Event::Paused(true))?;
        // Poll once before the first wait: the consumer signals only the change from empty to not empty, and
        // that may have happened before the loop started.
        let mut has_more = true;
        while !self.shell.is_finished {
            health.tick();
            let ready = Arc::clone(&self.shell.consumer_ready);
            let next = if has_more {
                Instant::now()
            } else {
                self.next_turn()
            };
            let first = tokio::select! {
                // Once: `Stop` starts the drain, and the request stays set.
                () = shutdown.requested(), if !is_stopping => {
                    is_stopping = true;
                    self.apply(Event::Stop)?;
                    None
                }
                first = self.inbox.recv() => first,
                () = ready.notified() => None,
                () = tokio::time::sleep_until(next.into()) => None,
            };
            // The consumer first: a commit that has just ended may belong to a membership that is over.
            has_more = self.poll()?;
            if !has_more {
                self.pass_markers()?;
            }
            self.handle_completions(first)?;
            self.handle_timers()?;
            self.shell.recover_producer()?;
            if let Some(event) = self.shell.deferrals_refused() {
                self.apply(event)?;
            }
            self.resolve_instance_id(shutdown);
            self.set_gauges();
        }
        Ok(self.shell)
    }

    fn set_gauges(&mut self) {
        let now = Instant::now();
        // Counting walks all open calls, so it would dominate short turns.
        if self.gauges_set_at.is_none_or(|at| now >= at + GAUGES_INTERVAL) {
            let since = self.gauges_set_at.replace(now);
            let passed = since.map_or(Duration::ZERO, |at| now.duration_since(at));
            self.shell.metrics.bounded_by(self.delivery.bound(now), passed);
            self.shell.follow_schema_waits();
            let gauges = self.delivery.gauges();
            self.shell.metrics.set_gauges(&gauges);
            let partitions = self.delivery.partitions();
            self.work
                .set(work::of(gauges.breaker, partitions, &self.shell.assigned));
        }
    }

    fn next_turn(&self) -> Instant {
        let now = Instant::now();
        let wake = self
            .delivery
            .wake_at(now)
            .into_iter()
            .chain(self.shell.next_wait());
        wake.fold(now + TURN_MAX, Instant::min)
    }

    fn handle_completions(&mut self, first: Option<Completion>) -> anyhow::Result<()> {
        if let Some(first) = first {
            self.handle_completion(first)?;
        }
        for _ in 0..EVENTS_PER_TURN {
            match self.inbox.try_recv() {
                Ok(completion) => self.handle_completion(completion)?,
                // Empty. It cannot be closed: the shell has a sender.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Applies elapsed waits of calls, and the delivery's own timer.
    fn handle_timers(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        while let Some(call) = self.shell.pop_elapsed_wait(now) {
            self.apply(Event::WaitElapsed(call))?;
        }
        match self.delivery.wake_at(now) {
            Some(at) if at <= now => self.apply(Event::Tick),
            Some(_) | None => Ok(()),
        }
    }

    fn handle_completion(&mut self, completion: Completion) -> anyhow::Result<()> {
        match completion {
            Completion::Response {
                call,
                response,
                repeats,
                took,
            } => {
                kill_at!("after-response");
                let classified = self.delivery.classify(response);
                let (response, summary) = (classified.response(), classified.summary());
                self.shell.metrics.request_finished(response, summary.class, took);
                match repeats {
                    // A repetition that did not leave has repeated nothing.
                    Some(ambiguity) if !matches!(response, Response::NotSent(_)) => {
                        self.shell.metrics.request_repeated(ambiguity);
                    }
                    Some(_) | None => {}
                }
                if !self.delivery.awaits(call) && *response != Response::NotSent(NotSent::Withheld) {
                    tracing::warn!(
                        position = %self.shell.position(call), class = summary.class.as_str(),
                        kind = summary.kind, status = summary.status,
                        "response after the partition was released, counts only if the partition comes back"
                    );
                }
                self.apply(Event::ResponseReceived {
                    call,
                    response: classified,
                })
            }
            Completion::LookUp { call, response, took } => {
                let response = self.delivery.classify_look_up(response);
                self.shell
                    .looked_up(call, response.response(), response.result(), took);
                self.apply(Event::LookedUp { call, response })
            }
            Completion::Committed {
                number,
                response,
                took,
            } => match self.shell.committed(number, response, took)? {
                Some(result) => self.apply(Event::Committed(result)),
                None => Ok(()),
            },
            Completion::Deferred {
                number,
                result,
                calls,
                took,
            } => match self.shell.deferred(number, result, calls, took) {
                Some(result) => self.apply(Event::Committed(result)),
                None => Ok(()),
            },
            Completion::Published { token, result } => match self.shell.published(token, result) {
                Some(event) => self.apply(event),
                None => Ok(()),
            },
            Completion::NotesLoaded {
                assignment,
                partition,
                loaded,
            } => self.apply(Event::NotesLoaded {
                assignment,
                partition,
                loaded,
            }),
            Completion::NotesNotLoaded {
                assignment,
                mut failed,
            } => {
                failed.retain(|(partition, _)| self.delivery.wants_notes(assignment, *partition));
                // A transaction that an earlier run of this instance left open withholds the offsets. Opening
                // the producer ends it now rather than after its timeout.
                if !self.shell.config.deferral.defer_after.is_zero() {
                    self.shell.deferral_producer.open_if_closed();
                }
                self.shell.load_again(assignment, failed, LOAD_RETRY);
                Ok(())
            }
            Completion::Schema(id, answer) => match self.shell.schema_answered(id, answer) {
                Some(event) => self.apply(event),
                None => Ok(()),
            },
            Completion::Control(control) => match self.shell.control(control) {
                Some(is_paused) => self.apply(Event::Paused(is_paused)),
                None => Ok(()),
            },
            Completion::InstanceIdResolved(resolved) => self.on_instance_id_resolved(resolved),
            Completion::CallsQuery(result) => {
                let topic = &self.shell.config.topics.pending;
                // The client may have closed its connection meanwhile.
                drop(result.send(calls_endpoint::view(&self.delivery, topic, Instant::now())));
                Ok(())
            }
        }
    }

    /// Applies an event, and the events that its actions lead to, until none follows.
    fn apply(&mut self, event: Event<PendingCall>) -> anyhow::Result<()> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.delivery.on(event, Instant::now()) {
                events.extend(self.shell.perform(action)?);
            }
        }
        Ok(())
    }
}
