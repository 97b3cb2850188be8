//! Thread that asks the registry for the schemas that a program waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use schemas::{Answer, SchemaId};
use service::Health;
use tokio::sync::Notify;

use crate::client::RegistryClient;
use crate::metrics::RegistryMetrics;
use crate::settings::RegistrySettings;

/// Readiness condition that a registry which does not answer breaks, while orders or calls wait for it.
const SCHEMAS: &str = "schemas";
/// Wait before the first repetition of a request that was not answered; it doubles with each.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Maximum wait before a repetition.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Maximum wait before a schema that is said to be unknown is asked for again.
const UNKNOWN_WAIT_MAX: Duration = Duration::from_secs(1);

/// Answers that end a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndsWait {
    /// Each: that the registry does not have the schema, once it has said so for
    /// [`RegistrySettings::unknown_after`], and that it cannot be used. For orders that nobody has read yet.
    AnyAnswer,
    /// Only the schema. For orders that were admitted by it: the registry has lost it, or is another one, or the program
    /// that has admitted them is newer.
    Schema,
}

impl EndsWait {
    /// Returns why the wait goes on after an answer; `None` if it ends.
    fn goes_on(self, id: SchemaId, answer: &Answer) -> Option<String> {
        let why: &dyn Display = match (self, answer) {
            (Self::AnyAnswer, _) | (Self::Schema, Answer::Known(_)) => return None,
            (Self::Schema, Answer::Unknown(why)) => why,
            (Self::Schema, Answer::Unusable(why)) => why,
        };
        Some(format!(
            "validators have read orders by schema {id}, which is missing or unusable here: {why}. Set \
             schema_registry.urls to the registry of the validators, restore the schema there under this id, or update \
             this program to the version of the validators"
        ))
    }
}

/// Access to the registry. The thread ends with the process.
#[derive(Debug)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    wanted: BTreeSet<SchemaId>,
    /// Why the last request was not answered; `None` if it was.
    trouble: Option<String>,
}

impl Registry {
    /// Starts the thread; `None` if the settings name no registry. `answered` gets each answer that ends a wait, on the
    /// thread.
    ///
    /// # Errors
    /// Names the setting that is invalid, or the thread cannot be started.
    pub fn start(
        settings: &RegistrySettings,
        metrics: RegistryMetrics,
        ends_wait: EndsWait,
        answered: impl Fn(SchemaId, Answer) + Send + 'static,
    ) -> anyhow::Result<Option<Self>> {
        if settings.urls.is_empty() {
            return Ok(None);
        }
        let client = RegistryClient::new(settings)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the runtime of the schema registry's client cannot be started")?;
        let shared = Arc::new(Shared::default());
        let fetching = Fetching {
            shared: Arc::clone(&shared),
            client,
            metrics,
            ends_wait,
            unknown_after: settings.unknown_after,
            unknown_since: BTreeMap::new(),
            failures: 0,
        };
        std::thread::Builder::new()
            .name("schemas".into())
            .spawn(move || runtime.block_on(fetching.run(answered)))
            .context("the thread of the schema registry's client cannot be started")?;
        Ok(Some(Self { shared }))
    }

    /// Sets the schemas that the program waits for, in place of earlier ones.
    pub fn set_wanted(&self, wanted: BTreeSet<SchemaId>) {
        let mut state = self.shared.state();
        if state.wanted != wanted {
            state.wanted = wanted;
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    /// Reports the partitions that wait, each with the offset that it waits at, by readiness and metrics. `what` waits:
    /// orders, or calls.
    pub fn report_waits<P: Display, O: Display>(
        &self,
        what: &str,
        waits: &[(P, O, SchemaId)],
        metrics: &RegistryMetrics,
        health: &Health,
    ) {
        metrics.set_waiting(waits.len());
        let Some(why) = self.shared.state().trouble.clone().filter(|_| !waits.is_empty()) else {
            health.set_ready(SCHEMAS);
            return;
        };
        let waits = waits.iter().map(|(partition, offset, schema)| {
            format!("partition {partition} at offset {offset} for schema {schema}")
        });
        health.set_unready(
            SCHEMAS,
            format!(
                "{what} wait for the schema registry and go on once it answers: {}. {why}",
                waits.collect::<Vec<_>>().join("; ")
            ),
        );
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Replaced in one assignment each, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Fetching {
    shared: Arc<Shared>,
    client: RegistryClient,
    metrics: RegistryMetrics,
    ends_wait: EndsWait,
    unknown_after: Duration,
    /// Time of the first answer that a schema is unknown.
    unknown_since: BTreeMap<SchemaId, Instant>,
    /// Requests in a row that were not answered.
    failures: u32,
}

impl Fetching {
    async fn run(mut self, answered: impl Fn(SchemaId, Answer)) {
        let mut last = SchemaId(0);
        loop {
            let wanted = self.shared.state().wanted.clone();
            self.unknown_since.retain(|id, _| wanted.contains(id));
            // In turns, so that one that is unknown for now holds up no other.
            let after = wanted.range(SchemaId(last.0.saturating_add(1))..).next();
            let Some(id) = after.or_else(|| wanted.first()).copied() else {
                self.shared.changed.notified().await;
                continue;
            };
            last = id;
            let wait = self.ask(id, &answered).await;
            if !wait.is_zero() {
                // A change of what is wanted does not shorten it: it is the same registry.
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// Asks for a schema once, and returns the time to wait before the next request.
    async fn ask(&mut self, id: SchemaId, answered: &impl Fn(SchemaId, Answer)) -> Duration {
        let answer = match self.client.schema(id).await {
            Ok(answer) => answer,
            Err(why) => {
                self.metrics.not_answered();
                // One line for an outage, however long it is.
                if self.failures == 0 {
                    tracing::warn!(schema = %id, why, "schema registry does not answer, orders wait");
                }
                return self.wait(why);
            }
        };
        if let Some(why) = self.ends_wait.goes_on(id, &answer) {
            self.metrics.answered(&answer);
            if self.shared.state().trouble.as_ref() != Some(&why) {
                tracing::error!(
                    schema = %id, why,
                    "schema of an admitted order is missing or unusable, calls wait, operator action required"
                );
            }
            return self.wait(why);
        }
        self.answered();
        if let Answer::Unknown(_) = &answer {
            let since = *self.unknown_since.entry(id).or_insert_with(Instant::now);
            if since.elapsed() < self.unknown_after {
                return (self.unknown_after / 5).clamp(BACKOFF_MIN.min(self.unknown_after), UNKNOWN_WAIT_MAX);
            }
        }
        match &answer {
            Answer::Known(_) => tracing::info!(schema = %id, "schema read from the registry"),
            Answer::Unusable(why) => tracing::error!(
                schema = %id, %why,
                "schema cannot be used, its orders become dead letters, operator action required"
            ),
            Answer::Unknown(why) => tracing::warn!(
                schema = %id, why,
                "schema is unknown to the registry, its orders become dead letters"
            ),
        }
        self.metrics.answered(&answer);
        // Before the program knows: it may want it again at once.
        self.shared.state().wanted.remove(&id);
        answered(id, answer);
        Duration::ZERO
    }

    /// Remembers why nothing has come, and returns the time to wait before the next request.
    fn wait(&mut self, why: String) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.shared.state().trouble = Some(why);
        BACKOFF_MIN
            .saturating_mul(1 << (self.failures - 1).min(8))
            .min(BACKOFF_MAX)
    }

    fn answered(&mut self) {
        if self.failures > 0 {
            tracing::info!(requests = self.failures, "schema registry answers again");
        }
        self.failures = 0;
        self.shared.state().trouble = None;
    }
}

#[cfg(test)]
mod tests {
    use schemas::{Format, Schema, SchemaText, Unusable};

    use super::*;

    #[test]
    fn only_the_schema_ends_the_wait_of_admitted_orders() {
        let text = SchemaText {
            format: Format::Avro,
            text: "\"string\"".into(),
            references: Vec::new(),
        };
        let known = Answer::Known(Arc::new(Schema::parse(&text).expect("a schema")));
        let unknown = Answer::Unknown("40403".into());
        let unusable = Answer::Unusable(Unusable("no Avro".into()));
        for answer in [&known, &unknown, &unusable] {
            assert_eq!(EndsWait::AnyAnswer.goes_on(SchemaId(7), answer), None);
        }
        assert_eq!(EndsWait::Schema.goes_on(SchemaId(7), &known), None);
        for (answer, words) in [(&unknown, "40403"), (&unusable, "no Avro")] {
            let why = EndsWait::Schema.goes_on(SchemaId(7), answer).expect("a wait");
            assert!(why.contains("schema 7") && why.contains(words), "{why}");
        }
    }
}
