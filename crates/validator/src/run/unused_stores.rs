//! Removal of the stores of partitions that moved to other validators long ago.

use std::time::{Duration, Instant};

use crate::config::StandbySetting;
use crate::run::Loop;

/// Time between two looks at the state directory.
const INTERVAL: Duration = Duration::from_secs(3600);

impl Loop<'_> {
    /// Removes the stores that were not used for `store.unused_max`, if it is time to look for them.
    pub(super) fn remove_unused_stores(&mut self, now: Instant) {
        let settings = &self.shell.config.store;
        // Until partitions are assigned it is not known which are used. With standby stores all are.
        if now < self.unused_stores_due || !self.is_assigned || settings.standby == StandbySetting::All {
            return;
        }
        self.unused_stores_due = now + INTERVAL;
        let assigned = self.admission.partitions();
        let removed = self
            .shell
            .directory
            .remove_unused(|partition| assigned.contains_key(&partition), settings.unused_max);
        match removed {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => {
                tracing::info!(partitions = ?removed, "removed the stores of partitions that moved away long ago");
            }
            // They cost space and nothing else.
            Err(error) => tracing::warn!(%error, "stores of partitions that moved away not removed"),
        }
    }
}
