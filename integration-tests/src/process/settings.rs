//! Settings files of the programs under test.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use toml::{Table, Value};

/// A settings file before it is written.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    table: Table,
}

impl Settings {
    /// Sets `section.name`, replacing an earlier value.
    ///
    /// # Panics
    /// TOML has no such value, or a section of the name is a value already.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        let value = Value::try_from(value).expect("a TOML value");
        // Sections are created on first use, so settings can be given in any order.
        let (section, name) = match name.rsplit_once('.') {
            Some((section, name)) => (section.split('.').collect(), name),
            None => (Vec::new(), name),
        };
        let mut table = &mut self.table;
        for part in section {
            table = table
                .entry(part)
                .or_insert_with(|| Value::Table(Table::new()))
                .as_table_mut()
                .expect("a section and not a value");
        }
        table.insert(name.into(), value);
        self
    }

    /// Sets a librdkafka property in `kafka.properties`.
    ///
    /// # Panics
    /// `kafka` or `kafka.properties` was set to a value before.
    #[must_use]
    pub fn with_property(mut self, name: &str, value: &str) -> Self {
        // Not through `with`, which would split the dots of the property's name.
        let mut table = &mut self.table;
        for part in ["kafka", "properties"] {
            table = table
                .entry(part)
                .or_insert_with(|| Value::Table(Table::new()))
                .as_table_mut()
                .expect("a section and not a value");
        }
        table.insert(name.into(), Value::String(value.into()));
        self
    }

    /// Writes the file and returns its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<PathBuf> {
        let text = toml::to_string(&self.table).context("writing settings as TOML")?;
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_in_names_become_sections() {
        let settings = Settings::default()
            .with("store.dir", "/tmp/state")
            .with("kafka.group_id", "g")
            .with_property("session.timeout.ms", "6000");
        let text = toml::to_string(&settings.table).expect("TOML");
        let read: Table = text.parse().expect("TOML");
        assert_eq!(read["store"]["dir"].as_str(), Some("/tmp/state"));
        assert_eq!(
            read["kafka"]["properties"]["session.timeout.ms"].as_str(),
            Some("6000")
        );
    }
}
