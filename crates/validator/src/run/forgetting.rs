//! Forgetting of keys that are older than the retention window, and what is measured every few seconds: the stores, and the
//! lag of the orders.

use std::time::{Duration, Instant};

use bytesize::ByteSize;
use kafka::Consumer;
use pipeline::admission::Event;
use records::{Partition, Timestamp};

use crate::run::Loop;

/// Time between two looks at the stores.
const INTERVAL: Duration = Duration::from_secs(5);

impl Loop<'_> {
    /// Looks for keys that can be forgotten, and measures the stores, if it is time.
    ///
    /// # Errors
    /// The program cannot continue.
    pub(super) fn forget_old_keys(&mut self, consumer: &Consumer, now: Instant) -> anyhow::Result<()> {
        if now < self.forgetting_due {
            return Ok(());
        }
        self.forgetting_due = now + INTERVAL;
        self.measure_stores();
        let lag = self.lag.take(consumer.is_behind(), Timestamp::now());
        self.shell.metrics.set_lag(lag);
        // Without the id of the changelog its offsets cannot be told from those of another one.
        if self.shell.note.changelog.is_none() {
            return Ok(());
        }
        let partitions: Vec<Partition> = self.shell.stores.keys().copied().collect();
        for partition in partitions {
            let store = self.shell.stores.get(&partition);
            let forgettable = store
                .zip(self.admission.cutoff(partition))
                .and_then(|(store, cutoff)| store.forgettable(cutoff));
            if let Some(forgotten) = forgettable {
                tracing::debug!(%partition, below = %forgotten.below, before = %forgotten.before, "keys to be forgotten");
                self.apply(consumer, Event::Forgettable(partition, forgotten))?;
            }
        }
        Ok(())
    }

    fn measure_stores(&mut self) {
        let (mut keys, mut bytes, mut age_ms) = (0, 0, 0);
        for (partition, store) in &self.shell.stores {
            keys += store.len();
            bytes += store.file_bytes();
            self.shell.metrics.count_block_reads(store.take_block_reads());
            let times = self.admission.newest(*partition).zip(store.oldest());
            age_ms = age_ms.max(times.map_or(0, |(newest, oldest)| newest.0 - oldest.0));
        }
        self.shell.metrics.set_sizes(keys, bytes, age_ms);
        let alarm = self.shell.config.store.size_alarm;
        let is_too_large = alarm.is_some_and(|alarm| bytes > alarm.as_u64());
        if is_too_large && !self.is_size_reported {
            tracing::warn!(
                size = %ByteSize(bytes), size_alarm = %alarm.unwrap_or_default(), keys,
                "the stores are larger than store.size_alarm, operator action required: enlarge the disk, or shorten \
                 store.retention; nothing is deleted",
            );
        }
        self.is_size_reported = is_too_large;
        self.shell.metrics.store_size_alarm.set(i64::from(is_too_large));
    }
}
