//! The Kafka that the harness runs against: where it is, and what only an administrator may do to it.

pub mod broker;
pub mod three_brokers;
pub mod two_brokers;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};
use records::{Offset, Partition};

use crate::read_back::topics::{high_watermarks, reader};
use crate::wait::await_until;

/// The variable that names the Kafka to use.
pub const ADDRESS_VARIABLE: &str = "KAFKA_BOOTSTRAP_SERVERS";

const LIMIT: Duration = Duration::from_secs(30);

/// The address of a Kafka that answers.
///
/// # Errors
/// None is named or it does not answer. That is a failure, never a reason to skip: a guarantee that was
/// not tested is not known to hold.
pub fn address() -> Result<String> {
    let how = "start one with `./scripts/kafka start`, or run everything with `./scripts/test`";
    let kafka = std::env::var(ADDRESS_VARIABLE)
        .map_err(|_| anyhow!("no Kafka: {ADDRESS_VARIABLE} is not set; {how}"))?;
    reader(&kafka, "read_uncommitted")?
        .fetch_metadata(None, Duration::from_secs(10))
        .map_err(|error| anyhow!("no Kafka answers at {kafka} ({error}); {how}"))?;
    Ok(kafka)
}

/// The committed offset of each partition; partitions without one are left out.
///
/// # Errors
/// Kafka does not answer, or a transaction keeps the offsets pending.
pub fn committed(kafka: &str, group: &str, topic: &str) -> Result<HashMap<Partition, Offset>> {
    // A read_committed client waits for pending transactional offsets.
    let consumer: rdkafka::consumer::BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .create()
        .context("creating a consumer")?;
    let mut wanted = TopicPartitionList::new();
    for (partition, _) in high_watermarks(kafka, topic)? {
        wanted.add_partition(topic, partition.0);
    }
    let offsets = consumer
        .committed_offsets(wanted, LIMIT)
        .with_context(|| format!("asking for the committed offsets of {group}"))?;
    Ok(offsets
        .elements()
        .iter()
        .filter_map(|element| match element.offset() {
            At::Offset(offset) => Some((Partition(element.partition()), Offset(offset))),
            _ => None,
        })
        .collect())
}

/// Sets the group's offset of a partition, as a person does who repairs it; no member may run.
///
/// # Errors
/// Kafka refuses.
pub fn set_committed(kafka: &str, group: &str, topic: &str, partition: Partition, to: Offset) -> Result<()> {
    let consumer: rdkafka::consumer::BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", group)
        .create()
        .context("creating a consumer")?;
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, partition.0, At::Offset(to.0))?;
    consumer
        .commit(&offsets, rdkafka::consumer::CommitMode::Sync)
        .with_context(|| format!("setting the offset of {group} for {topic}/{partition}"))
}

/// How many records of the topic lie behind the group's committed offsets.
///
/// # Errors
/// Kafka does not answer.
pub fn lag(kafka: &str, group: &str, topic: &str) -> Result<i64> {
    let committed = committed(kafka, group, topic)?;
    Ok(high_watermarks(kafka, topic)?
        .into_iter()
        .map(|(partition, end)| end.0 - committed.get(&partition).map_or(0, |offset| offset.0))
        .sum())
}

/// What changes topics behind the programs' backs.
pub struct Administrator {
    kafka: String,
    client: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
}

impl Administrator {
    /// Connects lazily.
    ///
    /// # Errors
    /// The client cannot be created.
    pub fn new(kafka: &str) -> Result<Self> {
        Ok(Self {
            kafka: kafka.to_owned(),
            client: ClientConfig::new()
                .set("bootstrap.servers", kafka)
                .create()
                .context("creating an admin client")?,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("starting a runtime")?,
        })
    }

    /// Creates a topic with these settings.
    ///
    /// # Errors
    /// Kafka refuses.
    pub fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (setting, value) in settings {
            topic = topic.set(setting, value);
        }
        let results = self
            .runtime
            .block_on(self.client.create_topics(&[topic], &options()))
            .with_context(|| format!("creating {name}"))?;
        one_by_one(results)
    }

    /// Gives a topic more partitions, and waits until the brokers know them.
    ///
    /// # Errors
    /// Kafka refuses.
    pub fn grow_topic(&self, name: &str, partitions: usize) -> Result<()> {
        let results = self
            .runtime
            .block_on(
                self.client
                    .create_partitions(&[NewPartitions::new(name, partitions)], &options()),
            )
            .with_context(|| format!("giving {name} {partitions} partitions"))?;
        one_by_one(results)?;
        await_until(&format!("{name} has {partitions} partitions"), LIMIT, || {
            let known = high_watermarks(&self.kafka, name).map_or(0, |ends| ends.len());
            Ok(match known == partitions {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(format!("the brokers know of {known}")),
            })
        })
    }

    /// Changes one setting of a topic, resets its others to their defaults, and waits until the brokers tell so.
    ///
    /// # Errors
    /// Kafka refuses.
    pub fn configure_topic(&self, name: &str, setting: &str, value: &str) -> Result<()> {
        let change = AlterConfig::new(ResourceSpecifier::Topic(name)).set(setting, value);
        let results = self
            .runtime
            .block_on(self.client.alter_configs(&[change], &options()))
            .with_context(|| format!("setting {setting} of {name}"))?;
        for result in results {
            result.map_err(|(of, error)| anyhow!("Kafka refuses to configure {of:?}: {error}"))?;
        }
        await_until(&format!("{setting} of {name} is {value}"), LIMIT, || {
            let told = self.setting(name, setting)?;
            Ok(match told.as_deref() == Some(value) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(format!("{told:?}")),
            })
        })
    }

    fn setting(&self, topic: &str, setting: &str) -> Result<Option<String>> {
        let described = self
            .runtime
            .block_on(
                self.client
                    .describe_configs(&[ResourceSpecifier::Topic(topic)], &options()),
            )
            .with_context(|| format!("describing the settings of {topic}"))?;
        let first = described
            .into_iter()
            .next()
            .with_context(|| format!("Kafka said nothing about {topic}"))?;
        let config = first.map_err(|error| anyhow!("Kafka does not describe {topic}: {error}"))?;
        Ok(config.get(setting).and_then(|entry| entry.value.clone()))
    }

    /// Deletes the records of a partition below an offset, as retention would.
    ///
    /// # Errors
    /// Kafka refuses.
    pub fn delete_records(&self, topic: &str, partition: Partition, before: Offset) -> Result<()> {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition.0, At::Offset(before.0))?;
        let deleted = self
            .runtime
            .block_on(self.client.delete_records(&offsets, &options()))
            .with_context(|| format!("deleting records of {topic}/{partition} below {before}"))?;
        for element in deleted.elements() {
            element
                .error()
                .with_context(|| format!("deleting records of {topic}/{partition} below {before}"))?;
        }
        Ok(())
    }

    /// Deletes topics, so that a broker that serves many runs does not fill up.
    ///
    /// # Errors
    /// Kafka does not answer. A topic that is not there is fine.
    pub fn delete_topics(&self, names: &[&str]) -> Result<()> {
        self.runtime
            .block_on(self.client.delete_topics(names, &options()))
            .context("deleting topics")?;
        Ok(())
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(LIMIT))
        .operation_timeout(Some(LIMIT))
}

fn one_by_one(results: Vec<rdkafka::admin::TopicResult>) -> Result<()> {
    ensure!(!results.is_empty(), "Kafka said nothing about the topic");
    for result in results {
        result.map_err(|(name, error)| anyhow!("Kafka refuses {name}: {error}"))?;
    }
    Ok(())
}
