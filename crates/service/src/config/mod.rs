//! Settings: the defaults, over them a TOML file, and over it the environment.
//!
//! `OUTBOX__KAFKA__BOOTSTRAP_SERVERS` sets `kafka.bootstrap_servers`: the prefix, then the name's parts in
//! any case, separated by two underscores. Under a section called `properties` the rest is one name, whose
//! underscores stand for dots: `OUTBOX__KAFKA__PROPERTIES__SSL_CA_LOCATION` sets `ssl.ca.location` in
//! `[kafka.properties]`. A value is what its setting asks for: a text is taken as it is, digits and quotes
//! included; numbers, booleans, lists and inline tables are written as in TOML.
//!
//! This is toml and `serde_path_to_error` rather than the `config` crate or figment, because a wrong
//! setting must be told with its full name and its source. The former does not say which file or variable
//! an unknown name came from, nor which values an enum has; the latter takes a dot inside a name for a
//! separator and reads a password made of digits as a number.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::{Table, Value};

/// What the name of an environment variable that overrides a setting begins with.
pub const ENV_PREFIX: &str = "OUTBOX__";

/// The section whose names contain dots.
const DOTTED_SECTION: &str = "properties";

/// Reads the settings from `path`, if there is one, and from the environment.
///
/// # Errors
/// The file cannot be read or is no TOML, or a setting is unknown, missing or of the wrong form. The
/// message names the file or the variable, the setting's full name, and what was expected.
pub fn load<T: DeserializeOwned + Serialize + Default>(path: Option<&Path>) -> anyhow::Result<T> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with(ENV_PREFIX)) else {
            continue;
        };
        let value = value
            .into_string()
            .map_err(|_| anyhow!("the environment variable {name} is not UTF-8"))?;
        variables.push((name.to_owned(), value));
    }
    load_from(path, variables)
}

/// Fails unless the sample file at `path` says exactly what holds without it: read alone it equals
/// `T::default()`, and each default is written in it. For the tests of the programs.
///
/// # Panics
/// Names each setting that differs or is missing.
pub fn assert_sample_equals_defaults<T: DeserializeOwned + Serialize + Default>(path: impl AsRef<Path>) {
    let path = path.as_ref();
    let written = read(path).unwrap_or_else(|error| panic!("{error:#}"));
    let sample: T = load_from(Some(path), Vec::new()).unwrap_or_else(|error| panic!("{error:#}"));
    let leaves = |settings: &T| leaves(&Table::try_from(settings).expect("settings are a TOML table"));
    let (sample, defaults) = (leaves(&sample), leaves(&T::default()));

    let mut wrong = Vec::new();
    let names: BTreeSet<_> = sample.keys().chain(defaults.keys()).collect();
    for name in names {
        let (said, held) = (sample.get(name), defaults.get(name));
        if said != held {
            wrong.push(format!("{} is {said:?}, the default is {held:?}", name.join(".")));
        } else if lookup(&written, name).is_none() {
            wrong.push(format!("{} is not written in it", name.join(".")));
        }
    }
    assert!(wrong.is_empty(), "{}:\n  {}", path.display(), wrong.join("\n  "));
}

fn load_from<T: DeserializeOwned + Serialize + Default>(
    path: Option<&Path>,
    variables: Vec<(String, String)>,
) -> anyhow::Result<T> {
    let file = path.map(read).transpose()?.unwrap_or_default();
    let overrides = overrides(variables)?;
    // The defaults are the first layer, so that a section may be given in part even where a setting's
    // default is the program's and not its type's.
    let mut base = Table::try_from(T::default()).context("the default settings are no TOML table")?;
    overlay(&mut base, file.clone());
    // A setting that asks for text gets the variable's text even if it looks like a number. Only the
    // type knows, so what was refused as a number is offered once more as text: one more turn for each
    // variable at the most.
    let mut as_text = BTreeSet::new();
    loop {
        let mut merged = base.clone();
        for (name, over) in &overrides {
            let guess = if as_text.contains(name) {
                None
            } else {
                not_text(&over.text)
            };
            let value = guess.unwrap_or_else(|| Value::String(over.text.clone()));
            set(&mut merged, name, value).map_err(|at| {
                anyhow!(
                    "the environment variable {} sets {}, but {at} is a value and not a section",
                    over.variable,
                    name.join(".")
                )
            })?;
        }
        let error = match serde_path_to_error::deserialize(Value::Table(merged)) {
            Ok(settings) => return Ok(settings),
            Err(error) => error,
        };
        let place = place(error.path());
        let guessed = overrides
            .iter()
            .find(|(name, over)| place.starts_with(name) && not_text(&over.text).is_some());
        if let Some((name, _)) = guessed
            && as_text.insert(name.clone())
        {
            continue;
        }
        bail!(explain(&place, error.inner(), path, &file, &overrides));
    }
}

fn read(path: &Path) -> anyhow::Result<Table> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the settings file {} cannot be read", path.display()))?;
    text.parse()
        .with_context(|| format!("the settings file {} is no valid TOML", path.display()))
}

/// Lays one table over another: sections are merged, values replaced.
fn overlay(base: &mut Table, over: Table) {
    for (name, value) in over {
        match (base.get_mut(&name), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => drop(base.insert(name, value)),
        }
    }
}

/// A setting's value from the environment.
struct Override {
    variable: String,
    text: String,
}

type Name = Vec<String>;

fn overrides(variables: Vec<(String, String)>) -> anyhow::Result<BTreeMap<Name, Override>> {
    let mut overrides = BTreeMap::<Name, Override>::new();
    for (variable, text) in variables {
        let name = name_of(&variable);
        if name.iter().any(String::is_empty) {
            bail!(
                "the environment variable {variable} names no setting: expected {ENV_PREFIX}SECTION__NAME, \
                 such as {ENV_PREFIX}KAFKA__BOOTSTRAP_SERVERS"
            );
        }
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

fn name_of(variable: &str) -> Name {
    let rest = variable.trim_start_matches(ENV_PREFIX).to_lowercase();
    let mut name: Name = rest.split("__").map(str::to_owned).collect();
    if let Some(at) = name.iter().position(|part| part == DOTTED_SECTION)
        && at + 1 < name.len()
    {
        let dotted = name.split_off(at + 1).join(".").replace('_', ".");
        name.push(dotted);
    }
    name
}

/// The text as a TOML value, unless that is a text too.
fn not_text(text: &str) -> Option<Value> {
    match text.trim().parse().ok()? {
        Value::String(_) | Value::Datetime(_) => None,
        value => Some(value),
    }
}

/// Sets a value, with the sections above it; the error names what stands where a section should.
fn set(table: &mut Table, name: &[String], value: Value) -> Result<(), String> {
    let (last, sections) = name.split_last().expect("a name has at least one part");
    let mut at = table;
    for (depth, section) in sections.iter().enumerate() {
        let entry = at
            .entry(section.clone())
            .or_insert_with(|| Value::Table(Table::new()));
        at = entry.as_table_mut().ok_or_else(|| name[..=depth].join("."))?;
    }
    at.insert(last.clone(), value);
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

/// Each value with its full name; a list is one value.
fn leaves(table: &Table) -> BTreeMap<Name, Value> {
    let mut found = BTreeMap::new();
    for (name, value) in table {
        match value {
            Value::Table(section) => {
                for (rest, value) in leaves(section) {
                    found.insert([vec![name.clone()], rest].concat(), value);
                }
            }
            value => {
                found.insert(vec![name.clone()], value.clone());
            }
        }
    }
    found
}

fn place(path: &serde_path_to_error::Path) -> Name {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Enum { variant } => Some(variant.clone()),
            Segment::Unknown => None,
        })
        .collect()
}

/// What is wrong, where it stands, and what was expected there.
fn explain(
    place: &[String],
    error: &toml::de::Error,
    path: Option<&Path>,
    file: &Table,
    overrides: &BTreeMap<Name, Override>,
) -> String {
    let message = error.message();
    let name = place.join(".");
    let from_file = |name: &str| match path {
        Some(path) => format!("{name} in {}", path.display()),
        None => format!("{name} (there is no settings file: give one with --config)"),
    };
    if let Some(field) = message
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split('`').next())
    {
        let missing: Name = place.iter().cloned().chain([field.to_owned()]).collect();
        let variable = format!("{ENV_PREFIX}{}", missing.join("__").to_uppercase());
        return format!(
            "the setting {} is missing; set it there or by the environment variable {variable}",
            from_file(&missing.join("."))
        );
    }
    // Nothing of a secret is shown, not even if it has the wrong type.
    let message = if is_secret(&name) {
        "its value is not of the expected form, a text"
    } else {
        message
    };
    let in_file = lookup(file, place).is_some();
    let over = overrides
        .iter()
        .find(|(name, _)| place.starts_with(name) || (!in_file && name.starts_with(place)));
    match over {
        Some((_, over)) => {
            format!(
                "the setting {name}, from the environment variable {}: {message}",
                over.variable
            )
        }
        None => format!("the setting {}: {message}", from_file(&name)),
    }
}

fn is_secret(name: &str) -> bool {
    ["password", "secret", "token", "credential", "key.pem"]
        .iter()
        .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests;
