//! Settings from environment variables.

use std::collections::BTreeMap;

use anyhow::{anyhow, bail};
use toml::Value;

use super::Name;

/// Prefix of each environment variable that overrides a setting.
pub const ENV_PREFIX: &str = "OUTBOX__";

/// Name of the sections whose settings have dots in their names, as librdkafka's properties do.
const DOTTED_SECTION: &str = "properties";

/// Value of a setting from the environment.
pub(super) struct Override {
    pub(super) variable: String,
    pub(super) text: String,
}

/// Returns the environment variables that begin with [`ENV_PREFIX`], with their values.
///
/// # Errors
/// One of the values is not UTF-8.
pub(super) fn variables() -> anyhow::Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        // A name that is not UTF-8 cannot be one of ours, so it is passed over and does not stop the program.
        let Some(name) = name.to_str().filter(|name| name.starts_with(ENV_PREFIX)) else {
            continue;
        };
        let value = value
            .into_string()
            .map_err(|_| anyhow!("the environment variable {name} is not UTF-8"))?;
        variables.push((name.to_owned(), value));
    }
    Ok(variables)
}

/// Assigns each variable to the setting that it overrides.
///
/// # Errors
/// A variable names no setting, or two variables name the same one.
pub(super) fn overrides(variables: Vec<(String, String)>) -> anyhow::Result<BTreeMap<Name, Override>> {
    let mut overrides = BTreeMap::<Name, Override>::new();
    for (variable, text) in variables {
        let name = setting_of(&variable);
        if name.iter().any(String::is_empty) {
            bail!(
                "the environment variable {variable} names no setting: expected {ENV_PREFIX}SECTION__NAME, \
                 such as {ENV_PREFIX}KAFKA__BOOTSTRAP_SERVERS"
            );
        }
        // Names are compared in lower case, so two variables can mean one setting. Their order is not
        // defined: which of them wins would be chance.
        if let Some(other) = overrides.get(&name) {
            bail!(
                "the environment variables {} and {variable} both set {}; remove one",
                other.variable,
                name.join(".")
            );
        }
        overrides.insert(name, Override { variable, text });
    }
    Ok(overrides)
}

/// Returns the name of the variable that sets `name`.
pub(super) fn variable_of(name: &[String]) -> String {
    format!("{ENV_PREFIX}{}", name.join("__").to_uppercase())
}

fn setting_of(variable: &str) -> Name {
    let rest = variable
        .strip_prefix(ENV_PREFIX)
        .unwrap_or(variable)
        .to_lowercase();
    let mut name: Name = rest.split("__").map(str::to_owned).collect();
    // Shells do not accept dots in the name of a variable, so underscores replace them here. Of librdkafka's
    // properties that a user would set, only `log_level` has an underscore in its name: it needs the file.
    if let Some(at) = name.iter().position(|part| part == DOTTED_SECTION)
        && at + 1 < name.len()
    {
        let dotted = name.split_off(at + 1).join(".").replace('_', ".");
        name.push(dotted);
    }
    name
}

/// Parses the text as a TOML value other than text, if it is one.
pub(super) fn not_text(text: &str) -> Option<Value> {
    match text.trim().parse().ok()? {
        // A quoted value keeps its quotes: a password may begin and end with one.
        Value::String(_) | Value::Datetime(_) => None,
        value => Some(value),
    }
}
