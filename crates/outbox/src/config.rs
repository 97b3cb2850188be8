//! The settings. They may stand in a file of their own or in the validator's or the caller's.
//!
//! So this program knows the names of those programs' sections and passes over what is in them. Everything
//! else that is unknown is refused: with a misspelt `[topic]` passed over, it would create topics that no
//! program uses.

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
    // The sections of the other programs.
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

/// How to reach the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Connection {
    /// Where the brokers are: `host:port`, several separated by commas.
    pub(crate) bootstrap_servers: String,
    /// Any property of librdkafka, such as those for TLS and SASL.
    pub(crate) properties: BTreeMap<String, String>,
    /// The group of the program whose file this is. The command line joins none.
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
    /// Checks what the types do not.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        Ok(self.connection().check()?)
    }

    /// The connection, as all programs make it.
    pub(crate) fn connection(&self) -> KafkaSettings {
        self.connection_as("outbox-command-line")
    }

    /// The connection of one who looks at what a group has committed.
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
    fn the_sample_file_equals_the_defaults() {
        service::config::assert_sample_equals_defaults::<Config>(Path::new(SAMPLES).join("outbox.toml"));
        Config::default().check().expect("the defaults are sound");
    }

    #[test]
    fn the_sample_file_of_each_program_is_understood() {
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
    fn a_misspelt_section_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "[topic]\norders = \"o\"\n").expect("written");
        let error = service::config::load::<Config>(Some(file.path()), &[])
            .expect_err("unknown")
            .to_string();
        assert!(error.contains("`topic`") && error.contains("`topics`"), "{error}");
    }
}
