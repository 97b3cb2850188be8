//! Descriptions of topics: partitions, replicas, ids and settings, gathered from three requests; and of the
//! one setting of the brokers that the topics depend on.

use std::collections::BTreeMap;

use rdkafka::admin::{OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaRespErr;

use super::{Admin, REQUEST_TIMEOUT, options, wait};
use crate::client::error::ClientError;
use crate::topics::{ExistingTopics, TopicDescription};

/// Describes those of the topics that exist.
///
/// # Errors
/// The cluster did not respond, or this user may not describe a topic.
pub(super) fn describe(admin: &Admin, names: &[&str]) -> Result<ExistingTopics, ClientError> {
    let mut found = layouts(admin, names)?;
    if found.is_empty() {
        return Ok(found);
    }
    let names: Vec<String> = found.keys().cloned().collect();
    let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
    for (name, id) in admin.topic_ids(&borrowed, REQUEST_TIMEOUT)? {
        if let Some(topic) = found.get_mut(&name) {
            topic.id = Some(id);
        }
    }
    let mut configs = configs(admin, &borrowed)?;
    // A topic whose settings are unknown cannot be verified, so it counts as missing.
    Ok(found
        .into_iter()
        .filter_map(|(name, topic)| {
            let configs = configs.remove(&name)?;
            Some((name, TopicDescription { configs, ..topic }))
        })
        .collect())
}

/// Returns partition counts and replication factors.
fn layouts(admin: &Admin, names: &[&str]) -> Result<ExistingTopics, ClientError> {
    // For all topics: a broker may create a missing topic when it is asked for it by name.
    let metadata = admin
        .cluster
        .client()
        .fetch_metadata(None, REQUEST_TIMEOUT)
        .map_err(|error| failed(admin, "the topics", error))?;
    let mut found = ExistingTopics::new();
    for topic in metadata
        .topics()
        .iter()
        .filter(|topic| names.contains(&topic.name()))
    {
        match topic.error() {
            None => {}
            // The topic is being created or deleted.
            Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => continue,
            Some(code) => {
                let error = KafkaError::MetadataFetch(code.into());
                return Err(failed(admin, &format!("the topic {:?}", topic.name()), error));
            }
        }
        let replicas = topic
            .partitions()
            .iter()
            .map(|partition| partition.replicas().len());
        let described = TopicDescription {
            id: None,
            partitions: topic.partitions().len(),
            // The weakest partition decides what a broker's loss takes away.
            replication_factor: replicas.min().unwrap_or(0),
            configs: BTreeMap::new(),
        };
        found.insert(topic.name().to_owned(), described);
    }
    Ok(found)
}

/// Returns the settings by topic, the broker's defaults included.
fn configs(admin: &Admin, names: &[&str]) -> Result<BTreeMap<String, BTreeMap<String, String>>, ClientError> {
    let resources: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let results = wait(admin.client.describe_configs(&resources, &options()))
        .map_err(|error| failed(admin, "the settings of the topics", error))?;
    let mut configs = BTreeMap::new();
    for result in results {
        let resource = result.map_err(|code| {
            // The response does not say which topic was refused.
            let what = format!(
                "the settings of the topics {} (which needs the permission DESCRIBE_CONFIGS)",
                names.join(", ")
            );
            failed(admin, &what, KafkaError::AdminOp(code))
        })?;
        let OwnedResourceSpecifier::Topic(name) = resource.specifier else {
            continue;
        };
        let entries = resource
            .entries
            .into_iter()
            .filter_map(|entry| Some((entry.name, entry.value?)));
        configs.insert(name, entries.collect());
    }
    Ok(configs)
}

/// Returns the setting `offsets.retention.minutes` of one broker.
///
/// # Errors
/// The cluster did not respond, or this user may not describe the settings of a broker.
pub(super) fn offsets_retention_minutes(admin: &Admin) -> Result<Option<i64>, ClientError> {
    const SETTING: &str = "offsets.retention.minutes";
    let what = "the settings of a broker (which needs the permission DESCRIBE_CONFIGS on the cluster)";
    let metadata = admin
        .cluster
        .client()
        .fetch_metadata(None, REQUEST_TIMEOUT)
        .map_err(|error| failed(admin, "the brokers", error))?;
    // The setting is the same on all brokers of a sound cluster, so one is enough.
    let Some(broker) = metadata.brokers().first() else {
        return Ok(None);
    };
    let results = wait(
        admin
            .client
            .describe_configs(&[ResourceSpecifier::Broker(broker.id())], &options()),
    )
    .map_err(|error| failed(admin, what, error))?;
    for result in results {
        let resource = result.map_err(|code| failed(admin, what, KafkaError::AdminOp(code)))?;
        let minutes = resource.get(SETTING).and_then(|entry| entry.value.as_deref());
        if let Some(minutes) = minutes {
            return Ok(minutes.parse().ok());
        }
    }
    Ok(None)
}

fn failed(admin: &Admin, what: &str, error: KafkaError) -> ClientError {
    ClientError::new(
        format!("describing {what} at {:?}", admin.bootstrap_servers),
        error,
    )
}
