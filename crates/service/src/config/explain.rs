//! Messages about settings that serde refused.

use std::collections::BTreeMap;
use std::path::Path;

use serde_path_to_error::Segment;
use toml::Table;

use super::environment::{Override, variable_of};
use super::{Name, lookup};

/// Returns the name of the setting that an error is about.
pub(super) fn name_at(path: &serde_path_to_error::Path) -> Name {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Enum { variant } => Some(variant.clone()),
            Segment::Unknown => None,
        })
        .collect()
}

/// Returns a message with the setting, the file or variable it came from, and what is expected of it.
pub(super) fn explain(
    name: &[String],
    error: &toml::de::Error,
    path: Option<&Path>,
    file: &Table,
    overrides: &BTreeMap<Name, Override>,
) -> String {
    let message = error.message();
    let full_name = name.join(".");
    let in_its_file = |name: &str| match path {
        Some(path) => format!("{name} in {}", path.display()),
        None => format!("{name} (there is no settings file: give one with --config)"),
    };
    // serde reports a missing field at the section that lacks it, and its name only inside the text.
    if let Some(field) = message
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split('`').next())
    {
        let missing: Name = name.iter().cloned().chain([field.to_owned()]).collect();
        return format!(
            "the setting {} is missing; set it there or by the environment variable {}",
            in_its_file(&missing.join(".")),
            variable_of(&missing)
        );
    }
    // serde's message quotes the value, so a secret of the wrong type would land in the logs.
    let message = if is_secret(&full_name) {
        "its value is not of the expected type, text"
    } else {
        message
    };
    // An error about a whole section can come from a variable that sets one value in it, but only if the
    // section is not in the file too: then the file is the likelier source.
    let in_file = lookup(file, name).is_some();
    let over = overrides
        .iter()
        .find(|(set, _)| name.starts_with(set) || (!in_file && set.starts_with(name)));
    match over {
        Some((_, over)) => {
            format!(
                "the setting {full_name}, from the environment variable {}: {message}",
                over.variable
            )
        }
        None => format!("the setting {}: {message}", in_its_file(&full_name)),
    }
}

/// Returns `true` if the name suggests a secret. librdkafka's properties are known by their names only.
fn is_secret(name: &str) -> bool {
    [
        "password",
        "passphrase",
        "secret",
        "token",
        "credential",
        "key.pem",
        "oauthbearer.config",
    ]
    .iter()
    .any(|word| name.contains(word))
}
