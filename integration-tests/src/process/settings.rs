//! The settings files of the programs, as a user would write them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use toml::{Table, Value};

/// One settings file in the making.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    table: Table,
}

impl Settings {
    /// Sets `section.name`, or replaces what stands there.
    ///
    /// # Panics
    /// The value cannot be written as TOML: the test is wrong.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        let value = Value::try_from(value).expect("a value that TOML can say");
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

    /// Sets a property of librdkafka; their names have dots of their own.
    ///
    /// # Panics
    /// `kafka` or `kafka.properties` was set to something else before: the test is wrong.
    #[must_use]
    pub fn with_property(mut self, name: &str, value: &str) -> Self {
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

    /// Writes the file.
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
    fn sections_come_from_names() {
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
