//! Settings of the command line, in a file of their own or in that of the validator or the caller.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use kafka::KafkaSettings;
use pipeline::admission::{OrderFormKind, Partitioner, RecordKey};
use records::{AmountForm, Selection, Timestamp, Topics};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// All settings of the command line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) kafka: Connection,
    pub(crate) status: StatusSettings,
    pub(crate) topics: Topics,
    // Sections of the other programs, listed by name and ignored. Unknown sections are refused: if a misspelt
    // `[topic]` were ignored, the command would create topics that no program uses.
    #[serde(skip_serializing)]
    admin: IgnoredAny,
    #[serde(skip_serializing)]
    pub(crate) api: Api,
    #[serde(skip_serializing)]
    pub(crate) caller: Caller,
    #[serde(skip_serializing)]
    circuit_breaker: IgnoredAny,
    #[serde(skip_serializing)]
    rate_limit: IgnoredAny,
    #[serde(skip_serializing)]
    concurrency: IgnoredAny,
    #[serde(skip_serializing)]
    pub(crate) order: OrderSettings,
    #[serde(skip_serializing)]
    refusals: IgnoredAny,
    #[serde(skip_serializing)]
    retry: IgnoredAny,
    // Orders are shown as they are, by their keys.
    #[serde(skip_serializing)]
    schema_registry: IgnoredAny,
    #[serde(skip_serializing)]
    pub(crate) store: StoreSettings,
    #[serde(skip_serializing)]
    deferral: IgnoredAny,
    #[serde(skip_serializing)]
    traces: IgnoredAny,
    #[serde(skip_serializing)]
    pub(crate) validator: Validator,
    #[serde(skip_serializing)]
    pub(crate) verify: Verify,
}

/// Settings of `outbox status`: `[status]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StatusSettings {
    /// Admin addresses of the running programs.
    pub(crate) programs: Vec<String>,
    /// File with the token of the programs (their setting admin.token_file); empty for none.
    pub(crate) token_file: PathBuf,
}

/// Settings of the callers: `[caller]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
// The others are the caller's own, and are ignored, as in the sections below.
#[serde(default)]
pub(crate) struct Caller {
    #[serde(with = "humantime_serde")]
    ownership_lease: Duration,
    on_ambiguous: String,
    policy_header: String,
}

/// Settings of the API: `[api]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Api {
    #[serde(with = "humantime_serde")]
    timeout: Duration,
    #[serde(with = "humantime_serde")]
    transport_timeout: Duration,
    #[serde(with = "humantime_serde")]
    idempotency_key_lifetime: Option<Duration>,
}

/// Settings of the look-ups: `[verify]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Verify {
    #[serde(with = "humantime_serde")]
    api_processing_max: Duration,
}

// The defaults here are the caller's, and below the validator's; a test compares them with their sample files.
impl Default for Caller {
    fn default() -> Self {
        Self {
            ownership_lease: Duration::from_secs(5),
            on_ambiguous: "retry".into(),
            policy_header: String::new(),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            transport_timeout: Duration::from_secs(10),
            idempotency_key_lifetime: None,
        }
    }
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            api_processing_max: Duration::from_secs(60),
        }
    }
}

/// Settings of the validators' stores: `[store]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct StoreSettings {
    retention: String,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            retention: "30d".into(),
        }
    }
}

impl StoreSettings {
    /// Returns whether validators forget the keys of old orders.
    pub(crate) fn forgets_keys(&self) -> bool {
        self.retention != "off"
    }
}

/// Settings of the validators: `[validator]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
// The others are the validator's own, and are ignored.
#[serde(default)]
pub(crate) struct Validator {
    /// False if the settings have no such section: they are not the validators'.
    #[serde(skip, default = "is_given")]
    is_given: bool,
    /// Part of an order that two records with one key have in common if they are the same order.
    pub(crate) fingerprint: Selection,
    record_key: RecordKey,
    partitioner: Partitioner,
}

/// Value of a setting that each section has which is there.
const fn is_given() -> bool {
    true
}

impl Validator {
    /// Returns whether an order is refused whose record key is not its idempotency key.
    pub(crate) fn checks_record_key(&self) -> bool {
        self.record_key == RecordKey::IsIdempotencyKey
    }

    /// Returns whether an order is refused on another partition than that of its key.
    pub(crate) fn checks_partition(&self) -> bool {
        self.partitioner() != Partitioner::Any
    }

    /// Returns the partitioner of the producers.
    pub(crate) const fn partitioner(&self) -> Partitioner {
        self.partitioner
    }
}

/// Form of an order: `[order]`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OrderSettings {
    form: OrderFormKind,
    amount: AmountForm,
    // The validators have checked the orders by it; the command line reads no schema.
    #[serde(rename = "schema")]
    _schema: IgnoredAny,
}

impl OrderSettings {
    /// Returns the form of the amount in an order of the built-in form; `None` if orders have another form.
    pub(crate) fn amount(self) -> Option<AmountForm> {
        match self.form {
            OrderFormKind::KeyOnly | OrderFormKind::JsonSchema => None,
            OrderFormKind::BuiltIn => Some(self.amount),
        }
    }
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

    /// Checks that these are the validators' settings: others say neither what validators refuse, nor whether they
    /// forget keys.
    ///
    /// # Errors
    /// They have no section `[validator]`.
    pub(crate) fn expect_validators(&self, command: &str) -> anyhow::Result<()> {
        ensure!(
            self.validator.is_given,
            "`outbox {command}` goes by what the validators check and remember (validator.fingerprint, \
             validator.record_key, validator.partitioner, store.retention), and these settings have no section \
             [validator]: an order could be refused as another one of its key, or be admitted, and charged, a second \
             time. Give the validators' settings file: `outbox --config validator.toml \
             {command}`. If that has no such section, because it leaves all of it at the defaults, add the line \
             [validator] to it, or set OUTBOX__VALIDATOR__INSTANCE_ID as the validators do. Nothing was changed"
        );
        Ok(())
    }

    /// Returns the time after which no request of a call that was parked can be sent or processed any more: the
    /// ownership lease, the longest request, its way through the network, and the API's longest processing time.
    pub(crate) fn quiescence(&self) -> Duration {
        self.caller.ownership_lease
            + self.api.timeout
            + self.api.transport_timeout
            + self.verify.api_processing_max
    }

    /// Returns the defaults, with an API that forgets an idempotency key after this time.
    #[cfg(test)]
    pub(crate) fn with_key_lifetime(lifetime: Duration) -> Self {
        let mut config = Self::default();
        config.api.idempotency_key_lifetime = Some(lifetime);
        config
    }

    /// Returns whether the API may have forgotten the idempotency key of an order that was admitted at this time.
    pub(crate) fn is_key_expired(&self, admitted_at: Option<Timestamp>, now: Timestamp) -> bool {
        let Some(lifetime) = self.api.idempotency_key_lifetime else {
            return false;
        };
        let lifetime = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
        // Nobody knows how old an order without a time is.
        admitted_at.is_none_or(|at| now.0.saturating_sub(at.0) > lifetime)
    }

    /// Returns whether callers look up each ambiguous call before they send it again.
    pub(crate) fn looks_up(&self) -> bool {
        // With a header each order may have a policy of its own.
        self.caller.on_ambiguous == "verify" && self.caller.policy_header.is_empty()
    }

    /// Returns the connection settings of the command line.
    pub(crate) fn connection(&self) -> KafkaSettings {
        self.connection_as(kafka::topics::acls::COMMANDS_GROUP)
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
    fn fingerprint_of_the_validators_file_is_read() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let read = |text: &str| {
            std::fs::write(file.path(), text).expect("written");
            let config = service::config::load::<Config>(Some(file.path()), &[]);
            config.map(|config| (config.validator.fingerprint, config.order.amount()))
        };
        let default = Some(AmountForm::MinorUnits);
        assert_eq!(read("").expect("the default"), (Selection::Order, default));
        let text =
            "[validator]\ninstance_id = \"v\"\nfingerprint = \"payload\"\n[order]\namount = \"decimal\"\n";
        let decimal = Some(AmountForm::Decimal);
        assert_eq!(read(text).expect("a word"), (Selection::Payload, decimal));
        for text in [
            "[order]\nform = \"key-only\"\n",
            "[order]\nform = \"json-schema\"\nschema = \"order.schema.json\"\n",
        ] {
            assert_eq!(read(text).expect("another form"), (Selection::Order, None));
        }
        let error = read("[validator]\nfingerprint = [\"amount\"]\n").expect_err("no pointer");
        assert!(format!("{error:#}").contains("JSON pointer"), "{error:#}");
    }

    #[test]
    fn checks_of_the_validators_file_are_read() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (text, checks) in [
            ("", (true, false)),
            ("record_key = \"any\"\npartitioner = \"murmur2\"", (false, true)),
        ] {
            std::fs::write(file.path(), format!("[validator]\n{text}\n")).expect("written");
            let config: Config = service::config::load(Some(file.path()), &[]).expect("valid");
            let of = config.validator;
            assert_eq!((of.checks_record_key(), of.checks_partition()), checks, "{text}");
        }
        let sample = Path::new(SAMPLES).join("validator.toml");
        let of_sample: Config = service::config::load(Some(&sample), &[]).expect("the sample");
        let defaults = Validator {
            is_given: true,
            ..Validator::default()
        };
        assert_eq!(of_sample.validator, defaults);
        assert_eq!(of_sample.store, StoreSettings::default());
        let text = std::fs::read_to_string(sample).expect("read");
        for name in ["fingerprint", "record_key", "partitioner", "retention"] {
            assert!(text.contains(&format!("\n{name} = ")), "{name}");
        }
    }

    #[test]
    fn keys_are_forgotten_unless_the_validators_file_says_otherwise() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (text, forgets) in [
            ("", true),
            ("[store]\ndir = \"d\"\n", true),
            ("[store]\nretention = \"off\"\n", false),
        ] {
            std::fs::write(file.path(), text).expect("written");
            let config: Config = service::config::load(Some(file.path()), &[]).expect("valid");
            assert_eq!(config.store.forgets_keys(), forgets, "{text}");
        }
    }

    #[test]
    fn settings_of_other_programs_are_not_the_validators() {
        let of = |name: &str| {
            let config: Config =
                service::config::load(Some(&Path::new(SAMPLES).join(name)), &[]).expect("a sample");
            config.expect_validators("dead-letters replay")
        };
        of("validator.toml").expect("the validators' settings");
        for name in ["outbox.toml", "caller.toml"] {
            let error = of(name).expect_err(name).to_string();
            assert!(error.contains("--config validator.toml"), "{error}");
        }
    }

    #[test]
    fn times_are_those_of_the_callers_file() {
        let sample = Path::new(SAMPLES).join("caller.toml");
        let of_sample: Config = service::config::load(Some(&sample), &[]).expect("the sample");
        let defaults = Config::default();
        assert_eq!(
            (of_sample.caller, of_sample.api, of_sample.verify),
            (
                defaults.caller.clone(),
                defaults.api.clone(),
                defaults.verify.clone()
            )
        );
        assert_eq!(defaults.quiescence(), Duration::from_secs(105));
        // In the file itself: the sections have the settings that are read here.
        let text = std::fs::read_to_string(sample).expect("read");
        for name in ["ownership_lease", "transport_timeout", "api_processing_max"] {
            assert!(text.contains(&format!("\n{name} = ")), "{name}");
        }
    }

    #[test]
    fn key_expires_after_its_lifetime() {
        assert!(!Config::default().is_key_expired(None, Timestamp(i64::MAX)));
        let config = Config::with_key_lifetime(Duration::from_secs(1));
        let expired = |at| config.is_key_expired(at, Timestamp(5_000));
        assert!(expired(Some(Timestamp(3_999))) && !expired(Some(Timestamp(4_000))));
        assert!(expired(None));
    }

    #[test]
    fn callers_look_up_under_verify_alone() {
        let looks_up = |on_ambiguous: &str, policy_header: &str| {
            let mut config = Config::default();
            config.caller.on_ambiguous = on_ambiguous.into();
            config.caller.policy_header = policy_header.into();
            config.looks_up()
        };
        assert!(looks_up("verify", ""));
        assert!(!looks_up("retry", "") && !looks_up("park", "") && !looks_up("verify", "policy"));
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
