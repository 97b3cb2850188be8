//! Monitor of the cluster, on a thread of its own: broker silence breaks readiness even while there is
//! nothing to process, and recreated or grown topics are detected.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use kafka::admin::Admin;
use kafka::topic_ids::TopicIdentity;
use records::Topics;
use service::Health;
use service::failpoint::guard_removed;

/// Readiness condition that silent brokers break.
const BROKERS: &str = "brokers";
/// Interval between two requests. It bounds how long orders of a grown topic may be decided by the old
/// partition count, and how long a recreated changelog goes unnoticed; for the orders topic the consumer
/// itself detects that before it reads on.
const INTERVAL: Duration = Duration::from_secs(2);
/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Silence of all brokers that breaks readiness. Less than a session timeout, so that readiness changes
/// before the group evicts this validator.
const SILENCE_MAX: Duration = Duration::from_secs(4);

/// Changes of the topics since start-up, for the run loop.
#[derive(Default)]
pub(crate) struct TopicChanges {
    /// A topic was deleted and created again; reset by the run loop.
    pub(crate) recreated: AtomicBool,
    /// Partition count of a topic that has grown; 0 if none has.
    pub(crate) grown_to: AtomicUsize,
}

/// Starts the monitor, which runs until the process ends. `ids` are the topic ids that the state directory
/// belongs to.
///
/// # Errors
/// The thread cannot be started.
pub(crate) fn start(
    admin: Arc<Admin>,
    topics: &Topics,
    ids: BTreeMap<String, String>,
    partitions: usize,
    health: &Health,
) -> anyhow::Result<Arc<TopicChanges>> {
    let changes = Arc::<TopicChanges>::default();
    let monitor = Monitor {
        admin,
        ids,
        pending: topics.pending.clone(),
        partitions,
        health: health.clone(),
        changes: Arc::clone(&changes),
        responded_at: Instant::now(),
        is_silent: false,
    };
    std::thread::Builder::new()
        // A thread name, as `top -H` shows it: at most 15 bytes.
        .name("cluster-monitor".into())
        .spawn(move || monitor.run())
        .context("the thread that monitors the cluster cannot be started")?;
    Ok(changes)
}

struct Monitor {
    admin: Arc<Admin>,
    ids: BTreeMap<String, String>,
    /// Name of the outbox.
    pending: String,
    partitions: usize,
    health: Health,
    changes: Arc<TopicChanges>,
    responded_at: Instant,
    is_silent: bool,
}

impl Monitor {
    fn run(mut self) {
        loop {
            let names: Vec<&str> = self.ids.keys().map(String::as_str).collect();
            match self.admin.identities(&names, REQUEST_TIMEOUT) {
                Ok(topics) => self.responded(topics),
                Err(error) if self.responded_at.elapsed() > SILENCE_MAX => self.silent(&error),
                // A single failure is expected when a broker stops: the next request goes to another one.
                Err(_) => {}
            }
            std::thread::sleep(INTERVAL);
        }
    }

    fn silent(&mut self, error: &kafka::ClientError) {
        let silent_s = self.responded_at.elapsed().as_secs();
        // Logged once; readiness has the current duration.
        if !self.is_silent {
            tracing::warn!(%error, silent_s, "no broker responds, waiting");
            self.is_silent = true;
        }
        let reason = format!("no broker has responded for {silent_s} s: {error}");
        self.health.set_unready(BROKERS, reason);
    }

    fn responded(&mut self, topics: BTreeMap<String, TopicIdentity>) {
        self.responded_at = Instant::now();
        if self.is_silent {
            tracing::info!("brokers respond again");
            self.is_silent = false;
            self.health.set_ready(BROKERS);
        }
        // A topic is missing here while it is being recreated; its id is compared once it is back.
        for (name, topic) in topics {
            // A larger outbox moves no key: a pending call goes to the partition of its order.
            let may_grow = name == self.pending;
            let known = self.ids.entry(name).or_insert_with(|| topic.id.clone());
            if *known != topic.id && !guard_removed!("guard-topic-watch") {
                // Remembered, so that one recreation is reported once.
                *known = topic.id;
                self.changes.recreated.store(true, Ordering::Release);
            } else if topic.partitions > self.partitions && !may_grow {
                self.changes.grown_to.store(topic.partitions, Ordering::Release);
            }
        }
    }
}
