//! Sizes of batches and records, from what the topics accept.

use rdkafka::ClientConfig;

use crate::topics::ExistingTopics;

/// Range of `max.message.bytes` over the topics that a producer writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSizes {
    smallest: u64,
    largest: u64,
}

impl RecordSizes {
    /// Returns the range over the topics with these names. A topic that is not described, or whose settings
    /// this user may not read, counts as one with Kafka's default.
    #[must_use]
    pub fn of<'a>(existing: &ExistingTopics, names: impl IntoIterator<Item = &'a str>) -> Self {
        let of_topic = |name: &str| {
            let bytes = existing.get(name)?.number("max.message.bytes")?;
            u64::try_from(bytes).ok()
        };
        let mut range: Option<Self> = None;
        for name in names {
            let bytes = of_topic(name).unwrap_or(KAFKA_DEFAULT);
            range = Some(match range {
                Some(Self { smallest, largest }) => Self {
                    smallest: smallest.min(bytes),
                    largest: largest.max(bytes),
                },
                None => Self {
                    smallest: bytes,
                    largest: bytes,
                },
            });
        }
        range.unwrap_or(Self {
            smallest: KAFKA_DEFAULT,
            largest: KAFKA_DEFAULT,
        })
    }

    /// Returns the maximum size of a record that each of the topics accepts, in bytes.
    #[must_use]
    pub fn accepted_by_all(self) -> usize {
        usize::try_from(self.smallest).unwrap_or(usize::MAX)
    }

    /// Sets the properties that depend on these sizes. `queue_kib_max` is the maximum size of the queue, in
    /// KiB, unless one record is larger.
    pub(super) fn configure(self, config: &mut ClientConfig, queue_kib_max: u64) {
        let batch_bytes_max = match config.get("batch.size").map(str::parse) {
            Some(Ok(bytes)) => bytes,
            // Left to librdkafka, which names the setting in its error.
            Some(Err(_)) => u64::MAX,
            None => LIBRDKAFKA_BATCH_SIZE,
        };
        if batch_bytes_max != u64::MAX {
            // A topic checks the size of a batch as a whole, and refuses every record of one that is too
            // large. A record that fills a batch alone is sent alone.
            let accepted = self.smallest.saturating_sub(BATCH_OVERHEAD).max(1);
            config.set("batch.size", batch_bytes_max.min(accepted).to_string());
        }
        // The topic's own limit decides what is too large. The client's default of 1 MB would refuse records
        // that the topic takes.
        let record_bytes_max = self
            .largest
            .saturating_add(BATCH_OVERHEAD)
            .clamp(RECORD_BYTES_MAX, LIBRDKAFKA_RECORD_BYTES_MAX);
        config.set("message.max.bytes", record_bytes_max.to_string());
        // A record larger than the queue would find it full for ever.
        let queue_kib_max = queue_kib_max.max(self.largest.min(LIBRDKAFKA_RECORD_BYTES_MAX) / 1024 + 1);
        config.set("queue.buffering.max.kbytes", queue_kib_max.to_string());
    }
}

/// Kafka's default of `max.message.bytes`.
const KAFKA_DEFAULT: u64 = 1_048_588;
/// librdkafka's default of `batch.size`.
const LIBRDKAFKA_BATCH_SIZE: u64 = 1_000_000;
/// Upper bound of `message.max.bytes` in librdkafka.
const LIBRDKAFKA_RECORD_BYTES_MAX: u64 = 1_000_000_000;
/// Minimum of a record's maximum size in the client (`message.max.bytes`): a topic's limit may be raised while
/// the program runs.
const RECORD_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Room for the framing of a batch, and of a record in it.
const BATCH_OVERHEAD: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::TopicDescription;

    fn existing(topics: &[(&str, &str)]) -> ExistingTopics {
        let topic = |(name, bytes): &(&str, &str)| {
            let configs = [("max.message.bytes".to_owned(), (*bytes).to_owned())].into();
            let description = TopicDescription {
                configs,
                ..TopicDescription::default()
            };
            ((*name).to_owned(), description)
        };
        topics.iter().map(topic).collect()
    }

    fn configured(topics: &[(&str, &str)], names: &[&str], property: Option<&str>) -> [String; 3] {
        let mut config = ClientConfig::new();
        if let Some(bytes) = property {
            config.set("batch.size", bytes);
        }
        RecordSizes::of(&existing(topics), names.iter().copied()).configure(&mut config, 16_384);
        ["batch.size", "message.max.bytes", "queue.buffering.max.kbytes"]
            .map(|name| config.get(name).unwrap_or_default().to_owned())
    }

    #[test]
    fn batches_fit_into_the_smallest_topic() {
        let topics = [("outbox", "200000"), ("changelog", "50000"), ("other", "2000")];
        let [batch, ..] = configured(&topics, &["outbox", "changelog"], None);
        assert_eq!(batch, "48976");
        // A user's smaller batches stay, and larger ones do not.
        assert_eq!(configured(&topics, &["outbox"], Some("5000"))[0], "5000");
        assert_eq!(configured(&topics, &["outbox"], Some("900000"))[0], "198976");
        assert_eq!(configured(&topics, &["outbox"], Some("x"))[0], "x");
        // One record per batch, where a topic leaves no room for two.
        assert_eq!(configured(&[("outbox", "500")], &["outbox"], None)[0], "1");
    }

    #[test]
    fn large_topics_keep_the_usual_batches() {
        let [batch, record, queue] = configured(&[("outbox", "5000000")], &["outbox", "unknown"], None);
        assert_eq!((batch.as_str(), record.as_str()), ("1000000", "67108864"));
        assert_eq!(queue, "16384");
    }

    #[test]
    fn largest_record_of_a_topic_passes_the_client() {
        let [_, record, queue] = configured(&[("outbox", "100000000")], &["outbox"], None);
        assert_eq!((record.as_str(), queue.as_str()), ("100001024", "97657"));
        // Not more than librdkafka allows.
        let [_, record, _] = configured(&[("outbox", "2147483647")], &["outbox"], None);
        assert_eq!(record, "1000000000");
    }
}
