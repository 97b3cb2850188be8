//! Descriptions of topics: partitions, replicas, ids and settings, gathered from three requests; and of the
//! settings of the brokers that the topics depend on.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminOptions, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataBroker;
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaRespErr;

use super::{Admin, REQUEST_TIMEOUT, options, topic_ids, wait};
use crate::client::error::{ClientError, code_of};
use crate::topics::{ExistingTopics, TopicDescription, TransactionVerification};

/// A broker, and whether it verifies transactions.
#[derive(Debug)]
pub struct DescribedBroker {
    /// Id of the broker.
    pub id: i32,
    /// Its setting; or the broker did not respond, or this user may not describe its settings.
    pub verification: Result<TransactionVerification, ClientError>,
}

/// Describes those of the topics that exist.
///
/// # Errors
/// The cluster did not respond, or this user may not describe a topic.
pub(super) fn describe(admin: &Admin, names: &[&str]) -> Result<ExistingTopics, ClientError> {
    let mut found = layouts(admin, names)?;
    for name in names.iter().filter(|name| !found.contains_key(**name)) {
        expect_describable(admin, name)?;
    }
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

/// Fails if this user may not describe the topic. Among all topics a broker leaves such a one out, as if it did not
/// exist.
fn expect_describable(admin: &Admin, name: &str) -> Result<(), ClientError> {
    match topic_ids::identities(admin.cluster.client(), &[name], REQUEST_TIMEOUT) {
        Err(error) if code_of(&error) == Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            let what =
                format!("the topic {name:?} (which needs the permission DESCRIBE; READ and WRITE imply it)");
            Err(failed(admin, &what, error))
        }
        // The topic does not exist.
        Ok(_) => Ok(()),
        Err(error) => Err(failed(admin, &format!("the topic {name:?}"), error)),
    }
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
        // A refusal comes as a topic without settings, and each topic has some. Without them the rules would be
        // applied to defaults.
        if resource.entries.is_empty() {
            let what =
                format!("the settings of the topic {name:?} (which needs the permission DESCRIBE_CONFIGS)");
            let error = KafkaError::AdminOp(RDKafkaErrorCode::TopicAuthorizationFailed);
            return Err(failed(admin, &what, error));
        }
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
    // The setting is the same on all brokers of a sound cluster, so one is enough.
    let Some(broker) = broker_ids(admin)?.first().copied() else {
        return Ok(None);
    };
    let settings = broker_settings(admin, broker, &options())?;
    let minutes = settings.get("offsets.retention.minutes");
    Ok(minutes.and_then(|minutes| minutes.parse().ok()))
}

/// Returns whether each broker verifies transactions; ends with the first one that did not say.
///
/// # Errors
/// The cluster did not respond.
pub(super) fn transaction_verification(admin: &Admin) -> Result<Vec<DescribedBroker>, ClientError> {
    let options = options().request_timeout(Some(BROKER_TIMEOUT));
    let mut described = Vec::new();
    // One after the other: librdkafka describes the settings of one broker per request.
    for id in broker_ids(admin)? {
        let verification = broker_settings(admin, id, &options).map(|settings| verification_of(&settings));
        // The others may not respond either, and each costs the timeout.
        let is_last = verification.is_err();
        described.push(DescribedBroker { id, verification });
        if is_last {
            break;
        }
    }
    Ok(described)
}

fn verification_of(settings: &BTreeMap<String, String>) -> TransactionVerification {
    match settings
        .get("transaction.partition.verification.enable")
        .map(String::as_str)
    {
        // Kafka 3.6 verifies records and no committed offsets. It reports no version; settings of this kind came with
        // 3.7, as offsets did.
        Some("true") if !settings.keys().any(|name| name.starts_with("group.consumer.")) => {
            TransactionVerification::Unsupported
        }
        Some("true") => TransactionVerification::Enabled,
        Some(_) => TransactionVerification::Disabled,
        // A setting that each broker with transactions has: this one reports its settings, and does not have
        // the other.
        None if settings.contains_key("transactional.id.expiration.ms") => {
            TransactionVerification::Unsupported
        }
        None => TransactionVerification::NotReported,
    }
}

/// Timeout for the settings of one broker. The programs start with a warning after it.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

fn broker_ids(admin: &Admin) -> Result<Vec<i32>, ClientError> {
    let metadata = admin
        .cluster
        .client()
        .fetch_metadata(None, REQUEST_TIMEOUT)
        .map_err(|error| failed(admin, "the brokers", error))?;
    Ok(metadata.brokers().iter().map(MetadataBroker::id).collect())
}

/// Returns the settings of a broker.
fn broker_settings(
    admin: &Admin,
    broker: i32,
    options: &AdminOptions,
) -> Result<BTreeMap<String, String>, ClientError> {
    let what = format!(
        "the settings of broker {broker} (which needs the permission DESCRIBE_CONFIGS on the cluster)"
    );
    let results = wait(
        admin
            .client
            .describe_configs(&[ResourceSpecifier::Broker(broker)], options),
    )
    .map_err(|error| failed(admin, &what, error))?;
    let mut settings = BTreeMap::new();
    for result in results {
        let resource = result.map_err(|code| failed(admin, &what, KafkaError::AdminOp(code)))?;
        settings.extend(
            resource
                .entries
                .into_iter()
                .filter_map(|entry| Some((entry.name, entry.value?))),
        );
    }
    // As for a topic.
    if settings.is_empty() {
        let error = KafkaError::AdminOp(RDKafkaErrorCode::ClusterAuthorizationFailed);
        return Err(failed(admin, &what, error));
    }
    Ok(settings)
}

fn failed(admin: &Admin, what: &str, error: KafkaError) -> ClientError {
    ClientError::new(
        format!("describing {what} at {:?}", admin.bootstrap_servers),
        error,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broker_without_the_setting_is_too_old() {
        let of = |settings: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            verification_of(&settings.iter().map(owned).collect())
        };
        let setting = |value| ("transaction.partition.verification.enable", value);
        let other = ("transactional.id.expiration.ms", "604800000");
        let since_3_7 = ("group.consumer.max.size", "2147483647");
        assert_eq!(
            of(&[other, since_3_7, setting("true")]),
            TransactionVerification::Enabled
        );
        assert_eq!(
            of(&[other, since_3_7, setting("false")]),
            TransactionVerification::Disabled
        );
        assert_eq!(
            of(&[other, setting("true")]),
            TransactionVerification::Unsupported,
            "Kafka 3.6 does not verify committed offsets"
        );
        assert_eq!(of(&[other]), TransactionVerification::Unsupported);
        assert_eq!(
            of(&[]),
            TransactionVerification::NotReported,
            "a broker that hides its settings"
        );
    }
}
