//! Settings of a program: its defaults, overridden by a TOML file, overridden by the environment.
//!
//! `OUTBOX__KAFKA__BOOTSTRAP_SERVERS` sets `kafka.bootstrap_servers`: the prefix, then the parts of the name
//! in any case, separated by two underscores. Below a section called `properties` the rest is one name, and
//! its underscores are read as dots: `OUTBOX__KAFKA__PROPERTIES__SSL_CA_LOCATION` sets `ssl.ca.location` in
//! `[kafka.properties]`. The type of the setting decides how a value is read: text is taken as it is, digits
//! and quotes included; numbers, booleans, lists and inline tables are written as in TOML.
//!
//! Built on `toml` and `serde_path_to_error` rather than the `config` crate or figment, because the message
//! about a wrong setting must have its full name and its source. `config` does not say which file or variable
//! an unknown name came from, nor which values an enum has. figment treats a dot inside a name as a
//! separator, and reads a password made of digits as a number.

mod environment;
mod explain;
#[cfg(test)]
mod fuzz;
mod renames;
mod sample;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

pub use environment::ENV_PREFIX;
pub use renames::Rename;
pub use sample::{assert_renames_lead_to_settings, assert_sample_equals_defaults};

/// Full name of a setting or section, part by part.
type Name = Vec<String>;

/// Reads the settings from the file at `path`, if there is one, and from the environment. A name in `renames`
/// is refused with the name that replaced it.
///
/// # Errors
/// The file cannot be read or is not TOML, or a setting is unknown, renamed, missing or of the wrong type.
/// The message has the file or variable, the full name of the setting, and what is expected.
pub fn load<T: DeserializeOwned + Serialize + Default>(
    path: Option<&Path>,
    renames: &[Rename],
) -> anyhow::Result<T> {
    load_from(path, environment::variables()?, renames)
}

fn load_from<T: DeserializeOwned + Serialize + Default>(
    path: Option<&Path>,
    variables: Vec<(String, String)>,
    renames: &[Rename],
) -> anyhow::Result<T> {
    let file = path.map(read).transpose()?.unwrap_or_default();
    let overrides = environment::overrides(variables)?;
    // Before anything is deserialized: to serde an old name is merely unknown, and its message would not say
    // which of the known ones replaced it.
    renames::refuse(renames, path, &file, &overrides)?;
    // The defaults are the bottom layer, so that a file may give part of a section even where the default of
    // a setting belongs to the program and not to the setting's type.
    let mut base = Table::try_from(T::default()).context("the default settings cannot be written as TOML")?;
    overlay(&mut base, file.clone());
    // Only the type knows whether a variable such as `0123` is text. It is offered as a number first; what
    // was refused as a number is offered again as text. Each variable changes sides once, so the loop ends.
    let mut as_text = BTreeSet::new();
    loop {
        let mut merged = base.clone();
        for (name, over) in &overrides {
            let guess = if as_text.contains(name) {
                None
            } else {
                environment::not_text(&over.text)
            };
            let value = guess.unwrap_or_else(|| Value::String(over.text.clone()));
            set(&mut merged, name, value).map_err(|section| {
                anyhow!(
                    "the environment variable {} sets {}, but {section} is a value and not a section",
                    over.variable,
                    name.join(".")
                )
            })?;
        }
        let error = match serde_path_to_error::deserialize(Value::Table(merged)) {
            Ok(settings) => return Ok(settings),
            Err(error) => error,
        };
        let refused = explain::name_at(error.path());
        let guessed = overrides
            .iter()
            .find(|(name, over)| refused.starts_with(name) && environment::not_text(&over.text).is_some());
        if let Some((name, _)) = guessed
            && as_text.insert(name.clone())
        {
            continue;
        }
        bail!(explain::explain(&refused, error.inner(), path, &file, &overrides));
    }
}

fn read(path: &Path) -> anyhow::Result<Table> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the settings file {} cannot be read", path.display()))?;
    text.parse().map_err(|error: toml::de::Error| {
        // Without the line itself, which the error's own text has: it may be that of a secret.
        let before = error
            .span()
            .and_then(|span| text.get(..span.start))
            .unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let (path, message) = (path.display(), error.message());
        anyhow!("the settings file {path} is not valid TOML: line {line}: {message}")
    })
}

/// Lays one table over another: merges sections, replaces values.
fn overlay(base: &mut Table, over: Table) {
    for (name, value) in over {
        match (base.get_mut(&name), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => drop(base.insert(name, value)),
        }
    }
}

/// Sets a value and creates the sections above it.
///
/// # Errors
/// The name of a setting that has a value where a section is needed.
fn set(table: &mut Table, name: &[String], value: Value) -> Result<(), String> {
    let (last, sections) = name.split_last().expect("a name has at least one part");
    let mut current = table;
    for (depth, section) in sections.iter().enumerate() {
        let entry = current
            .entry(section.clone())
            .or_insert_with(|| Value::Table(Table::new()));
        current = entry.as_table_mut().ok_or_else(|| name[..=depth].join("."))?;
    }
    current.insert(last.clone(), value);
    Ok(())
}

fn lookup<'a>(table: &'a Table, name: &[String]) -> Option<&'a Value> {
    let (first, rest) = name.split_first()?;
    let value = table.get(first)?;
    if rest.is_empty() {
        Some(value)
    } else {
        lookup(value.as_table()?, rest)
    }
}

/// Returns each value with its full name. A list is one value, and so is a section without settings.
fn leaves(table: &Table) -> BTreeMap<Name, Value> {
    let mut leaves_found = BTreeMap::new();
    for (name, value) in table {
        match value {
            Value::Table(section) if !section.is_empty() => {
                for (rest, value) in leaves(section) {
                    leaves_found.insert([vec![name.clone()], rest].concat(), value);
                }
            }
            value => {
                leaves_found.insert(vec![name.clone()], value.clone());
            }
        }
    }
    leaves_found
}
