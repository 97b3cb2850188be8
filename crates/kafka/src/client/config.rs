//! Connection settings, and the librdkafka properties that users may not override.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

/// Connection to the cluster, and the consumer group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSettings {
    /// Addresses of the brokers, as `host:port` separated by commas.
    pub bootstrap_servers: String,
    /// Id of the consumer group.
    pub group_id: String,
    /// Other librdkafka properties, such as those for TLS and SASL.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

/// Refusal of a property in `[kafka.properties]` that a guarantee depends on.
#[derive(Debug, thiserror::Error)]
#[error(
    "the setting kafka.properties.{name:?} is refused: this program sets the property itself, because a \
     guarantee depends on its value; remove the setting"
)]
pub struct ProtectedProperty {
    name: String,
}

/// Properties that the programs set themselves, because a guarantee depends on them.
const PROTECTED: [&str; 18] = [
    "acks",
    "auto.commit.enable",
    "auto.offset.reset",
    "bootstrap.servers",
    "check.crcs",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "max.in.flight.requests.per.connection",
    "message.timeout.ms",
    "metadata.broker.list",
    "request.required.acks",
    "transactional.id",
];

impl KafkaSettings {
    /// Checks the user's properties.
    ///
    /// # Errors
    /// A property is protected; the error names it.
    pub fn check(&self) -> Result<(), ProtectedProperty> {
        // The assignment strategy and the timeouts of session and transaction are not in the list: the clients
        // set them after the user's properties, so a user's value has no effect.
        match self
            .properties
            .keys()
            .find(|name| PROTECTED.contains(&name.as_str()))
        {
            Some(name) => Err(ProtectedProperty { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// Returns the configuration that every client starts from: the user's properties, the brokers and the
    /// client id.
    #[must_use]
    pub fn client(&self, client_id: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", client_id)
            // librdkafka sleeps for the whole backoff while Kafka still writes the markers of the last
            // transaction (CONCURRENT_TRANSACTIONS). The default of 100 ms caps small transactions at 15 per
            // second.
            .set("retry.backoff.ms", "10")
            .set("retry.backoff.max.ms", "1000")
            // A recreated or grown topic is noticed within this time. The default is five minutes.
            .set("topic.metadata.refresh.interval.ms", "10000")
            // Bounds the time without a broker after its restart.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000");
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protected_property_is_refused() {
        let with = |name: &str| KafkaSettings {
            bootstrap_servers: "127.0.0.1:9092".into(),
            group_id: "g".into(),
            properties: [(name.to_owned(), "x".to_owned())].into(),
        };
        assert!(with("ssl.ca.location").check().is_ok());
        for name in PROTECTED {
            assert!(with(name).check().is_err(), "{name} was accepted");
        }
    }
}
