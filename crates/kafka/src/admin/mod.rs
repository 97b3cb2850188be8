//! Administration of topics and groups: describing them, and creating topics.
//!
//! All requests block, up to a timeout.

mod connection_errors;
mod delete_records;
pub mod describe_group;
mod describe_topics;
pub mod topic_ids;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic as CreateTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{Producer as _, ThreadedProducer};
use records::{Offset, Partition};

use self::connection_errors::ConnectionErrors;
pub use self::describe_group::Group;
pub use self::describe_topics::DescribedBroker;
use self::topic_ids::TopicIdentity;
use crate::client::config::KafkaSettings;
use crate::client::error::{ClientError, code_of};
use crate::topics::ExistingTopics;
use crate::topics::creation::NewTopic;

/// Timeout of the first request, which includes name resolution and TLS. An unreachable cluster is reported
/// within ten seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(7);
/// Timeout of a request once the cluster has responded.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Name of a topic, and the result of its creation.
pub type Created = (String, Result<(), ClientError>);

/// A client that administers topics and groups.
pub struct Admin {
    // Asks for metadata. A producer, though it sends nothing: the admin client does not pass on the reason
    // why a connection failed.
    cluster: ThreadedProducer<ConnectionErrors>,
    client: AdminClient<DefaultClientContext>,
    /// Of `cluster`.
    errors: ConnectionErrors,
    brokers: usize,
    bootstrap_servers: String,
}

impl Admin {
    /// Connects to the cluster.
    ///
    /// # Errors
    /// librdkafka refused a property, or no broker responded in time; the error then has librdkafka's reason,
    /// if there is one.
    pub fn connect(settings: &KafkaSettings, client_id: &str) -> Result<Self, ClientError> {
        let servers = &settings.bootstrap_servers;
        let errors = ConnectionErrors::default();
        let not_opened = |error| ClientError::new("opening an admin client", error);
        let mut config = settings.client(client_id);
        // Whatever the program logs: a connection that the broker has closed is reported at this level.
        config.set_log_level(RDKafkaLogLevel::Info);
        let cluster: ThreadedProducer<ConnectionErrors> =
            config.create_with_context(errors.clone()).map_err(not_opened)?;
        // For all topics: a broker may create a missing topic when it is asked for it by name.
        let metadata = cluster
            .client()
            .fetch_metadata(None, CONNECT_TIMEOUT)
            .map_err(|error| {
                ClientError::new(
                    format!(
                        "reaching Kafka at {servers:?}, the setting kafka.bootstrap_servers, within {} s{}",
                        CONNECT_TIMEOUT.as_secs(),
                        errors.last()
                    ),
                    error,
                )
            })?;
        errors.clear();
        // Only now: it would log the same failures again.
        let client = config.create().map_err(not_opened)?;
        let brokers = metadata.brokers().len();
        Ok(Self {
            cluster,
            client,
            errors,
            brokers,
            bootstrap_servers: servers.clone(),
        })
    }

    /// Returns the number of brokers that the cluster had when this client connected.
    #[must_use]
    pub const fn brokers(&self) -> usize {
        self.brokers
    }

    /// Returns those of the topics that exist, with their settings.
    ///
    /// # Errors
    /// The cluster did not respond, or this user may not describe a topic.
    pub fn describe(&self, names: &[&str]) -> Result<ExistingTopics, ClientError> {
        describe_topics::describe(self, names)
    }

    /// Returns the minutes for which the brokers keep the offsets of a group without members, as one broker
    /// has them set; `None` if it does not report the setting.
    ///
    /// # Errors
    /// The cluster did not respond, or this user may not describe the settings of a broker.
    pub fn offsets_retention_minutes(&self) -> Result<Option<i64>, ClientError> {
        describe_topics::offsets_retention_minutes(self)
    }

    /// Returns whether each broker verifies that a record which it appends belongs to an open transaction;
    /// ends with the first broker that did not say.
    ///
    /// # Errors
    /// The cluster did not respond.
    pub fn transaction_verification(&self) -> Result<Vec<DescribedBroker>, ClientError> {
        describe_topics::transaction_verification(self)
    }

    /// Returns the ids of those of the topics that exist, by name. A topic that was deleted and created again
    /// has another id; a broker that does not support ids reports none.
    ///
    /// # Errors
    /// The cluster did not respond within the timeout.
    pub fn topic_ids(
        &self,
        names: &[&str],
        timeout: Duration,
    ) -> Result<BTreeMap<String, String>, ClientError> {
        let found = self.identities(names, timeout)?;
        Ok(found.into_iter().map(|(name, topic)| (name, topic.id)).collect())
    }

    /// As [`Self::topic_ids`], with the partition counts.
    ///
    /// # Errors
    /// The cluster did not respond within the timeout.
    pub fn identities(
        &self,
        names: &[&str],
        timeout: Duration,
    ) -> Result<BTreeMap<String, TopicIdentity>, ClientError> {
        // By the client that keeps the reason of a failed connection.
        let found = topic_ids::identities(self.cluster.client(), names, timeout).map_err(|error| {
            let attempted = format!(
                "asking for the ids of the topics {}{}",
                self.refused(names, &error, timeout),
                self.errors.last()
            );
            ClientError::new(attempted, error)
        })?;
        self.errors.clear();
        Ok(found)
    }

    /// Returns the name of the topic that this user may not describe, or else of all topics: the response does not say which.
    fn refused(&self, names: &[&str], error: &KafkaError, timeout: Duration) -> String {
        let is_refusal =
            |error: &KafkaError| code_of(error) == Some(RDKafkaErrorCode::TopicAuthorizationFailed);
        let refused = names.iter().find(|name| {
            is_refusal(error)
                && topic_ids::identities(self.cluster.client(), &[name], timeout)
                    .is_err_and(|error| is_refusal(&error))
        });
        refused.map_or_else(|| names.join(", "), |name| (*name).to_owned())
    }

    /// Describes a consumer group, with the partitions of one topic that each member owns. A group that this
    /// user may not describe looks like one without members.
    ///
    /// # Errors
    /// The group's coordinator did not respond within the timeout.
    pub fn group(&self, group: &str, topic: &str, timeout: Duration) -> Result<Group, ClientError> {
        describe_group::describe(self.cluster.client(), group, topic, timeout).map_err(|error| {
            let attempted = format!("describing the group {group:?}{}", self.errors.last());
            ClientError::new(attempted, error)
        })
    }

    /// Deletes the records of a topic's partitions below these offsets, and returns the partitions where that failed. One
    /// whose records are deleted already stays as it is.
    ///
    /// # Errors
    /// The request as a whole failed.
    pub fn delete_records(
        &self,
        topic: &str,
        below: &[(Partition, Offset)],
    ) -> Result<Vec<(Partition, ClientError)>, ClientError> {
        delete_records::delete_records(&self.client, topic, below)
    }

    /// Creates topics. Each one has a result of its own; an existing topic is left unchanged.
    ///
    /// # Errors
    /// The request as a whole failed.
    pub fn create(&self, new: &[NewTopic]) -> Result<Vec<Created>, ClientError> {
        // A number beyond `i32` is refused by the broker, with the topic's name.
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let requests: Vec<_> = new
            .iter()
            .map(|topic| {
                let replication = TopicReplication::Fixed(number(topic.replication_factor));
                let request = CreateTopic::new(&topic.name, number(topic.partitions), replication);
                topic
                    .configs
                    .iter()
                    .fold(request, |request, (name, value)| request.set(name, value))
            })
            .collect();
        let results = wait(self.client.create_topics(&requests, &options())).map_err(|error| {
            ClientError::new(format!("creating topics at {:?}", self.bootstrap_servers), error)
        })?;
        Ok(results
            .into_iter()
            .map(|result| match result {
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
        .request_timeout(Some(REQUEST_TIMEOUT))
        .operation_timeout(Some(REQUEST_TIMEOUT))
}

/// Blocks until librdkafka has responded.
fn wait<T: Send>(response: impl Future<Output = Result<T, KafkaError>> + Send) -> Result<T, KafkaError> {
    let timed_out = || KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut);
    // On a thread of its own: the caller's thread may run an async runtime already, and tokio panics on a
    // second one.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build();
            let runtime = runtime.map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
            // librdkafka keeps the request's timeout; the margin only guards against a response that never
            // comes.
            let limit = REQUEST_TIMEOUT + Duration::from_secs(5);
            runtime
                .block_on(async { tokio::time::timeout(limit, response).await })
                .unwrap_or_else(|_| Err(timed_out()))
        });
        waiting
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
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
        let started = Instant::now();
        let error = Admin::connect(&settings, "test")
            .err()
            .expect("no broker responds")
            .to_string();
        (error, started.elapsed())
    }

    #[test]
    fn refused_connection_is_reported_with_its_address() {
        // A port that was just released: nothing listens on it.
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
    fn silent_broker_is_reported_within_ten_seconds() {
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = silent.local_addr().expect("an address").to_string();
        let (error, took) = connect(&address);
        assert!(error.contains(&address), "{error}");
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}
