//! The run loop: what happens next, what the pipeline says to it, and do that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kafka::ConsumerEvent;
use kafka::admin::Admin;
use kafka::error::ErrorClass;
use kafka::group_watch::MemberId;
use kafka::producer::Producer;
use kafka::topics::{Required, Role};
use pipeline::delivery::{Delivery, Event, NotSent, Response};
use service::failpoint::kill_at;
use service::{GroupHealth, Health, Shutdown};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::arrived::Arrived;
use crate::calls;
use crate::config::Config;
use crate::group;
use crate::job::Job;
use crate::metrics::Metrics;
use crate::shell::{Shell, join, numbers};

/// A sound loop turns at least this often, also while the brokers do not answer.
pub(crate) const TICK_WAIT_MAX: Duration = Duration::from_secs(30);

/// The loop turns at least this often, whatever it waits for: the consumer wakes it only for what comes
/// when there is nothing else left to poll.
const TURN_MAX: Duration = Duration::from_millis(100);

/// So old may the gauges be, beside the time of a turn; they are read every few seconds at most.
const GAUGES_EVERY: Duration = Duration::from_millis(100);

/// So often in a row the consumer may have nothing until it is believed.
const NOTHING_MAX: u32 = 8;

/// So many happenings of the consumer are taken in one turn, and so many of everything else.
const PER_TURN: usize = 512;

/// How long an assignment waits before its notes are asked for again.
const LOAD_AGAIN: Duration = Duration::from_secs(1);

/// Checks the topics, and says what is wrong with them.
///
/// # Errors
/// A topic breaks a guarantee, or the cluster cannot be reached.
pub(crate) fn check_topics(config: &Config) -> anyhow::Result<()> {
    let required = Required {
        topics: &config.topics,
        role: Role::Caller,
        partitions_remembered: None,
        bootstrap_servers: &config.kafka.bootstrap_servers,
    };
    kafka::preflight::check(&config.kafka, &config.caller.instance_id, &required)?;
    Ok(())
}

/// Makes the calls until the program is asked to end.
///
/// # Errors
/// The program cannot go on, and a person must look.
pub(crate) async fn run(config: &Config, health: &Health, shutdown: &Shutdown) -> anyhow::Result<()> {
    let mut registry = service::metrics::registry("caller", env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::register(&mut registry);
    let group_health = GroupHealth::register(&mut registry, health);
    let (sender, inbox) = unbounded_channel();
    let questions = sender.clone();
    // Where the loop is gone the question is dropped, which tells the one who asked.
    let route = calls::route(move |answer| drop(questions.send(Arrived::Calls(answer))));
    service::admin::serve(config.admin.listen, Arc::new(registry), health.clone(), route).await?;

    let admin = tokio::task::spawn_blocking({
        let (kafka, name) = (config.kafka.clone(), config.caller.instance_id.clone());
        move || Admin::connect(&kafka, &name)
    });

    let reports = sender.clone();
    let producer = Producer::open(
        &config.kafka,
        &config.caller.instance_id,
        config.caller.publish_timeout,
        // The loop is gone only when the program ends.
        move |(token, result)| drop(reports.send(Arrived::Published { token, result })),
    )?;
    let shell = Shell::new(config, join(config)?, producer, sender, metrics.clone(), health)?;
    let admin = Arc::new(admin.await.context("reaching the cluster")??);
    let myself = group::watch(config, &admin, &group_health)?;
    tracing::info!(
        instance_id = config.caller.instance_id,
        group = config.kafka.group_id,
        url = config.api.url_without_query(),
        "caller started"
    );
    health.set_ready(Health::STARTED);
    let delivery = Delivery::new(
        config.limits(),
        config.api.responses.classes()?,
        config.verify.verify()?,
    )
    .with_flow_control(config.flow_control());
    let shell = Loop {
        delivery,
        shell,
        inbox,
        gauges_set_at: None,
        myself,
        admin,
        group_health,
        is_settling: false,
    }
    .turn_until_finished(health, shutdown)
    .await?;

    // Leaving the group waits for the brokers.
    tokio::task::spawn_blocking(move || drop(shell))
        .await
        .context("leaving the group")?;
    tracing::info!("caller left");
    Ok(())
}

pub(crate) struct Loop {
    delivery: Delivery<Job>,
    pub(crate) shell: Shell,
    inbox: UnboundedReceiver<Arrived>,
    gauges_set_at: Option<Instant>,
    /// Who we are in the group, for the watch over it.
    myself: MemberId,
    pub(crate) admin: Arc<Admin>,
    pub(crate) group_health: GroupHealth,
    /// It is being found out whose our instance id is.
    pub(crate) is_settling: bool,
}

impl Loop {
    async fn turn_until_finished(mut self, health: &Health, shutdown: &Shutdown) -> anyhow::Result<Shell> {
        let mut is_stopping = false;
        // What there was to poll before the loop began may have been told to nobody.
        let mut has_more = true;
        while !self.shell.is_finished {
            health.tick();
            let ready = Arc::clone(&self.shell.ready);
            let next = if has_more {
                Instant::now()
            } else {
                self.next_turn()
            };
            let first = tokio::select! {
                () = shutdown.requested(), if !is_stopping => {
                    is_stopping = true;
                    self.apply(Event::Stop)?;
                    None
                }
                first = self.inbox.recv() => first,
                () = ready.notified() => None,
                () = tokio::time::sleep_until(next.into()) => None,
            };
            // What Kafka says comes first: a commit that ended may belong to a membership that is over.
            has_more = self.poll()?;
            self.take_inbox(first)?;
            self.take_time()?;
            self.settle_if_fenced(shutdown);
            self.set_gauges();
        }
        Ok(self.shell)
    }

    /// Counting what is held takes as long as there is much of it, so not every turn does it.
    fn set_gauges(&mut self) {
        let now = Instant::now();
        if self.gauges_set_at.is_none_or(|at| now >= at + GAUGES_EVERY) {
            self.gauges_set_at = Some(now);
            self.shell.metrics.set(&self.delivery.gauges());
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

    fn take_inbox(&mut self, first: Option<Arrived>) -> anyhow::Result<()> {
        if let Some(first) = first {
            self.arrived(first)?;
        }
        for _ in 0..PER_TURN {
            match self.inbox.try_recv() {
                Ok(arrived) => self.arrived(arrived)?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// WaitReason that are over, and what the pipeline wanted to be woken for.
    fn take_time(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        while let Some(call) = self.shell.wait_over(now) {
            self.apply(Event::WaitElapsed(call))?;
        }
        match self.delivery.wake_at(now) {
            Some(at) if at <= now => self.apply(Event::Tick),
            Some(_) | None => Ok(()),
        }
    }

    /// Takes in what the consumer has. Returns whether there may be more.
    fn poll(&mut self) -> anyhow::Result<bool> {
        if self.shell.is_fenced {
            // There is no membership that it could tell of.
            return Ok(false);
        }
        let consumer = Arc::clone(&self.shell.consumer);
        let mut nothing = 0;
        for _ in 0..PER_TURN {
            let event = match consumer.poll(Duration::ZERO) {
                // It also says so of what is not for us, such as a line of librdkafka's log.
                Ok(None) if nothing == NOTHING_MAX => return Ok(false),
                Ok(None) => {
                    nothing += 1;
                    continue;
                }
                Ok(Some(happening)) => self.event_of(happening)?,
                Err(error) => match error.class {
                    ErrorClass::Retriable | ErrorClass::Abortable => {
                        tracing::warn!(%error, "the consumer reports an error that mends itself");
                        continue;
                    }
                    ErrorClass::Fatal | ErrorClass::Fenced => {
                        tracing::warn!(%error, "the consumer cannot go on");
                        self.shell.client_lost(&error)
                    }
                    ErrorClass::Permanent => return Err(error.into()),
                },
            };
            nothing = 0;
            self.apply(event)?;
            if !Arc::ptr_eq(&consumer, &self.shell.consumer) {
                // Whoever lets go of it last leaves the group, which waits for the brokers.
                tokio::task::spawn_blocking(move || drop(consumer));
                return Ok(true);
            }
            if self.shell.is_finished || self.shell.is_fenced {
                return Ok(true);
            }
        }
        Ok(true)
    }

    fn event_of(&mut self, happening: ConsumerEvent<'_>) -> anyhow::Result<Event<Job>> {
        Ok(match happening {
            ConsumerEvent::Record(record) => {
                Event::Pending(Job::read(&record, &self.shell.api, &self.shell.policies))
            }
            ConsumerEvent::Assigned {
                partitions,
                metadata,
                member_id,
            } => {
                self.myself.is(&member_id);
                self.shell.group_metadata = Some(Arc::new(metadata));
                Event::Assigned(partitions)
            }
            ConsumerEvent::Revoked {
                partitions,
                metadata,
                member_id,
            } => {
                self.myself.is(&member_id);
                self.shell.group_metadata = Some(Arc::new(metadata));
                tracing::info!(partitions = ?numbers(&partitions), "partitions revoked: draining");
                Event::Revoked(partitions)
            }
            ConsumerEvent::Lost { partitions } => {
                self.shell.group_metadata = None;
                tracing::warn!(partitions = ?numbers(&partitions), "partitions lost: nothing of them is committed");
                Event::Lost(partitions)
            }
        })
    }

    fn arrived(&mut self, arrived: Arrived) -> anyhow::Result<()> {
        match arrived {
            Arrived::Answered {
                call,
                report,
                repeats,
                took,
            } => {
                kill_at!("after-answer");
                let response = self.delivery.classify(report);
                let (report, summary) = (response.response(), response.summary());
                self.shell.metrics.answered(report, summary.class, took);
                match repeats {
                    Some(ambiguity) if !matches!(report, Response::NotSent(_)) => {
                        self.shell.metrics.repeated(ambiguity);
                    }
                    Some(_) | None => {}
                }
                if !self.delivery.awaits(call) && *report != Response::NotSent(NotSent::Withheld) {
                    tracing::warn!(
                        position = %self.shell.position(call), answer = summary.class.as_str(),
                        kind = summary.kind, status = summary.status,
                        "an answer came after the partition went; it counts only if the partition comes back"
                    );
                }
                self.apply(Event::ResponseReceived { call, response })
            }
            Arrived::LookedUp { call, report, took } => {
                let response = self.delivery.classify_look_up(report);
                self.shell
                    .looked_up(call, response.response(), response.result(), took);
                self.apply(Event::LookedUp { call, response })
            }
            Arrived::Committed { number, result, took } => {
                match self.shell.committed(number, result, took)? {
                    Some(result) => self.apply(Event::Committed(result)),
                    None => Ok(()),
                }
            }
            Arrived::Deferred {
                number,
                deferred,
                calls,
                took,
            } => match self.shell.deferred(number, deferred, calls, took)? {
                Some(result) => self.apply(Event::Committed(result)),
                None => Ok(()),
            },
            Arrived::Published { token, result } => match self.shell.published(token, result) {
                Some(event) => self.apply(event),
                None => Ok(()),
            },
            Arrived::LoadedNotes {
                assignment,
                partition,
                loaded,
            } => self.apply(Event::NotesLoaded {
                assignment,
                partition,
                loaded,
            }),
            Arrived::NotLoaded {
                assignment,
                mut partitions,
            } => {
                partitions.retain(|partition| self.delivery.wants_notes(assignment, *partition));
                // It may be a transaction of our own former life that holds the offsets back.
                if !self.shell.config.deferral.defer_after.is_zero() {
                    self.shell.deferrals.open_if_closed();
                }
                self.shell.load_again(assignment, partitions, LOAD_AGAIN);
                Ok(())
            }
            Arrived::Settled(standing) => self.settled(&standing),
            Arrived::Calls(answer) => {
                let topic = &self.shell.config.topics.pending;
                // Whoever asked may have gone.
                drop(answer.send(calls::view(&self.delivery, topic, Instant::now())));
                Ok(())
            }
        }
    }

    /// Tells the pipeline, and does what it says, and so on until nothing follows.
    fn apply(&mut self, event: Event<Job>) -> anyhow::Result<()> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.delivery.on(event, Instant::now()) {
                events.extend(self.shell.perform(action)?);
            }
        }
        Ok(())
    }
}
