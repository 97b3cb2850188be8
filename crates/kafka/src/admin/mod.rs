//! Describing and creating topics.
//!
//! All of it blocks, up to a limit: a cluster that does not answer is told, with its address, in less than
//! ten seconds.

pub mod describe_group;
pub mod topic_ids;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::admin::{
    AdminClient, AdminOptions, NewTopic as Wanted, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaRespErr;

use self::describe_group::Group;
use self::topic_ids::TopicIdentity;
use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;
use crate::topics::creation::NewTopic;
use crate::topics::{Described, Existing};

/// How long the first answer of the cluster is waited for; names are resolved and TLS is agreed on in it.
const REACH_MAX: Duration = Duration::from_secs(7);
/// How long a request may take once the cluster has answered.
const REQUEST_MAX: Duration = Duration::from_secs(20);

/// A topic's name, and whether it was created.
pub type Created = (String, Result<(), ClientError>);

/// A client that administers topics.
pub struct Admin {
    /// Asks for metadata. A producer, though it sends nothing: the admin client does not tell the reason why a
    /// connection failed.
    cluster: ThreadedProducer<LastWords>,
    client: AdminClient<DefaultClientContext>,
    brokers: usize,
    bootstrap_servers: String,
}

impl Admin {
    /// Reaches the cluster.
    ///
    /// # Errors
    /// A property is refused by librdkafka, or no broker answered in time; then it says why, as far as
    /// librdkafka knows.
    pub fn connect(settings: &KafkaSettings, client_id: &str) -> Result<Self, ClientError> {
        let servers = &settings.bootstrap_servers;
        let words = LastWords::default();
        let open = |error| ClientError::new("opening an admin client", error);
        let config = settings.client(client_id);
        let cluster: ThreadedProducer<LastWords> = config.create_with_context(words.clone()).map_err(open)?;
        let client = config.create().map_err(open)?;
        // Asks for all topics: asking a broker for one that is missing may create it.
        let metadata = cluster.client().fetch_metadata(None, REACH_MAX).map_err(|error| {
            let said = words
                .take()
                .map(|said| format!(" (the last try: {said})"))
                .unwrap_or_default();
            ClientError::new(
                format!(
                    "reaching Kafka at {servers:?}, the setting kafka.bootstrap_servers, within {} s{said}",
                    REACH_MAX.as_secs()
                ),
                error,
            )
        })?;
        let brokers = metadata.brokers().len();
        Ok(Self {
            cluster,
            client,
            brokers,
            bootstrap_servers: servers.clone(),
        })
    }

    /// How many brokers the cluster has now.
    #[must_use]
    pub const fn brokers(&self) -> usize {
        self.brokers
    }

    /// Those of the topics that exist, with their settings.
    ///
    /// # Errors
    /// The cluster did not answer, or does not let this user describe a topic.
    pub fn describe(&self, names: &[&str]) -> Result<Existing, ClientError> {
        let fault = |what: String| {
            move |error| {
                ClientError::new(
                    format!("describing {what} at {:?}", self.bootstrap_servers),
                    error,
                )
            }
        };
        let metadata = self
            .cluster
            .client()
            .fetch_metadata(None, REQUEST_MAX)
            .map_err(fault("the topics".into()))?;
        let mut found = BTreeMap::new();
        for topic in metadata
            .topics()
            .iter()
            .filter(|topic| names.contains(&topic.name()))
        {
            match topic.error() {
                None => {}
                // It is being created or deleted.
                Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => continue,
                Some(code) => {
                    let error = KafkaError::MetadataFetch(code.into());
                    return Err(fault(format!("the topic {:?}", topic.name()))(error));
                }
            }
            let replicas = topic
                .partitions()
                .iter()
                .map(|partition| partition.replicas().len());
            let described = Described {
                id: None,
                partitions: topic.partitions().len(),
                replication_factor: replicas.min().unwrap_or(0),
                configs: BTreeMap::new(),
            };
            found.insert(topic.name().to_owned(), described);
        }
        if found.is_empty() {
            return Ok(found);
        }

        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        let mut ids = self.topic_ids(&names, REQUEST_MAX)?;
        let resources: Vec<_> = found.keys().map(|name| ResourceSpecifier::Topic(name)).collect();
        let answers = wait(self.client.describe_configs(&resources, &options()))
            .map_err(fault("the settings of the topics".into()))?;
        let mut existing = Existing::new();
        for answer in answers {
            let resource = answer.map_err(|code| {
                // The answer does not say which one it is about.
                let names = found.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                let what =
                    format!("the settings of the topics {names} (the right DESCRIBE_CONFIGS is needed)");
                fault(what)(KafkaError::AdminOp(code))
            })?;
            let OwnedResourceSpecifier::Topic(name) = resource.specifier else {
                continue;
            };
            let Some(described) = found.get(&name) else {
                continue;
            };
            let configs = resource
                .entries
                .into_iter()
                .filter_map(|entry| Some((entry.name, entry.value?)));
            let id = ids.remove(&name);
            existing.insert(
                name,
                Described {
                    id,
                    configs: configs.collect(),
                    ..described.clone()
                },
            );
        }
        Ok(existing)
    }

    /// The ids of those of the topics that exist, by name: a topic that was deleted and created again has another
    /// one. A broker that knows no ids tells none.
    ///
    /// # Errors
    /// The cluster did not answer within the limit.
    pub fn topic_ids(
        &self,
        names: &[&str],
        limit: Duration,
    ) -> Result<BTreeMap<String, String>, ClientError> {
        let found = self.identities(names, limit)?;
        Ok(found.into_iter().map(|(name, topic)| (name, topic.id)).collect())
    }

    /// As [`Self::topic_ids`], with the partition counts.
    ///
    /// # Errors
    /// The cluster did not answer within the limit.
    pub fn identities(
        &self,
        names: &[&str],
        limit: Duration,
    ) -> Result<BTreeMap<String, TopicIdentity>, ClientError> {
        topic_ids::of(self.client.inner(), names, limit).map_err(|error| {
            ClientError::new(
                format!("asking for the ids of the topics {}", names.join(", ")),
                error,
            )
        })
    }

    /// How a consumer group stands, with the partitions of one topic that each member has. A group that this user may
    /// not describe looks like one without members.
    ///
    /// # Errors
    /// The group's coordinator did not answer within the limit.
    pub fn group(&self, group: &str, topic: &str, limit: Duration) -> Result<Group, ClientError> {
        describe_group::of(self.cluster.client(), group, topic, limit)
            .map_err(|error| ClientError::new(format!("asking how the group {group:?} stands"), error))
    }

    /// Creates topics; each may fail by itself, and an existing one is left as it is.
    ///
    /// # Errors
    /// The request as a whole failed.
    pub fn create(&self, new: &[NewTopic]) -> Result<Vec<Created>, ClientError> {
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let wanted: Vec<_> = new
            .iter()
            .map(|topic| {
                let replication = TopicReplication::Fixed(number(topic.replication_factor));
                let wanted = Wanted::new(&topic.name, number(topic.partitions), replication);
                topic
                    .configs
                    .iter()
                    .fold(wanted, |wanted, (name, value)| wanted.set(name, value))
            })
            .collect();
        let answers = wait(self.client.create_topics(&wanted, &options())).map_err(|error| {
            ClientError::new(format!("creating topics at {:?}", self.bootstrap_servers), error)
        })?;
        Ok(answers
            .into_iter()
            .map(|answer| match answer {
                Ok(name) => (name, Ok(())),
                Err((name, code)) => {
                    let attempted = format!("creating the topic {name:?}");
                    (name, Err(ClientError::new(attempted, KafkaError::AdminOp(code))))
                }
            })
            .collect())
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(REQUEST_MAX))
        .operation_timeout(Some(REQUEST_MAX))
}

/// Waits for librdkafka's answer, which comes within the request's time limit. In a thread of its own, so
/// that it may be called from inside a runtime too.
fn wait<T: Send>(answer: impl Future<Output = Result<T, KafkaError>> + Send) -> Result<T, KafkaError> {
    let timed_out = || KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build();
            let runtime = runtime.map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
            let limit = REQUEST_MAX + Duration::from_secs(5);
            runtime
                .block_on(async { tokio::time::timeout(limit, answer).await })
                .unwrap_or_else(|_| Err(timed_out()))
        });
        waiting
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Keeps the reason of the last failed connection.
#[derive(Clone, Default)]
struct LastWords(Arc<Mutex<Option<String>>>);

impl LastWords {
    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for LastWords {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "a connection to Kafka failed");
        // That all brokers are down is no reason, it is the consequence of one.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

impl ProducerContext for LastWords {
    type DeliveryOpaque = ();

    fn delivery(&self, _report: &DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    fn connect(address: &str) -> (String, Duration) {
        let settings = KafkaSettings {
            bootstrap_servers: address.to_owned(),
            group_id: "g".into(),
            properties: [].into(),
        };
        let began = Instant::now();
        let error = Admin::connect(&settings, "test")
            .err()
            .expect("nobody answers")
            .to_string();
        (error, began.elapsed())
    }

    #[test]
    fn no_broker_is_told_with_its_address_within_ten_seconds() {
        // A port that was just given back: nobody listens there.
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a port");
        let (error, took) = connect(&address.to_string());
        assert!(
            error.contains(&address.to_string()) && error.contains("kafka.bootstrap_servers"),
            "{error}"
        );
        assert!(error.contains("Connection refused"), "{error}");
        assert!(took < Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn a_broker_that_is_silent_is_told_within_ten_seconds() {
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = silent.local_addr().expect("an address").to_string();
        let (error, took) = connect(&address);
        assert!(error.contains(&address), "{error}");
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}
