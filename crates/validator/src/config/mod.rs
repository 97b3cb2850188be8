//! Settings of the validator, with their defaults and limits.

mod order;
mod refusals;
mod store;
mod validator;

use std::time::Duration;

use kafka::KafkaSettings;
use pipeline::admission::{RefusalSettings, Rules, TransactionLimits};
use records::Topics;
use registry::RegistrySettings;
use serde::{Deserialize, Serialize};
use service::admin::AdminSettings;
use service::traces::TracesSettings;

use self::order::OrderSettings;
use self::refusals::RefusalsSettings;
pub(crate) use self::store::StandbySetting;
use self::store::StoreSettings;
pub(crate) use self::validator::PRODUCER_OPEN_TIMEOUT;
use self::validator::ValidatorSettings;

/// Settings of the validator, by section of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) kafka: KafkaSettings,
    pub(crate) topics: Topics,
    pub(crate) validator: ValidatorSettings,
    pub(crate) order: OrderSettings,
    pub(crate) schema_registry: RegistrySettings,
    pub(crate) refusals: RefusalsSettings,
    pub(crate) store: StoreSettings,
    pub(crate) admin: AdminSettings,
    pub(crate) traces: TracesSettings,
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
            order: OrderSettings::default(),
            schema_registry: RegistrySettings::default(),
            refusals: RefusalsSettings::default(),
            store: StoreSettings::default(),
            admin: AdminSettings::on_port(9464),
            traces: TracesSettings::default(),
        }
    }
}

impl Config {
    /// Checks what the types cannot express, and reads the schema of the orders if there is one.
    ///
    /// # Errors
    /// Names the setting that is wrong, and the values that are allowed.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.kafka.check()?;
        self.traces.check()?;
        self.schema_registry.check()?;
        self.validator.check()?;
        self.store.check()?;
        self.refusals.check()?;
        self.validator.key_source()?;
        self.order.order_form()?;
        Ok(())
    }

    /// Returns the rules of admission; `partitions` is the count of the orders topic, `record_bytes_max` the
    /// maximum record size of the outbox.
    ///
    /// # Errors
    /// `validator.idempotency_key` is malformed, the settings of `[order]` contradict each other, or the schema
    /// cannot be read or used.
    pub(crate) fn rules(&self, partitions: usize, record_bytes_max: usize) -> anyhow::Result<Rules> {
        Ok(Rules {
            form: self.order.order_form()?,
            key: self.validator.key_source()?,
            record_key: self.validator.record_key,
            fingerprint: self.validator.fingerprint.clone(),
            partitioner: self.validator.partitioner,
            partitions: u32::try_from(partitions)?,
            record_bytes_max,
        })
    }

    /// Returns the settings for refusals in mass.
    pub(crate) const fn refusals(&self) -> RefusalSettings {
        self.refusals.for_pipeline()
    }

    /// Returns the limits at which a transaction ends.
    pub(crate) fn limits(&self) -> TransactionLimits {
        TransactionLimits {
            commit_interval: self.validator.commit_interval,
            backlog_interval: self
                .validator
                .backlog_commit_interval
                .max(self.validator.commit_interval),
            orders_max: self.validator.batch_orders_max,
            bytes_max: usize::try_from(self.validator.batch_bytes_max.as_u64()).unwrap_or(usize::MAX),
        }
    }

    /// Returns the timeouts of a transaction and its commit.
    pub(crate) fn transaction_timeouts(&self) -> kafka::producer::transactional::TransactionTimeouts {
        kafka::producer::transactional::TransactionTimeouts {
            transaction_timeout: self.validator.transaction_timeout,
            commit_timeout: self.validator.commit_timeout,
        }
    }

    /// Returns the settings of the group membership.
    pub(crate) fn membership(&self) -> kafka::Membership {
        kafka::Membership {
            instance_id: Some(self.validator.instance_id.clone()),
            session_timeout: self.validator.session_timeout,
            // A third of the session timeout is usual. Members learn of a rebalance by their heartbeat, so a
            // tenth makes rebalances faster.
            heartbeat_interval: (self.validator.session_timeout / 10).max(Duration::from_millis(100)),
            // What is read while a transaction ends, and more: the next one starts from memory.
            prefetch_kib_max: 4 * 1024,
        }
    }

    /// Returns the transactional id. It is stable over restarts, so that a restarted instance fences its
    /// earlier run, and has the group in it, so that pipelines on one cluster do not fence each other.
    pub(crate) fn transactional_id(&self) -> String {
        self.transactional_id_of(&self.validator.instance_id)
    }

    /// Returns the transactional id of another validator of the group.
    pub(crate) fn transactional_id_of(&self, instance_id: &str) -> String {
        format!("{}-{instance_id}", self.kafka.group_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_file_equals_defaults() {
        service::config::assert_sample_equals_defaults::<Config>(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docker/validator.toml"
        ));
        Config::default().check().expect("the defaults are sound");
    }
}
