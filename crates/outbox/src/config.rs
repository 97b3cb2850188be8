//! Settings of the command line, in a file of their own or in that of the validator or the caller.

use std::collections::BTreeMap;

use kafka::KafkaSettings;
use records::Topics;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// All settings of the command line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) kafka: Connection,
    pub(crate) topics: Topics,
    // Sections of the other programs, listed by name and ignored. Unknown sections are refused: if a misspelt
    // `[topic]` were ignored, the command would create topics that no program uses.
    #[serde(skip_serializing)]
    admin: IgnoredAny,
    #[serde(skip_serializing)]
    api: IgnoredAny,
    #[serde(skip_serializing)]
    caller: IgnoredAny,
    #[serde(skip_serializing)]
    circuit_breaker: IgnoredAny,
    #[serde(skip_serializing)]
    rate_limit: IgnoredAny,
    #[serde(skip_serializing)]
    concurrency: IgnoredAny,
    #[serde(skip_serializing)]
    order: IgnoredAny,
    #[serde(skip_serializing)]
    refusals: IgnoredAny,
    #[serde(skip_serializing)]
    retry: IgnoredAny,
    #[serde(skip_serializing)]
    store: IgnoredAny,
    #[serde(skip_serializing)]
    deferral: IgnoredAny,
    #[serde(skip_serializing)]
    validator: IgnoredAny,
    #[serde(skip_serializing)]
    verify: IgnoredAny,
}

/// Connection to the Kafka cluster: `[kafka]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Connection {
    /// Broker addresses, `host:port`, separated by commas.
    pub(crate) bootstrap_servers: String,
    /// Additional librdkafka properties, such as those for TLS and SASL.
    pub(crate) properties: BTreeMap<String, String>,
    /// Consumer group of the program whose file this is; ignored, since the command line joins no group.
    #[serde(skip_serializing)]
    group_id: IgnoredAny,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            bootstrap_servers: "127.0.0.1:9092".into(),
            properties: BTreeMap::new(),
            group_id: IgnoredAny,
        }
    }
}

impl Config {
    /// Checks the settings of the connection.
    ///
    /// # Errors
    /// Names the setting that is invalid.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        Ok(self.connection().check()?)
    }

    /// Returns the connection settings of the command line.
    pub(crate) fn connection(&self) -> KafkaSettings {
        self.connection_as("outbox-command-line")
    }

    /// Returns the connection settings for reading the committed offsets of `group`.
    pub(crate) fn connection_as(&self, group: &str) -> KafkaSettings {
        KafkaSettings {
            bootstrap_servers: self.kafka.bootstrap_servers.clone(),
            group_id: group.into(),
            properties: self.kafka.properties.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docker");

    #[test]
    fn sample_file_equals_the_defaults() {
        service::config::assert_sample_equals_defaults::<Config>(Path::new(SAMPLES).join("outbox.toml"));
        Config::default().check().expect("the defaults are valid");
    }

    #[test]
    fn sample_file_of_each_program_is_accepted() {
        let mut seen = 0;
        for file in std::fs::read_dir(SAMPLES).expect("the samples") {
            let path = file.expect("a file").path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let config: Config =
                    service::config::load(Some(&path), &[]).unwrap_or_else(|e| panic!("{e:#}"));
                assert_eq!(config.topics, Topics::default(), "{}", path.display());
                seen += 1;
            }
        }
        assert!(seen >= 2, "the validator's file and this program's own are there");
    }

    #[test]
    fn misspelt_section_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "[topic]\norders = \"o\"\n").expect("written");
        let error = service::config::load::<Config>(Some(file.path()), &[])
            .expect_err("unknown")
            .to_string();
        assert!(error.contains("`topic`") && error.contains("`topics`"), "{error}");
    }
}
