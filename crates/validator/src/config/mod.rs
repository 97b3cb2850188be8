//! Settings of the validator, with their defaults.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytesize::ByteSize;
use kafka::KafkaSettings;
use pipeline::ShareLimit;
use pipeline::admission::{
    KeySource, OrderForm, OrderSchema, Partitioner, RecordKey, RefusalSettings, Rules, TransactionLimits,
};
use records::{AmountForm, Selection, Topics};
use registry::RegistrySettings;
use serde::{Deserialize, Serialize};
use service::admin::AdminSettings;
use service::traces::TracesSettings;

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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ValidatorSettings {
    /// Name of this instance: its static group membership, and part of its transactional id. Unique among the
    /// running validators, and the same after a restart.
    pub(crate) instance_id: String,
    /// Time from a transaction's first order to its commit, without a backlog. Most of an order's latency.
    #[serde(with = "humantime_serde")]
    pub(crate) commit_interval: Duration,
    /// The same under a backlog; no less than `commit_interval` in any case.
    #[serde(with = "humantime_serde")]
    pub(crate) backlog_commit_interval: Duration,
    /// Maximum number of orders per transaction. Two records for each must fit into the producer's queue.
    pub(crate) batch_orders_max: usize,
    /// Maximum size of the orders of a transaction.
    pub(crate) batch_bytes_max: ByteSize,
    /// Source of the idempotency key: a JSON pointer, `record-key`, or `header:NAME`.
    pub(crate) idempotency_key: String,
    /// Part of an order that two records with one key have in common if they are the same order. Others are a
    /// conflict.
    pub(crate) fingerprint: Selection,
    /// Requirement on the record key.
    pub(crate) record_key: RecordKeySetting,
    /// Partitioner of the producers. Unless `any`, an order on another partition than its own is refused.
    pub(crate) partitioner: PartitionerSetting,
    /// Session timeout: another instance takes over this long after the last heartbeat.
    #[serde(with = "humantime_serde")]
    pub(crate) session_timeout: Duration,
    /// Time after which the broker aborts a dead validator's transaction; until then readers of its
    /// partitions wait. Longer than the session timeout, so that a slow commit is not aborted while its owner
    /// lives.
    #[serde(with = "humantime_serde")]
    pub(crate) transaction_timeout: Duration,
    /// Time after which a commit without a response has an unknown outcome, which a restore resolves.
    #[serde(with = "humantime_serde")]
    pub(crate) commit_timeout: Duration,
}

/// Form of an order: `[order]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OrderSettings {
    /// What is checked of an order.
    pub(crate) form: OrderFormSetting,
    /// Form of the amount in an order of the built-in form.
    pub(crate) amount: AmountSetting,
    /// File of the JSON Schema; empty: none.
    pub(crate) schema: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OrderFormSetting {
    /// JSON object with order id, amount, currency and customer id.
    BuiltIn,
    /// Any bytes; only the idempotency key is checked.
    KeyOnly,
    /// JSON that conforms to a schema.
    JsonSchema,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AmountSetting {
    /// Integer in minor units of the currency.
    MinorUnits,
    /// Number or string with a decimal point.
    Decimal,
}

/// Settings for refusals in mass: `[refusals]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RefusalsSettings {
    /// Refused records, conflicts included, among the last `window` of a partition that are not duplicates, at
    /// which each further one pauses it; 0: never. All of them become dead letters.
    pub(crate) threshold: usize,
    /// Number of records, duplicates apart, of which the refused ones are counted.
    pub(crate) window: usize,
    /// Time for which the partition is paused after each of them.
    #[serde(with = "humantime_serde")]
    pub(crate) pause: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StoreSettings {
    /// State directory of this validator alone. It may be lost: it is a cache of the changelog.
    pub(crate) dir: PathBuf,
    /// Memory for redb's caches of all stores together.
    pub(crate) cache: ByteSize,
    /// Interval at which each store is made durable. After a crash the changelog of this period is read
    /// again.
    #[serde(with = "humantime_serde")]
    pub(crate) persist_interval: Duration,
    /// Maximum number of partitions restored at the same time.
    pub(crate) restores_max: usize,
    /// Stores that are kept of partitions of other validators.
    pub(crate) standby: StandbySetting,
    /// Time for which the key of an order is remembered, by the times of the records; `None` ("off"): for ever.
    #[serde(with = "crate::or_off::duration")]
    pub(crate) retention: Option<Duration>,
    /// Size of all stores together above which an operator is asked to act; `None` ("off"): none.
    #[serde(with = "crate::or_off::size")]
    pub(crate) size_alarm: Option<ByteSize>,
    /// Time after which the store of a partition that has moved away is removed.
    #[serde(with = "humantime_serde")]
    pub(crate) unused_max: Duration,
}

/// Stores that are kept of partitions of other validators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StandbySetting {
    /// None: a partition that moves here is restored from the store that this validator had of it, if any.
    None,
    /// One of each partition, which follows the changelog.
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RecordKeySetting {
    /// The record key must be the idempotency key, or else one order could be on two partitions and be paid
    /// twice.
    IsIdempotencyKey,
    /// Any record key: the producers guarantee that an order is always on the same partition.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PartitionerSetting {
    /// Default partitioner of Java clients.
    Murmur2,
    /// Default partitioner of librdkafka.
    Crc32,
    /// Any partitioner; partitions are not checked.
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
            order: OrderSettings::default(),
            schema_registry: RegistrySettings::default(),
            refusals: RefusalsSettings::default(),
            store: StoreSettings::default(),
            admin: AdminSettings::on_port(9464),
            traces: TracesSettings::default(),
        }
    }
}

impl Default for ValidatorSettings {
    fn default() -> Self {
        Self {
            instance_id: "validator-0".into(),
            // Half of the latency of an order without a backlog; shorter ones cost the brokers more than they gain.
            commit_interval: Duration::from_millis(10),
            // Long enough that the end of a transaction, some 30 ms, is a small part of it.
            backlog_commit_interval: Duration::from_millis(200),
            batch_orders_max: 50_000,
            batch_bytes_max: ByteSize::mib(32),
            idempotency_key: "/order_id".into(),
            fingerprint: Selection::default(),
            record_key: RecordKeySetting::IsIdempotencyKey,
            partitioner: PartitionerSetting::Any,
            // Failover takes this long. Much less would evict a validator whose host only pauses.
            session_timeout: Duration::from_secs(10),
            transaction_timeout: Duration::from_secs(15),
            commit_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for OrderSettings {
    fn default() -> Self {
        Self {
            form: OrderFormSetting::BuiltIn,
            amount: AmountSetting::MinorUnits,
            schema: PathBuf::new(),
        }
    }
}

impl Default for RefusalsSettings {
    fn default() -> Self {
        Self {
            // Far above what one faulty producer among several causes.
            threshold: 60,
            window: 100,
            // Two dead letters a minute leave a person time, and a batch of bad records still passes.
            pause: Duration::from_secs(30),
        }
    }
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            dir: "./state".into(),
            cache: ByteSize::mib(32),
            persist_interval: Duration::from_secs(1),
            restores_max: 2,
            standby: StandbySetting::None,
            retention: Some(Duration::from_secs(30 * 24 * 3600)),
            size_alarm: None,
            unused_max: Duration::from_secs(7 * 24 * 3600),
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
            "the setting validator.batch_bytes_max is {}; it must be at most 50MiB, so that a transaction can \
             be sent long before its commit_timeout",
            validator.batch_bytes_max
        );
        // librdkafka refuses less, at each attempt to open the producer.
        ensure!(
            validator.transaction_timeout >= Duration::from_secs(1),
            "the setting validator.transaction_timeout is {:?}; it must be at least 1s",
            validator.transaction_timeout
        );
        ensure!(
            (SESSION_MIN..=POLL_INTERVAL_MAX).contains(&validator.session_timeout),
            "the setting validator.session_timeout is {:?}; it must be from {SESSION_MIN:?} to \
             {POLL_INTERVAL_MAX:?}",
            validator.session_timeout
        );
        ensure!(
            !validator.commit_timeout.is_zero(),
            "the setting validator.commit_timeout is 0; no transaction could be committed"
        );
        // The loop polls nothing while it waits for a full queue, for the commit, and for a new producer.
        ensure!(
            validator.commit_timeout * 2 + PRODUCER_OPEN_TIMEOUT < POLL_INTERVAL_MAX,
            "the setting validator.commit_timeout is {:?}; twice that and {PRODUCER_OPEN_TIMEOUT:?} for a new producer \
             must add up to less than {POLL_INTERVAL_MAX:?}, after which the group removes a validator that \
             does not poll",
            validator.commit_timeout
        );
        // The rest of the transaction's time is for sending its last records and for the commit.
        for (name, interval) in [
            ("commit_interval", validator.commit_interval),
            ("backlog_commit_interval", validator.backlog_commit_interval),
        ] {
            ensure!(
                interval < validator.transaction_timeout / 2,
                "the setting validator.{name} must be less than half of validator.transaction_timeout"
            );
        }
        // Waiting longer is useless: the broker has aborted the transaction by then.
        ensure!(
            validator.commit_timeout <= validator.transaction_timeout,
            "the setting validator.commit_timeout must not be longer than validator.transaction_timeout"
        );
        ensure!(
            self.store.restores_max >= 1,
            "the setting store.restores_max must be 1 or more"
        );
        ensure!(
            self.store
                .retention
                .is_none_or(|retention| retention >= RETENTION_MIN),
            "the setting store.retention is {:?}; it must be at least {RETENTION_MIN:?}, or \"off\": orders that producers \
             send again after that time are paid twice",
            self.store.retention.unwrap_or_default()
        );
        // Kept in memory, one entry for each record of each partition.
        ensure!(
            (1..=REFUSAL_WINDOW_MAX).contains(&self.refusals.window),
            "the setting refusals.window is {}; it must be from 1 to {REFUSAL_WINDOW_MAX}",
            self.refusals.window
        );
        ensure!(
            self.refusals.threshold <= self.refusals.window,
            "the setting refusals.threshold is {}; it must be at most refusals.window, {}, or it is never \
             reached; 0 switches it off",
            self.refusals.threshold,
            self.refusals.window
        );
        ensure!(
            self.refusals.pause >= REFUSAL_PAUSE_MIN,
            "the setting refusals.pause is {:?}; it must be at least {REFUSAL_PAUSE_MIN:?}, or it holds nothing up",
            self.refusals.pause
        );
        self.key_source()?;
        self.order_form()?;
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
            form: self.order_form()?,
            key: self.key_source()?,
            record_key: match self.validator.record_key {
                RecordKeySetting::IsIdempotencyKey => RecordKey::IsIdempotencyKey,
                RecordKeySetting::Any => RecordKey::Ignored,
            },
            fingerprint: self.validator.fingerprint.clone(),
            partitioner: match self.validator.partitioner {
                PartitionerSetting::Murmur2 => Partitioner::Murmur2,
                PartitionerSetting::Crc32 => Partitioner::Crc32,
                PartitionerSetting::Any => Partitioner::Any,
            },
            partitions: u32::try_from(partitions)?,
            record_bytes_max,
        })
    }

    /// Returns the settings for refusals in mass.
    pub(crate) fn refusals(&self) -> RefusalSettings {
        RefusalSettings {
            limit: ShareLimit {
                threshold: self.refusals.threshold,
                window: self.refusals.window,
            },
            pause: self.refusals.pause,
        }
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

    fn order_form(&self) -> anyhow::Result<OrderForm> {
        let OrderSettings { form, amount, schema } = &self.order;
        let name = match form {
            OrderFormSetting::BuiltIn => "built-in",
            OrderFormSetting::KeyOnly => "key-only",
            OrderFormSetting::JsonSchema => "json-schema",
        };
        let has_schema = !schema.as_os_str().is_empty();
        // Whoever writes one of these expects a check that is not made.
        if has_schema && *form != OrderFormSetting::JsonSchema {
            bail!(
                "the setting order.schema is {}, but with order.form {name:?} no schema is checked; set order.form to \
                 \"json-schema\", or remove order.schema",
                schema.display()
            );
        }
        if *amount == AmountSetting::Decimal && *form != OrderFormSetting::BuiltIn {
            bail!(
                "the setting order.amount is \"decimal\", but with order.form {name:?} no amount is checked by it; \
                 set order.form to \"built-in\", or remove order.amount"
            );
        }
        Ok(match (form, amount) {
            (OrderFormSetting::BuiltIn, AmountSetting::MinorUnits) => {
                OrderForm::BuiltIn(AmountForm::MinorUnits)
            }
            (OrderFormSetting::BuiltIn, AmountSetting::Decimal) => OrderForm::BuiltIn(AmountForm::Decimal),
            (OrderFormSetting::KeyOnly, _) => OrderForm::KeyOnly,
            (OrderFormSetting::JsonSchema, _) => OrderForm::JsonSchema(Arc::new(read_schema(schema)?)),
        })
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

/// Reads and compiles the schema of the orders.
fn read_schema(path: &Path) -> anyhow::Result<OrderSchema> {
    ensure!(
        !path.as_os_str().is_empty(),
        "the setting order.form is \"json-schema\", and order.schema names no file; set it to the JSON Schema that \
         orders must conform to"
    );
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading {} (order.schema)", path.display()))?;
    OrderSchema::compile(&text).with_context(|| format!("{} (order.schema)", path.display()))
}

/// librdkafka's default of `max.poll.interval.ms`, after which the group removes a member that does not poll.
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(300);
/// Timeout of one attempt to open the producer.
// The loop polls nothing meanwhile, so it stays well below `max.poll.interval.ms`.
pub(crate) const PRODUCER_OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// Minimum of `store.retention`: several times the hour by which the clocks of producers may be ahead.
const RETENTION_MIN: Duration = Duration::from_secs(6 * 3600);
/// Maximum of `refusals.window`.
const REFUSAL_WINDOW_MAX: usize = 10_000;
/// Minimum of `refusals.pause`.
const REFUSAL_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Minimum of the session timeout: several heartbeats, which are at least 100 ms apart.
const SESSION_MIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradicting_timeouts_are_refused() {
        let check = |change: fn(&mut ValidatorSettings), names: &str| {
            let mut config = Config::default();
            change(&mut config.validator);
            let error = config.check().expect_err(names).to_string();
            assert!(error.contains(names), "{error}");
        };
        check(
            |v| v.transaction_timeout = Duration::from_millis(999),
            "validator.transaction_timeout",
        );
        check(
            |v| v.session_timeout = Duration::from_millis(999),
            "validator.session_timeout",
        );
        check(
            |v| v.session_timeout = Duration::from_secs(301),
            "validator.session_timeout",
        );
        check(|v| v.commit_timeout = Duration::ZERO, "validator.commit_timeout");
        check(
            |v| v.commit_timeout = Duration::from_secs(16),
            "validator.commit_timeout",
        );
        check(
            |v| (v.transaction_timeout, v.commit_timeout) = (POLL_INTERVAL_MAX, POLL_INTERVAL_MAX / 2),
            "does not poll",
        );
    }

    #[test]
    fn refusal_settings_out_of_range_are_refused() {
        let check = |change: fn(&mut RefusalsSettings), names: &str| {
            let mut config = Config::default();
            change(&mut config.refusals);
            let error = config.check().expect_err(names).to_string();
            assert!(error.contains(names), "{error}");
        };
        check(|refusals| refusals.threshold = 101, "refusals.threshold");
        check(|refusals| refusals.window = 0, "refusals.window");
        check(|refusals| refusals.window = 10_001, "refusals.window");
        check(|refusals| refusals.pause = Duration::ZERO, "refusals.pause");
        let mut off = Config::default();
        off.refusals.threshold = 0;
        assert!(off.check().is_ok());
    }

    fn order_form(form: OrderFormSetting, amount: AmountSetting, schema: &Path) -> Result<OrderForm, String> {
        let schema = schema.to_owned();
        let config = Config {
            order: OrderSettings { form, amount, schema },
            ..Config::default()
        };
        config.check().map_err(|error| format!("{error:#}"))?;
        Ok(config.rules(1, 1_000).map_err(|error| error.to_string())?.form)
    }

    #[test]
    fn order_form_follows_the_settings() {
        use {AmountSetting as Amount, OrderFormSetting as Form};
        let form = |form, amount| order_form(form, amount, Path::new(""));
        assert_eq!(
            form(Form::BuiltIn, Amount::MinorUnits),
            Ok(OrderForm::BuiltIn(AmountForm::MinorUnits))
        );
        assert_eq!(
            form(Form::BuiltIn, Amount::Decimal),
            Ok(OrderForm::BuiltIn(AmountForm::Decimal))
        );
        assert_eq!(form(Form::KeyOnly, Amount::MinorUnits), Ok(OrderForm::KeyOnly));
        let error: String = form(Form::KeyOnly, Amount::Decimal).expect_err("a contradiction");
        assert!(error.contains("order.amount"), "{error}");
    }

    #[test]
    fn schema_of_orders_is_read_from_its_file() {
        use {AmountSetting as Amount, OrderFormSetting as Form};
        let file = tempfile::NamedTempFile::new().expect("a file");
        let with = |text: &str, form, amount| {
            std::fs::write(file.path(), text).expect("written");
            order_form(form, amount, file.path())
        };
        let text = r#"{"required":["order_id"]}"#;
        let schema = OrderSchema::compile(text).expect("a schema");
        assert_eq!(
            with(text, Form::JsonSchema, Amount::MinorUnits),
            Ok(OrderForm::JsonSchema(Arc::new(schema)))
        );
        let path = file.path().display().to_string();
        for (text, form, amount, words) in [
            (text, Form::BuiltIn, Amount::MinorUnits, "\"built-in\" no schema"),
            (text, Form::KeyOnly, Amount::MinorUnits, "\"key-only\" no schema"),
            (text, Form::JsonSchema, Amount::Decimal, "order.amount"),
            ("{", Form::JsonSchema, Amount::MinorUnits, "not valid JSON"),
            (
                r#"{"type":1}"#,
                Form::JsonSchema,
                Amount::MinorUnits,
                "invalid at \"/type\"",
            ),
            (
                r#"{"$ref":"https://shop.example/order.json"}"#,
                Form::JsonSchema,
                Amount::MinorUnits,
                "nothing is loaded",
            ),
        ] {
            let error = with(text, form, amount).expect_err(text);
            assert!(error.contains(words), "{words}: {error}");
            assert!(
                amount == Amount::Decimal || error.contains(&path) && error.contains("order.schema"),
                "{error}"
            );
        }
        for (path, words) in [("", "names no file"), ("/no/such/file", "reading /no/such/file")] {
            let error = order_form(Form::JsonSchema, Amount::MinorUnits, Path::new(path)).expect_err(path);
            assert!(error.contains(words) && error.contains("order.schema"), "{error}");
        }
    }

    #[test]
    fn sample_file_equals_defaults() {
        service::config::assert_sample_equals_defaults::<Config>(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docker/validator.toml"
        ));
        Config::default().check().expect("the defaults are sound");
    }

    #[test]
    fn key_source_follows_the_setting() {
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
