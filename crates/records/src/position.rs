//! Where and when a record is: partitions, offsets and times are types of their own, not bare numbers.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The number of a partition within its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub i32);

/// The number of a record within its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub i64);

/// The first offset that a partition still has, and the one behind its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The log's start.
    pub start: Offset,
    /// The log's end: the high watermark for a read_uncommitted client, the last stable offset for a
    /// read_committed one.
    pub end: Offset,
}

/// A point in time, in milliseconds since 1970 UTC, as Kafka counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// One record's place in the cluster, written `topic/partition@offset`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The topic's name.
    pub topic: String,
    /// The partition within the topic.
    pub partition: Partition,
    /// The offset within the partition.
    pub offset: Offset,
}

/// A text that is no `topic/partition@offset`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no position: expected topic/partition@offset, for example payment-orders/3@1042")]
pub struct NotAPosition(String);

impl Offset {
    /// The offset behind this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Timestamp {
    /// The time of the wall clock. Decisions take the time as an argument; this is for the programs.
    #[must_use]
    pub fn now() -> Self {
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
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        // Topic names hold neither a slash nor an at sign, so the split is unambiguous.
        let (topic, rest) = text
            .split_once('/')
            .ok_or_else(|| NotAPosition(text.to_owned()))?;
        let (partition, offset) = rest
            .split_once('@')
            .ok_or_else(|| NotAPosition(text.to_owned()))?;
        match (topic.is_empty(), partition.parse::<i32>(), offset.parse::<i64>()) {
            (false, Ok(partition @ 0..), Ok(offset @ 0..)) => Ok(Self {
                topic: topic.to_owned(),
                partition: Partition(partition),
                offset: Offset(offset),
            }),
            _ => Err(NotAPosition(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_back_as_it_was_written() {
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
                "{wrong:?} was taken for a position"
            );
        }
    }
}
