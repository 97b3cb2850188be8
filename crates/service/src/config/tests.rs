//! Messages about wrong settings, and values that must survive the way from file and environment.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    kafka: Kafka,
    #[serde(default)]
    store: Store,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kafka {
    bootstrap_servers: String,
    #[serde(default)]
    properties: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Store {
    #[serde(with = "humantime_serde")]
    interval: Duration,
    cache: ByteSize,
    batch_max: u32,
    policy: Policy,
    statuses: Vec<u16>,
    note: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Policy {
    Retry,
    Park,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(20),
            cache: ByteSize::mib(256),
            batch_max: 10,
            policy: Policy::Retry,
            statuses: vec![429],
            note: None,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let kafka = Kafka {
            bootstrap_servers: "127.0.0.1:9092".into(),
            properties: BTreeMap::new(),
        };
        Self {
            kafka,
            store: Store::default(),
        }
    }
}

const KAFKA: &str = "[kafka]\nbootstrap_servers = \"a:1\"\n";

/// A renamed section, with one setting that has another name in the new one; and a single setting.
const RENAMES: [Rename; 3] = [
    ("state", "store"),
    ("state.pause", "store.interval"),
    ("store.batch", "store.batch_max"),
];

fn load_text(text: &str, variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load_from(Some(file.path()), variables.collect(), &RENAMES)
}

#[track_caller]
fn check_refused(text: &str, variables: &[(&str, &str)], expected: &[&str]) {
    let error = format!("{:#}", load_text(text, variables).expect_err("accepted"));
    for words in expected {
        assert!(error.contains(words), "{words:?} is not in: {error}");
    }
}

#[test]
fn unknown_name_is_refused_with_the_known_ones() {
    check_refused(
        "[kafka]\nbootstrap = \"a:1\"\n",
        &[],
        &[
            "kafka.bootstrap in /",
            ".toml",
            "unknown field",
            "`bootstrap_servers`",
            "`properties`",
        ],
    );
    check_refused(
        KAFKA,
        &[("OUTBOX__KAFKA__BOOTSTRAP", "a:1")],
        &[
            "kafka.bootstrap, from the environment variable OUTBOX__KAFKA__BOOTSTRAP:",
            "`bootstrap_servers`",
        ],
    );
    check_refused(
        KAFKA,
        &[("OUTBOX__KAFKAA__BOOTSTRAP_SERVERS", "a:1")],
        &[
            "OUTBOX__KAFKAA__BOOTSTRAP_SERVERS",
            "`kafkaa`",
            "`kafka`",
            "`store`",
        ],
    );
}

#[test]
fn wrong_value_is_refused_with_its_source() {
    check_refused(
        &format!("{KAFKA}[store]\npolicy = \"retyr\"\n"),
        &[],
        &["store.policy", "`retyr`", "`retry`", "`park`"],
    );
    check_refused(
        &format!("{KAFKA}[store]\ninterval = \"5 parsecs\"\n"),
        &[],
        &["store.interval in "],
    );
    check_refused(
        KAFKA,
        &[("OUTBOX__STORE__BATCH_MAX", "many")],
        &[
            "store.batch_max, from the environment variable OUTBOX__STORE__BATCH_MAX",
            "\"many\"",
            "u32",
        ],
    );
    check_refused(
        KAFKA,
        &[("OUTBOX__STORE__STATUSES", "[429, \"x\"]")],
        &["OUTBOX__STORE__STATUSES"],
    );
    check_refused(
        KAFKA,
        &[("OUTBOX__STORE", "x")],
        &["the setting store, from", "OUTBOX__STORE:"],
    );
    check_refused(
        KAFKA,
        &[("OUTBOX__STORE__CACHE__SIZE", "x"), ("OUTBOX__STORE__CACHE", "1")],
        &["OUTBOX__STORE__CACHE__SIZE", "store.cache is a value"],
    );
    check_refused(KAFKA, &[("OUTBOX__", "x")], &["names no setting"]);
    check_refused(
        KAFKA,
        &[("OUTBOX__STORE__NOTE", "a"), ("OUTBOX__store__note", "b")],
        &[
            "OUTBOX__STORE__NOTE",
            "OUTBOX__store__note",
            "both set store.note",
        ],
    );
}

#[test]
fn unset_settings_keep_their_defaults() {
    let settings = load_from::<Settings>(None, Vec::new(), &RENAMES).expect("the defaults");
    assert_eq!(settings, Settings::default());
}

#[test]
fn unusable_file_is_named() {
    let error =
        load_from::<Settings>(Some(Path::new("/nowhere/a.toml")), Vec::new(), &[]).expect_err("no file");
    assert!(
        format!("{error:#}").contains("/nowhere/a.toml cannot be read: No such file"),
        "{error:#}"
    );
    check_refused("[kafka\n", &[], &["is not valid TOML", "line 1"]);
}

#[test]
fn broken_line_of_a_secret_is_not_shown() {
    let text = format!("{KAFKA}[kafka.properties]\n\"sasl.password\" = hunter2-secret\n");
    let error = format!("{:#}", load_text(&text, &[]).expect_err("no quotes"));
    assert!(!error.contains("hunter2") && error.contains("line "), "{error}");
}

#[test]
fn secret_of_the_wrong_type_is_not_shown() {
    for name in [
        "sasl.password",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.oauthbearer.assertion.private.key.pem",
        "ssl.key.password",
        "ssl.key.pem",
    ] {
        let text = format!("{KAFKA}[kafka.properties]\n\"{name}\" = 987654\n");
        let error = format!("{:#}", load_text(&text, &[]).expect_err("a number"));
        assert!(
            error.contains(&format!("kafka.properties.{name}")) && !error.contains("987654"),
            "{error}"
        );
    }
}

#[test]
fn names_with_dots_are_kept() {
    let text = format!("{KAFKA}[kafka.properties]\n\"ssl.ca.location\" = \"/a\"\n\"linger.ms\" = \"5\"\n");
    let settings = load_text(
        &text,
        &[
            ("OUTBOX__KAFKA__PROPERTIES__SSL_CA_LOCATION", "/b"),
            ("OUTBOX__KAFKA__PROPERTIES__sasl.username", "u"),
            ("OUTBOX__KAFKA__PROPERTIES__SASL_PASSWORD", "0123"),
        ],
    )
    .expect("good settings");
    let properties = [
        ("linger.ms", "5"),
        ("sasl.password", "0123"),
        ("sasl.username", "u"),
        ("ssl.ca.location", "/b"),
    ];
    assert_eq!(
        settings.kafka.properties,
        properties.map(|(k, v)| (k.into(), v.into())).into()
    );
}

#[test]
fn variable_is_read_as_its_setting_requires() {
    let settings = load_text(
        KAFKA,
        &[
            ("OUTBOX__STORE__INTERVAL", "1500ms"),
            ("OUTBOX__STORE__CACHE", "1GiB"),
            ("OUTBOX__STORE__BATCH_MAX", "77"),
            ("OUTBOX__STORE__POLICY", "park"),
            ("OUTBOX__STORE__STATUSES", "[429, 503]"),
            ("OUTBOX__STORE__NOTE", "true"),
            ("OUTBOX__KAFKA__BOOTSTRAP_SERVERS", "\"7\""),
        ],
    )
    .expect("good settings");
    let store = Store {
        interval: Duration::from_millis(1500),
        cache: ByteSize::gib(1),
        batch_max: 77,
        policy: Policy::Park,
        statuses: vec![429, 503],
        note: Some("true".into()),
    };
    assert_eq!(settings.store, store);
    assert_eq!(settings.kafka.bootstrap_servers, "\"7\"");
}

#[test]
fn sample_is_compared_with_each_default() {
    let check = |text: &str| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        let compared = std::panic::catch_unwind(|| assert_sample_equals_defaults::<Settings>(file.path()));
        compared
            .err()
            .map(|panic| *panic.downcast::<String>().expect("a text"))
    };
    let sample = "[kafka]\nbootstrap_servers = \"127.0.0.1:9092\"\n[kafka.properties]\n[store]\n\
                  interval = \"20ms\"\ncache = \"256MiB\"\nbatch_max = 10\npolicy = \"retry\"\n\
                  statuses = [429]\n# note = \"\"\n";
    assert_eq!(check(sample), None);
    let message = check(&sample.replace("20ms", "21ms")).expect("a difference");
    assert!(message.contains("store.interval"), "{message}");
    let message = check(&sample.replace("batch_max = 10\n", "")).expect("a gap");
    assert!(message.contains("store.batch_max is not written"), "{message}");
    assert!(
        check(&sample.replace("# note", "note"))
            .expect("a surplus")
            .contains("store.note")
    );
}

#[test]
fn renamed_section_is_refused() {
    check_refused(
        &format!("{KAFKA}[state]\npause = \"1s\"\ncache = \"1MiB\"\n"),
        &[],
        &[
            "the setting state.pause in /",
            ".toml was renamed: use store.interval",
            "the setting state.cache in /",
            ".toml was renamed: use store.cache",
        ],
    );
    check_refused(
        &format!("{KAFKA}[state]\n"),
        &[],
        &["the section [state] in /", ".toml was renamed: use [store]"],
    );
}

#[test]
fn renamed_setting_is_refused() {
    check_refused(
        &format!("{KAFKA}[store]\nbatch = 5\n"),
        &[],
        &[
            "the setting store.batch in /",
            ".toml was renamed: use store.batch_max",
        ],
    );
}

#[test]
fn renamed_variable_is_refused() {
    check_refused(
        KAFKA,
        &[("OUTBOX__STORE__BATCH", "5"), ("OUTBOX__STATE__CACHE", "1MiB")],
        &[
            "the environment variable OUTBOX__STORE__BATCH was renamed: use OUTBOX__STORE__BATCH_MAX",
            "the environment variable OUTBOX__STATE__CACHE was renamed: use OUTBOX__STORE__CACHE",
        ],
    );
    check_refused(
        KAFKA,
        &[("OUTBOX__STATE", "{ pause = \"1s\" }")],
        &[
            "the setting state.pause, from the environment variable OUTBOX__STATE, was renamed: use store.interval",
        ],
    );
}

#[test]
fn rename_to_an_unknown_setting_is_found() {
    let check = |renames: &[Rename]| {
        std::panic::catch_unwind(|| assert_renames_lead_to_settings::<Settings>(renames)).is_ok()
    };
    assert!(check(&RENAMES));
    assert!(!check(&[("store.batch", "store.batch_maxx")]));
    assert!(!check(&[("store.cache", "store.batch_max")]), "a current name");
}
