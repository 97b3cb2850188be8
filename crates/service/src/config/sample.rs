//! Checks of a program's sample file and list of renames, for the tests of the programs.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Table;

use super::renames::parts;
use super::{Name, Rename, leaves, load_from, lookup, read};

/// Asserts that the sample file at `path` equals `T::default()` and has every default written in it.
///
/// # Panics
/// Lists each setting that differs or is missing.
pub fn assert_sample_equals_defaults<T: DeserializeOwned + Serialize + Default>(path: impl AsRef<Path>) {
    let path = path.as_ref();
    let written = read(path).unwrap_or_else(|error| panic!("{error:#}"));
    // Without the environment: a variable set on the machine that runs the tests must not hide a difference.
    let sample: T = load_from(Some(path), Vec::new(), &[]).unwrap_or_else(|error| panic!("{error:#}"));
    let (sample, defaults) = (leaves(&table_of(&sample)), leaves(&table_of(&T::default())));

    let mut wrong = Vec::new();
    let names: BTreeSet<&Name> = sample.keys().chain(defaults.keys()).collect();
    for name in names {
        let (in_sample, default) = (sample.get(name), defaults.get(name));
        if in_sample != default {
            wrong.push(format!(
                "{} is {in_sample:?}, the default is {default:?}",
                name.join(".")
            ));
        } else if lookup(&written, name).is_none() {
            wrong.push(format!("{} is not written in it", name.join(".")));
        }
    }
    assert!(wrong.is_empty(), "{}:\n  {}", path.display(), wrong.join("\n  "));
}

/// Asserts that each new name in `renames` is a setting or section of `T`, and that no old name is one.
///
/// # Panics
/// Lists each entry that is wrong.
pub fn assert_renames_lead_to_settings<T: Serialize + Default>(renames: &[Rename]) {
    let settings = table_of(&T::default());
    let wrong: Vec<_> = renames
        .iter()
        .filter(|(old, new)| {
            // A setting under its current name would be refused if it stood in the list as an old one.
            lookup(&settings, &parts(old)).is_some() || lookup(&settings, &parts(new)).is_none()
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "renames from a current name or to an unknown one: {wrong:?}"
    );
}

fn table_of<T: Serialize>(settings: &T) -> Table {
    Table::try_from(settings).expect("settings are a TOML table")
}
