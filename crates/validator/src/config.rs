//! The settings, each with its default and the reason for it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use bytesize::ByteSize;
use kafka::KafkaSettings;
use pipeline::admission::{KeySource, Limits, Partitioner, RecordKey, Rules};
use records::Topics;
use serde::{Deserialize, Serialize};
use service::admin::AdminSettings;

/// All settings of the validator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) kafka: KafkaSettings,
    pub(crate) topics: Topics,
    pub(crate) validator: ValidatorSettings,
    pub(crate) store: StoreSettings,
    pub(crate) admin: AdminSettings,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ValidatorSettings {
    /// Names this instance: its transactional id and its static group membership. Each running validator
    /// needs one of its own, and keeps it over restarts.
    pub(crate) instance_id: String,
    /// A transaction ends this long after its first order. It is most of an order's latency; shorter costs
    /// throughput only far below this.
    #[serde(with = "humantime_serde")]
    pub(crate) commit_interval: Duration,
    /// A transaction ends at the latest with so many orders: two records each must fit into the producer's
    /// queue.
    pub(crate) batch_orders_max: usize,
    /// A transaction ends at the latest with so many bytes of orders: they are held in memory until it does.
    pub(crate) batch_bytes_max: ByteSize,
    /// Where the idempotency key stands: a JSON pointer, `record-key`, or `header:NAME`.
    pub(crate) idempotency_key: String,
    /// Whether the record key must be the idempotency key.
    pub(crate) record_key: RecordKeySetting,
    /// How the producers choose an order's partition; with one named, orders on a wrong one are refused.
    pub(crate) partitioner: PartitionerSetting,
    /// Another instance takes over this long after this one fell silent.
    #[serde(with = "humantime_serde")]
    pub(crate) session_timeout: Duration,
    /// The broker aborts a dead validator's transaction after this; until then its partitions' readers wait.
    /// Above the session time-out, so that a slow commit is not cut off while its owner lives.
    #[serde(with = "humantime_serde")]
    pub(crate) transaction_timeout: Duration,
    /// A commit without an answer for this long has an unknown outcome, and is resolved by a restore.
    #[serde(with = "humantime_serde")]
    pub(crate) commit_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StoreSettings {
    /// The state directory; one validator's only. It may be lost: it is a cache of the changelog.
    pub(crate) dir: PathBuf,
    /// What the stores may hold in memory, in all.
    pub(crate) cache: ByteSize,
    /// What a store has taken in is made durable this often: the changelog's tail that a restart reads is
    /// as long.
    #[serde(with = "humantime_serde")]
    pub(crate) persist_interval: Duration,
    /// Whether a store's pages are all checked when it is opened: some 0.2 s for a million keys.
    pub(crate) verify: bool,
    /// How many partitions are restored at a time.
    pub(crate) restores_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RecordKeySetting {
    /// It must be: otherwise one order could lie on two partitions and be paid twice.
    IsIdempotencyKey,
    /// It need not be: the producers see to it that an order lies always on the same partition.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PartitionerSetting {
    /// As Java clients do.
    Murmur2,
    /// As librdkafka does by default.
    Crc32,
    /// Not checked.
    Any,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kafka: KafkaSettings {
                bootstrap_servers: "127.0.0.1:9092".into(),
                group_id: "order-validator".into(),
                properties: [].into(),
            },
            topics: Topics::default(),
            validator: ValidatorSettings::default(),
            store: StoreSettings::default(),
            admin: AdminSettings::on_port(9464),
        }
    }
}

impl Default for ValidatorSettings {
    fn default() -> Self {
        Self {
            instance_id: "validator-0".into(),
            commit_interval: Duration::from_millis(20),
            batch_orders_max: 10_000,
            batch_bytes_max: ByteSize::mib(32),
            idempotency_key: "/order_id".into(),
            record_key: RecordKeySetting::IsIdempotencyKey,
            partitioner: PartitionerSetting::Any,
            session_timeout: Duration::from_secs(10),
            transaction_timeout: Duration::from_secs(15),
            commit_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            dir: "./state".into(),
            cache: ByteSize::mib(256),
            persist_interval: Duration::from_secs(1),
            verify: true,
            restores_max: 2,
        }
    }
}

impl Config {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the setting that is wrong, and what it must be.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.kafka.check()?;
        let validator = &self.validator;
        ensure!(
            !validator.instance_id.is_empty(),
            "the setting validator.instance_id is empty"
        );
        ensure!(
            (1..=50_000).contains(&validator.batch_orders_max),
            "the setting validator.batch_orders_max is {}; it must be from 1 to 50000, so that both records of \
             each order fit into the producer's queue",
            validator.batch_orders_max
        );
        ensure!(
            validator.batch_bytes_max <= ByteSize::mib(50),
            "the setting validator.batch_bytes_max is {}; it must be at most 50MiB, so that the orders fit into \
             the producer's queue",
            validator.batch_bytes_max
        );
        ensure!(
            validator.commit_interval < validator.transaction_timeout / 2,
            "the setting validator.commit_interval must be less than half of validator.transaction_timeout"
        );
        ensure!(
            validator.commit_timeout <= validator.transaction_timeout,
            "the setting validator.commit_timeout must not be longer than validator.transaction_timeout"
        );
        ensure!(
            self.store.restores_max >= 1,
            "the setting store.restores_max must be 1 or more"
        );
        self.key_source()?;
        Ok(())
    }

    /// The rules of admission, for an orders topic with so many partitions and an outbox that takes records
    /// of so many bytes.
    ///
    /// # Errors
    /// The setting of the idempotency key is not understood.
    pub(crate) fn rules(&self, partitions: usize, record_bytes_max: usize) -> anyhow::Result<Rules> {
        Ok(Rules {
            key: self.key_source()?,
            record_key: match self.validator.record_key {
                RecordKeySetting::IsIdempotencyKey => RecordKey::IsIdempotencyKey,
                RecordKeySetting::Any => RecordKey::Ignored,
            },
            partitioner: match self.validator.partitioner {
                PartitionerSetting::Murmur2 => Partitioner::Murmur2,
                PartitionerSetting::Crc32 => Partitioner::Crc32,
                PartitionerSetting::Any => Partitioner::Any,
            },
            partitions: u32::try_from(partitions)?,
            record_bytes_max,
        })
    }

    /// When a transaction ends.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            commit_interval: self.validator.commit_interval,
            orders_max: self.validator.batch_orders_max,
            bytes_max: usize::try_from(self.validator.batch_bytes_max.as_u64()).unwrap_or(usize::MAX),
        }
    }

    /// How long a transaction and its end may take.
    pub(crate) fn transaction_limits(&self) -> kafka::transaction::Limits {
        kafka::transaction::Limits {
            transaction_timeout: self.validator.transaction_timeout,
            commit_timeout: self.validator.commit_timeout,
        }
    }

    /// The membership in the group.
    pub(crate) fn membership(&self) -> kafka::Membership {
        kafka::Membership {
            instance_id: Some(self.validator.instance_id.clone()),
            session_timeout: self.validator.session_timeout,
            // A third is usual; sooner means that a rebalance is heard of sooner.
            heartbeat_interval: (self.validator.session_timeout / 10).max(Duration::from_millis(100)),
            prefetch_kib_max: 32 * 1024,
        }
    }

    /// The identity that fences: stable over restarts, one per instance and group.
    pub(crate) fn transactional_id(&self) -> String {
        format!("{}-{}", self.kafka.group_id, self.validator.instance_id)
    }

    fn key_source(&self) -> anyhow::Result<KeySource> {
        let text = self.validator.idempotency_key.as_str();
        match text.strip_prefix("header:") {
            Some(name) if !name.is_empty() => Ok(KeySource::Header(name.to_owned())),
            None if text == "record-key" => Ok(KeySource::RecordKey),
            None if text.starts_with('/') => Ok(KeySource::Pointer(text.to_owned())),
            Some(_) | None => anyhow::bail!(
                "the setting validator.idempotency_key is {text:?}; it must be a JSON pointer such as \
                 \"/order_id\", \"record-key\", or \"header:NAME\""
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_file_equals_the_defaults() {
        service::config::assert_sample_equals_defaults::<Config>(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docker/validator.toml"
        ));
        Config::default().check().expect("the defaults are sound");
    }

    #[test]
    fn the_key_stands_where_the_setting_says() {
        let source = |text: &str| {
            let mut config = Config::default();
            config.validator.idempotency_key = text.into();
            config.key_source().ok()
        };
        assert_eq!(source("/a/b"), Some(KeySource::Pointer("/a/b".into())));
        assert_eq!(source("record-key"), Some(KeySource::RecordKey));
        assert_eq!(source("header:x-id"), Some(KeySource::Header("x-id".into())));
        assert_eq!((source("header:"), source("order_id")), (None, None));
    }
}
