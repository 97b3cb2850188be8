//! Settings of the stores: `[store]`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StoreSettings {
    /// State directory of this validator alone. It may be lost: it is a cache of the changelog.
    pub(crate) dir: PathBuf,
    /// Memory for redb's caches of all stores together.
    pub(crate) cache: ByteSize,
    /// Interval at which each store is made durable. After a crash the changelog of this period is read
    /// again.
    #[serde(with = "humantime_serde")]
    pub(crate) persist_interval: Duration,
    /// Maximum number of partitions restored at the same time.
    pub(crate) restores_max: usize,
    /// Stores that are kept of partitions of other validators.
    pub(crate) standby: StandbySetting,
    /// Time for which the key of an order is remembered, by the times of the records; `None` ("off"): for ever.
    #[serde(with = "crate::or_off::duration")]
    pub(crate) retention: Option<Duration>,
    /// Size of all stores together above which an operator is asked to act; `None` ("off"): none.
    #[serde(with = "crate::or_off::size")]
    pub(crate) size_alarm: Option<ByteSize>,
    /// Time after which the store of a partition that has moved away is removed.
    #[serde(with = "humantime_serde")]
    pub(crate) unused_max: Duration,
}

/// Stores that are kept of partitions of other validators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StandbySetting {
    /// None: a partition that moves here is restored from the store that this validator had of it, if any.
    None,
    /// One of each partition, which follows the changelog.
    All,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            dir: "./state".into(),
            cache: ByteSize::mib(32),
            persist_interval: Duration::from_secs(1),
            restores_max: 2,
            standby: StandbySetting::None,
            retention: Some(Duration::from_secs(30 * 24 * 3600)),
            size_alarm: None,
            unused_max: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

impl StoreSettings {
    /// Checks what the types cannot express.
    ///
    /// # Errors
    /// Names the setting that is wrong, and the values that are allowed.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.restores_max >= 1,
            "the setting store.restores_max must be 1 or more"
        );
        ensure!(
            self.retention.is_none_or(|retention| retention >= RETENTION_MIN),
            "the setting store.retention is {:?}; it must be at least {RETENTION_MIN:?}, or \"off\": orders that producers \
             send again after that time are paid twice",
            self.retention.unwrap_or_default()
        );
        Ok(())
    }
}

/// Minimum of `store.retention`: several times the hour by which the clocks of producers may be ahead.
const RETENTION_MIN: Duration = Duration::from_secs(6 * 3600);
