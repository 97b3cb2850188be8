//! Whether the brokers answer, and whether the topics are still the same, asked by a thread of its own: while no broker
//! answers, the program is not ready, also when there is nothing to do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use kafka::admin::Admin;
use kafka::topic_ids::TopicIdentity;
use service::Health;
use service::failpoint::guard_removed;

/// What was noticed of the topics since the start.
#[derive(Default)]
pub(crate) struct Noticed {
    /// A topic was deleted and created again: each partition is to be looked at anew.
    pub(crate) recreated: AtomicBool,
    /// How many partitions a topic has that has grown; 0: none has.
    pub(crate) grown_to: AtomicUsize,
}

/// Watches until the process ends. The question that is asked is for the ids of the topics.
///
/// # Errors
/// There is no thread left.
pub(crate) fn watch(
    admin: Arc<Admin>,
    ids: BTreeMap<String, String>,
    partitions: usize,
    health: &Health,
) -> anyhow::Result<Arc<Noticed>> {
    let noticed = Arc::<Noticed>::default();
    let watch = Watch {
        admin,
        ids,
        partitions,
        health: health.clone(),
        noticed: Arc::clone(&noticed),
        answered: Instant::now(),
        is_silent: false,
    };
    std::thread::Builder::new()
        .name("reach".into())
        .spawn(move || watch.look())
        .context("the thread that asks whether the brokers answer cannot be started")?;
    Ok(noticed)
}

struct Watch {
    admin: Arc<Admin>,
    ids: BTreeMap<String, String>,
    partitions: usize,
    health: Health,
    noticed: Arc<Noticed>,
    answered: Instant,
    is_silent: bool,
}

impl Watch {
    fn look(mut self) {
        loop {
            let names: Vec<&str> = self.ids.keys().map(String::as_str).collect();
            match self.admin.identities(&names, ANSWER_MAX) {
                Ok(found) => self.answered(found),
                Err(fault) if self.answered.elapsed() > SILENCE_MAX => {
                    let silent_s = self.answered.elapsed().as_secs();
                    if !self.is_silent {
                        tracing::warn!(error = %fault, silent_s, "no broker answers; waiting");
                        self.is_silent = true;
                    }
                    let reason = format!("no broker has answered for {silent_s} s: {fault}");
                    self.health.set_unready(BROKERS, reason);
                }
                // One that has just gone is no reason yet: another one is asked.
                Err(_) => {}
            }
            std::thread::sleep(EVERY);
        }
    }

    fn answered(&mut self, found: BTreeMap<String, TopicIdentity>) {
        self.answered = Instant::now();
        if self.is_silent {
            tracing::info!("the brokers answer again");
            self.is_silent = false;
            self.health.set_ready(BROKERS);
        }
        // While a topic is being created again, it is not there.
        for (name, topic) in found {
            let known = self.ids.entry(name).or_insert_with(|| topic.id.clone());
            if *known != topic.id && !guard_removed!("guard-topic-watch") {
                *known = topic.id;
                self.noticed.recreated.store(true, Ordering::Release);
            } else if topic.partitions > self.partitions {
                self.noticed.grown_to.store(topic.partitions, Ordering::Release);
            }
        }
    }
}

/// The name of the condition.
const BROKERS: &str = "brokers";
/// Also how long orders of a topic that has grown may be taken for those of the old one, and how long the changelog's
/// successor for the changelog. That the orders topic was created again, the consumer hears before it reads on.
const EVERY: Duration = Duration::from_secs(2);
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Less than a session, so that readiness tells before the group does.
const SILENCE_MAX: Duration = Duration::from_secs(4);
