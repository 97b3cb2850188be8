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

/// Refusal of a property in `[kafka.properties]`. No message has its value, which may be a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedProperty {
    /// A guarantee depends on the property.
    #[error(
        "the setting kafka.properties.{name:?} is refused: this program sets the property itself, because a \
         guarantee depends on its value; remove the setting (timeouts have settings of their own in [validator] \
         and [caller])"
    )]
    Protected {
        /// Name of the property.
        name: String,
    },
    /// The mechanism needs tokens, and librdkafka is built without a client that gets them.
    #[error(
        "the setting kafka.properties.{name:?} is refused: this build has no OIDC client (librdkafka without libcurl), so \
         that it can ask no token endpoint for the tokens of OAUTHBEARER; set sasl.mechanism to SCRAM-SHA-512 or PLAIN, \
         or use mutual TLS"
    )]
    NoOidc {
        /// Name of the property that sets the mechanism.
        name: String,
    },
    /// The tokens would be without a signature.
    #[error(
        "the setting kafka.properties.{UNSECURED_TOKEN:?} is refused: it has librdkafka make tokens without a signature, \
         with which anybody can be any user; remove the setting, and use SCRAM-SHA-512, PLAIN or mutual TLS"
    )]
    UnsecuredToken,
}

/// Property for test tokens of librdkafka.
const UNSECURED_TOKEN: &str = "enable.sasl.oauthbearer.unsecure.jwt";

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

/// Names of the property for the SASL mechanism.
const MECHANISM: [&str; 2] = ["sasl.mechanism", "sasl.mechanisms"];

impl KafkaSettings {
    /// Checks the user's properties.
    ///
    /// # Errors
    /// A property is protected, or asks for tokens that this build does not have; the error names it.
    pub fn check(&self) -> Result<(), RefusedProperty> {
        if let Some(name) = self
            .properties
            .keys()
            .find(|name| PROTECTED.contains(&name.as_str()))
        {
            return Err(RefusedProperty::Protected { name: name.clone() });
        }
        // Whatever its value and the mechanism: a file that has it was made for tests.
        if self.properties.contains_key(UNSECURED_TOKEN) {
            return Err(RefusedProperty::UnsecuredToken);
        }
        // librdkafka would connect to no broker before it has a first token, which never comes, and the message would
        // be that no broker answers.
        match self.properties.iter().find(|(name, mechanism)| {
            MECHANISM.contains(&name.as_str()) && mechanism.trim().eq_ignore_ascii_case("OAUTHBEARER")
        }) {
            Some((name, _)) => Err(RefusedProperty::NoOidc { name: name.clone() }),
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

    fn check(properties: &[(&str, &str)]) -> Result<(), RefusedProperty> {
        let text = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        KafkaSettings {
            bootstrap_servers: "127.0.0.1:9092".into(),
            group_id: "g".into(),
            properties: properties.iter().map(text).collect(),
        }
        .check()
    }

    #[test]
    fn protected_property_is_refused() {
        assert!(check(&[("ssl.ca.location", "x")]).is_ok());
        for name in PROTECTED {
            assert!(check(&[(name, "x")]).is_err(), "{name} was accepted");
        }
    }

    #[test]
    fn mechanism_without_its_client_is_refused() {
        for name in ["sasl.mechanism", "sasl.mechanisms"] {
            for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
                assert_eq!(check(&[(name, mechanism)]), Ok(()));
            }
            for mechanism in ["OAUTHBEARER", "oauthbearer", " OAUTHBEARER "] {
                let refused = check(&[
                    (name, mechanism),
                    ("sasl.oauthbearer.method", "oidc"),
                    ("sasl.oauthbearer.client.secret", "hunter2"),
                ])
                .expect_err(mechanism);
                assert_eq!(refused, RefusedProperty::NoOidc { name: name.into() });
                let message = refused.to_string();
                assert!(
                    message.contains(name) && !message.contains("hunter2"),
                    "{message}"
                );
            }
        }
    }

    #[test]
    fn unsecured_token_is_refused_in_every_case() {
        for value in ["true", "false", "1", ""] {
            for mechanism in ["OAUTHBEARER", "PLAIN"] {
                let refused = check(&[("sasl.mechanism", mechanism), (UNSECURED_TOKEN, value)]);
                assert_eq!(
                    refused,
                    Err(RefusedProperty::UnsecuredToken),
                    "{mechanism}, {value:?}"
                );
            }
        }
    }

    /// The reason for the refusal of OAUTHBEARER. Fails if a build gets the client: then the refusal must go.
    #[test]
    fn librdkafka_has_no_oidc_client() {
        let features = ClientConfig::new()
            .create_native_config()
            .and_then(|config| config.get("builtin.features"))
            .expect("the features of librdkafka");
        assert!(features.contains("zstd"), "not a list of features: {features}");
        assert!(!features.contains("oidc"), "{features}");
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
