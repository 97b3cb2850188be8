//! Partitions, offsets, positions and times, as types instead of bare numbers.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Number of a partition within its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub i32);

/// Offset of a record within its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub i64);

/// Number of a partition's leadership: each leader that Kafka elects has a higher one, and writes it into its
/// records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderEpoch(pub i32);

/// How far the log is still the one that a committed offset belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// Leader epoch that was committed with the offset.
    pub epoch: LeaderEpoch,
    /// End of what the leaders up to that epoch have written, but not above the committed offset. The records
    /// from here on are of later leaders.
    pub end: Offset,
}

/// Bounds of a partition: its first offset, and the one after its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Log start offset.
    pub start: Offset,
    /// Log end: the high watermark for a read_uncommitted client, the last stable offset for a read_committed
    /// one.
    pub end: Offset,
}

/// Point in time, in milliseconds since 1970 UTC, as in Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// Position of a record in the cluster, written `topic/partition@offset`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Name of the topic.
    pub topic: String,
    /// Partition within the topic.
    pub partition: Partition,
    /// Offset within the partition.
    pub offset: Offset,
}

/// Text that is not a `topic/partition@offset`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a position: expected topic/partition@offset, for example payment-orders/3@1042")]
pub struct InvalidPosition(String);

impl Offset {
    /// Returns the next offset.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Timestamp {
    /// Returns the time of the wall clock. For programs only: decisions take the time as an argument.
    #[must_use]
    pub fn now() -> Self {
        // A clock before 1970 is not set; 0 is then as wrong as any other time, and no reason to stop.
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        // Kafka allows neither `/` nor `@` in topic names, so the split is unambiguous.
        let (topic, rest) = text
            .split_once('/')
            .ok_or_else(|| InvalidPosition(text.to_owned()))?;
        let (partition, offset) = rest
            .split_once('@')
            .ok_or_else(|| InvalidPosition(text.to_owned()))?;
        // Negative numbers are refused: in librdkafka they are special offsets, such as -1 for the end.
        match (topic.is_empty(), partition.parse::<i32>(), offset.parse::<i64>()) {
            (false, Ok(partition @ 0..), Ok(offset @ 0..)) => Ok(Self {
                topic: topic.to_owned(),
                partition: Partition(partition),
                offset: Offset(offset),
            }),
            _ => Err(InvalidPosition(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_round_trips_and_other_text_is_refused() {
        let written = Position {
            topic: "payment-orders".into(),
            partition: Partition(3),
            offset: Offset(1042),
        };
        assert_eq!(written.to_string(), "payment-orders/3@1042");
        assert_eq!(
            written.to_string().parse::<Position>().expect("a position"),
            written
        );
        for wrong in [
            "", "a", "a/1", "a/1@", "/1@2", "a/-1@2", "a/1@-2", "a/x@2", "a@1/2",
        ] {
            assert!(
                wrong.parse::<Position>().is_err(),
                "{wrong:?} parsed as a position"
            );
        }
    }
}
