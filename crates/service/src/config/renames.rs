//! Renamed settings: the old name is refused with the new one in the message, so that no setting is silently
//! dropped by an upgrade.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::ensure;
use toml::{Table, Value};

use super::environment::{Override, not_text, variable_of};
use super::{Name, leaves};

/// Old name of a setting or section, and the name that replaced it: `("outage", "circuit_breaker")`. The
/// settings of a renamed section keep their names, except those with an entry of their own.
pub type Rename = (&'static str, &'static str);

/// Refuses old names in the file and in the environment.
///
/// # Errors
/// Each old name with its source and the new name. All of them at once: an upgrade meets several.
pub(super) fn refuse(
    renames: &[Rename],
    path: Option<&Path>,
    file: &Table,
    overrides: &BTreeMap<Name, Override>,
) -> anyhow::Result<()> {
    let mut refused = Vec::new();
    if let Some(path) = path {
        // Leaf by leaf: the settings of one old section may have moved to different new ones.
        for (name, value) in leaves(file) {
            let Some(new) = new_name(renames, &name) else {
                continue;
            };
            let (old, new) = (name.join("."), new.join("."));
            let file = path.display();
            refused.push(match value {
                Value::Table(_) => format!("the section [{old}] in {file} was renamed: use [{new}]"),
                _ => format!("the setting {old} in {file} was renamed: use {new}"),
            });
        }
    }
    for (name, over) in overrides {
        match not_text(&over.text) {
            // A variable may set a whole section by an inline table; the old names are then inside its value.
            Some(Value::Table(section)) if !section.is_empty() => {
                for rest in leaves(&section).into_keys() {
                    let name = [name.clone(), rest].concat();
                    if let Some(new) = new_name(renames, &name) {
                        refused.push(format!(
                            "the setting {}, from the environment variable {}, was renamed: use {}",
                            name.join("."),
                            over.variable,
                            new.join(".")
                        ));
                    }
                }
            }
            _ => {
                if let Some(new) = new_name(renames, name) {
                    refused.push(format!(
                        "the environment variable {} was renamed: use {}",
                        over.variable,
                        variable_of(&new)
                    ));
                }
            }
        }
    }
    ensure!(refused.is_empty(), refused.join("\n"));
    Ok(())
}

fn new_name(renames: &[Rename], name: &[String]) -> Option<Name> {
    renames
        .iter()
        .map(|(old, new)| (parts(old), parts(new)))
        .filter(|(old, _)| name.starts_with(old))
        // The longest: the entry of a single setting takes precedence over the one of its section.
        .max_by_key(|(old, _)| old.len())
        .map(|(old, new)| [&new, &name[old.len()..]].concat())
}

/// Splits a name as it is written in a list of renames.
pub(super) fn parts(name: &str) -> Name {
    name.split('.').map(str::to_owned).collect()
}
