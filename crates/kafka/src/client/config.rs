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
     guarantee depends on its value; remove the setting (timeouts have settings of their own in [validator] \
     and [caller])"
)]
pub struct ProtectedProperty {
    name: String,
}

/// Properties that the programs set themselves, because a guarantee depends on them.
// Aliases, too: librdkafka takes one name or the other, in no fixed order.
const PROTECTED: [&str; 37] = [
    "acks",
    // A topic that was deleted would come back empty, and unnoticed.
    "allow.auto.create.topics",
    "auto.commit.enable",
    "auto.offset.reset",
    "bootstrap.servers",
    "check.crcs",
    // Transactions and calls end by the delivery report of each record, and checkpoints come from it.
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    // Reports and logs arrive by callbacks, which these two replace.
    "enabled_events",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "group.protocol.type",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "isolation.level",
    "log.queue",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    // The time-outs of drains and commits are checked against librdkafka's default.
    "max.poll.interval.ms",
    // Fewer retries than the delivery timeout allows would turn a moving leader into a failed transaction.
    "message.send.max.retries",
    "message.timeout.ms",
    "metadata.broker.list",
    "offset.store.method",
    "partition.assignment.strategy",
    // Records of one key stay on one partition.
    "partitioner",
    "queuing.strategy",
    "request.required.acks",
    "retries",
    "session.timeout.ms",
    "transaction.timeout.ms",
    "transactional.id",
];

impl KafkaSettings {
    /// Checks the user's properties.
    ///
    /// # Errors
    /// A property is protected; the error names it.
    pub fn check(&self) -> Result<(), ProtectedProperty> {
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

    #[test]
    fn properties_of_reports_and_timeouts_are_protected() {
        for name in [
            "delivery.report.only.error",
            "delivery.timeout.ms",
            "enabled_events",
            "max.in.flight",
            "max.poll.interval.ms",
            "message.send.max.retries",
            "partition.assignment.strategy",
            "partitioner",
            "retries",
            "session.timeout.ms",
            "transaction.timeout.ms",
        ] {
            assert!(PROTECTED.contains(&name), "{name} is not protected");
        }
    }
}
