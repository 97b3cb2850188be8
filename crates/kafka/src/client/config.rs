//! The settings of the connection, and the properties that users may not change.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

/// How to reach the cluster, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSettings {
    /// Where the brokers are: `host:port`, several separated by commas.
    pub bootstrap_servers: String,
    /// The consumer group.
    pub group_id: String,
    /// Any other property of librdkafka, such as those for TLS and SASL.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

/// A property in `[kafka.properties]` that a guarantee rests on.
#[derive(Debug, thiserror::Error)]
#[error(
    "the setting kafka.properties.{name:?} is refused: a guarantee of this program rests on the value it \
     sets itself; remove it"
)]
pub struct ProtectedProperty {
    name: String,
}

/// What the programs set themselves, because a guarantee rests on it.
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
    /// Names a property that a guarantee rests on.
    pub fn check(&self) -> Result<(), ProtectedProperty> {
        // The partition assignment strategy and the time-outs of session and transaction have settings
        // of their own and are set after the user's properties, so they need no line here.
        match self
            .properties
            .keys()
            .find(|name| PROTECTED.contains(&name.as_str()))
        {
            Some(name) => Err(ProtectedProperty { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// What every client starts from: the user's properties, then the brokers and the client's name.
    #[must_use]
    pub fn client(&self, client_id: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", client_id)
            // The default of 100 ms is slept whole while Kafka still writes the last transaction's markers
            // (CONCURRENT_TRANSACTIONS), and caps small transactions at 15 a second.
            .set("retry.backoff.ms", "10")
            .set("retry.backoff.max.ms", "1000")
            // A client believes what it was told of a topic for this long, unless an error tells it otherwise; the
            // default is five minutes.
            .set("topic.metadata.refresh.interval.ms", "10000")
            // How soon a broker that was away is tried again.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000");
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_that_a_guarantee_rests_on_is_refused() {
        let with = |name: &str| KafkaSettings {
            bootstrap_servers: "127.0.0.1:9092".into(),
            group_id: "g".into(),
            properties: [(name.to_owned(), "x".to_owned())].into(),
        };
        assert!(with("ssl.ca.location").check().is_ok());
        for name in PROTECTED {
            assert!(with(name).check().is_err(), "{name} was let through");
        }
    }
}
