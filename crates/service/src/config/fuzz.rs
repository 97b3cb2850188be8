use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

/// Settings with each kind of value that programs have.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    #[serde(with = "humantime_serde")]
    interval: std::time::Duration,
    cache: bytesize::ByteSize,
    batch_max: u32,
    statuses: Vec<u16>,
    is_on: bool,
    note: Option<String>,
    kafka: Kafka,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Kafka {
    servers: String,
    properties: BTreeMap<String, String>,
}

const RENAMES: [Rename; 1] = [("pause", "interval")];

/// The first line is a variable of the environment, the rest a settings file. Settings that are read are written, and
/// read again as the same; an error does not quote a broken line of a password.
#[test]
fn settings() {
    const TOKENS: &[&str] = &[
        "[",
        "]",
        "[kafka]",
        "[kafka.properties]",
        "=",
        "\n",
        "\"",
        "'''",
        ".",
        "__",
        "OUTBOX__",
        "interval",
        "pause",
        "cache",
        "\"1MiB\"",
        "\"99999999999999999999y\"",
        "inf",
        "-1",
        "0x10",
        "{}",
        "batch_max",
        "4294967296",
        "sasl.password",
        "1979-05-27T07:32:00Z",
    ];
    fuzzing::check!("settings", TOKENS, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        // Dropping tables that are nested ten thousand deep overflows the stack, in the library. An operator's own file
        // has none.
        if text.matches('.').count() > 1_000 {
            return;
        }
        let (variable, file) = text.split_once('\n').unwrap_or(("", text));
        let variables = variable
            .split_once('=')
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .filter(|(name, _)| name.starts_with(ENV_PREFIX));
        let path = tempfile::NamedTempFile::new().expect("a file").into_temp_path();
        std::fs::write(&path, file).expect("written");
        match load_from::<Settings>(Some(&path), variables.into_iter().collect(), &RENAMES) {
            // From here on a size is written rounded, in the library.
            Ok(settings) if settings.cache.as_u64() > 1 << 40 => {}
            Ok(settings) => {
                let written = toml::to_string(&settings).expect("settings are TOML");
                std::fs::write(&path, &written).expect("written");
                let again: Settings = load_from(Some(&path), Vec::new(), &RENAMES).expect("read once");
                assert_eq!(again, settings);
            }
            Err(error) => {
                let shown = format!("{error:#}");
                assert!(!shown.is_empty());
                let is_broken_password = file.contains("sasl.password = hunter2\n");
                assert!(
                    !is_broken_password || !shown.contains("hunter2"),
                    "shows a secret: {shown}"
                );
            }
        }
    });
}
