//! Changes to topics that only an administrator, or time, can make.

use std::ops::ControlFlow;

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
    TopicResult,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};
use records::{Offset, Partition};

use super::LIMIT;
use crate::read_back::topics::high_watermarks;
use crate::wait::await_until;

/// Creates, changes and deletes topics while the programs run or are down.
pub struct Administrator {
    kafka: String,
    client: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
}

impl Administrator {
    /// Creates an admin client. It connects with the first request.
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
            // rdkafka's admin client is async only; scenarios are plain threads.
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("starting a runtime")?,
        })
    }

    /// Creates a topic with one replica and these settings.
    ///
    /// # Errors
    /// Kafka refuses, or does not answer within 30 s.
    pub fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (setting, value) in settings {
            topic = topic.set(setting, value);
        }
        let results = self
            .runtime
            .block_on(self.client.create_topics(&[topic], &options()))
            .with_context(|| format!("creating {name}"))?;
        each_succeeded(results)
    }

    /// Raises a topic's number of partitions, and waits until the brokers report it.
    ///
    /// # Errors
    /// Kafka refuses, or does not answer within 30 s.
    pub fn grow_topic(&self, name: &str, partitions: usize) -> Result<()> {
        let results = self
            .runtime
            .block_on(
                self.client
                    .create_partitions(&[NewPartitions::new(name, partitions)], &options()),
            )
            .with_context(|| format!("raising {name} to {partitions} partitions"))?;
        each_succeeded(results)?;
        // Brokers learn of new partitions a moment after the controller has acknowledged them.
        await_until(&format!("{name} has {partitions} partitions"), LIMIT, || {
            let reported = high_watermarks(&self.kafka, name).map_or(0, |ends| ends.len());
            Ok(match reported == partitions {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(format!("the brokers report {reported}")),
            })
        })
    }

    /// Changes one setting of a topic and resets all others to their defaults. Waits until the brokers report
    /// the new value.
    ///
    /// # Errors
    /// Kafka refuses, or does not answer within 30 s.
    pub fn configure_topic(&self, name: &str, setting: &str, value: &str) -> Result<()> {
        self.configure(ResourceSpecifier::Topic(name), setting, value)
    }

    /// Does the same with a setting of a broker that can be changed while it runs.
    ///
    /// # Errors
    /// Kafka refuses, or does not answer within 30 s.
    pub fn configure_broker(&self, id: i32, setting: &str, value: &str) -> Result<()> {
        self.configure(ResourceSpecifier::Broker(id), setting, value)
    }

    fn configure(&self, of: ResourceSpecifier<'_>, setting: &str, value: &str) -> Result<()> {
        // AlterConfigs replaces the whole set of settings; rdkafka has no incremental variant.
        let change = AlterConfig::new(of).set(setting, value);
        let results = self
            .runtime
            .block_on(self.client.alter_configs(&[change], &options()))
            .with_context(|| format!("setting {setting} of {of:?}"))?;
        for result in results {
            result.map_err(|(of, error)| {
                anyhow!("Kafka refused to set {setting}={value} on {of:?}: {error}")
            })?;
        }
        // A broker may report old settings for a while after a change.
        await_until(&format!("{setting} of {of:?} is {value}"), LIMIT, || {
            let reported = self.setting(of, setting)?;
            Ok(match reported.as_deref() == Some(value) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(format!("{reported:?}")),
            })
        })
    }

    fn setting(&self, of: ResourceSpecifier<'_>, setting: &str) -> Result<Option<String>> {
        let described = self
            .runtime
            .block_on(self.client.describe_configs(&[of], &options()))
            .with_context(|| format!("describing the settings of {of:?}"))?;
        let first = described
            .into_iter()
            .next()
            .with_context(|| format!("Kafka returned no settings of {of:?}"))?;
        let config = first.map_err(|error| anyhow!("Kafka refused to describe {of:?}: {error}"))?;
        Ok(config.get(setting).and_then(|entry| entry.value.clone()))
    }

    /// Deletes the records of a partition below an offset, as retention does.
    ///
    /// # Errors
    /// Kafka refuses, or does not answer within 30 s.
    pub fn delete_records(&self, topic: &str, partition: Partition, before: Offset) -> Result<()> {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition.0, At::Offset(before.0))?;
        let deleted = self
            .runtime
            .block_on(self.client.delete_records(&offsets, &options()))
            .with_context(|| format!("deleting records of {topic}/{partition} below {before}"))?;
        // The request as a whole may succeed while a partition of it fails.
        for element in deleted.elements() {
            element
                .error()
                .with_context(|| format!("deleting records of {topic}/{partition} below {before}"))?;
        }
        Ok(())
    }

    /// Deletes a consumer group without members, as brokers do some days after the last member has left.
    ///
    /// # Errors
    /// The group has members, or Kafka does not answer within 30 s.
    pub fn delete_group(&self, group: &str) -> Result<()> {
        let results = self
            .runtime
            .block_on(self.client.delete_groups(&[group], &options()))
            .with_context(|| format!("deleting the group {group}"))?;
        ensure!(!results.is_empty(), "Kafka returned no result for the group");
        for result in results {
            result.map_err(|(name, error)| anyhow!("Kafka refused to delete {name}: {error}"))?;
        }
        Ok(())
    }

    /// Deletes topics, so that a broker that serves many runs does not fill up. Missing topics are no error.
    ///
    /// # Errors
    /// Kafka does not answer.
    pub fn delete_topics(&self, names: &[&str]) -> Result<()> {
        // Results per topic are ignored: a topic may never have been created, or be deleted already.
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

fn each_succeeded(results: Vec<TopicResult>) -> Result<()> {
    // Without results the loop below would succeed.
    ensure!(!results.is_empty(), "Kafka returned no result for the topic");
    for result in results {
        result.map_err(|(name, error)| anyhow!("Kafka refused {name}: {error}"))?;
    }
    Ok(())
}
