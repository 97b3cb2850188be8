//! Filter of calls: which records of the outbox, and which dead letters, a plan is about.

use std::collections::BTreeSet;

use kafka::group_offsets::TopicRecord;
use pipeline::ledger::Replayable;
use records::{Bounds, Offset, Partition, Timestamp, call_dead_letter, dead_letter};

use crate::call_records::text;
use crate::cli::{OffsetRange, PlanReplay, ReplayState};

/// What an operator selects.
#[derive(Clone, Debug, Default)]
pub(super) struct CallFilter {
    /// Keys; `None` for all.
    pub(super) keys: Option<BTreeSet<Vec<u8>>>,
    pub(super) from: Option<Timestamp>,
    pub(super) to: Option<Timestamp>,
    pub(super) partition: Option<Partition>,
    pub(super) offsets: Option<OffsetRange>,
    pub(super) dead_letter_reason: Option<String>,
    pub(super) status: Option<u16>,
}

impl CallFilter {
    pub(super) fn of(options: &PlanReplay, keys: Option<BTreeSet<String>>) -> Self {
        Self {
            keys: keys.map(|keys| keys.into_iter().map(String::into_bytes).collect()),
            from: options.from,
            to: options.to,
            partition: options.partition.map(Partition),
            offsets: options.offsets,
            dead_letter_reason: options.dead_letter_reason.clone(),
            status: options.status,
        }
    }

    /// Returns the part of a partition that can have selected records.
    pub(super) fn within(&self, bounds: Bounds) -> Bounds {
        self.offsets.map_or(bounds, |range| Bounds {
            start: bounds.start.max(range.from),
            end: bounds.end.min(range.until),
        })
    }

    /// Returns whether a record of the outbox is selected.
    pub(super) fn has(&self, partition: Partition, record: &TopicRecord<'_>) -> bool {
        self.has_place(partition, record.offset)
            && self.has_time(record.at)
            && self.keys.as_ref().is_none_or(|keys| keys.contains(record.key))
    }

    fn has_place(&self, partition: Partition, offset: Offset) -> bool {
        self.partition.is_none_or(|of| of == partition)
            && self.offsets.is_none_or(|range| range.contains(offset))
    }

    fn has_time(&self, at: Option<Timestamp>) -> bool {
        // A record without a timestamp is in no span of time.
        self.from.is_none_or(|from| at.is_some_and(|at| at >= from))
            && self.to.is_none_or(|to| at.is_some_and(|at| at < to))
    }

    /// Returns whether calls are selected by their dead letters.
    pub(super) const fn is_by_dead_letter(&self) -> bool {
        self.dead_letter_reason.is_some() || self.status.is_some()
    }

    /// Returns whether a dead letter is selected.
    pub(super) fn has_dead_letter(&self, record: &TopicRecord<'_>) -> bool {
        let has = |name, wanted: &str| text(&record.headers, name) == Some(wanted);
        self.dead_letter_reason
            .as_ref()
            .is_none_or(|reason| has(dead_letter::REASON, reason))
            && self
                .status
                .is_none_or(|status| has(call_dead_letter::STATUS, &status.to_string()))
    }
}

impl From<ReplayState> for Replayable {
    fn from(state: ReplayState) -> Self {
        match state {
            ReplayState::Rejected => Self::Rejected,
            ReplayState::Ambiguous => Self::Ambiguous,
            ReplayState::Settled => Self::Settled,
            ReplayState::Accepted => Self::Accepted,
            ReplayState::Unknown => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call_records::record_with;

    fn record<'a>(
        offset: i64,
        at: Option<i64>,
        key: &'a [u8],
        headers: &[(&'a str, &'a [u8])],
    ) -> TopicRecord<'a> {
        TopicRecord {
            offset: Offset(offset),
            at: at.map(Timestamp),
            key,
            ..record_with(headers, b"{}")
        }
    }

    #[test]
    fn all_criteria_must_be_met() {
        let filter = CallFilter {
            keys: Some([b"a".to_vec(), b"b".to_vec()].into()),
            from: Some(Timestamp(100)),
            to: Some(Timestamp(200)),
            partition: Some(Partition(1)),
            offsets: Some(OffsetRange {
                from: Offset(10),
                until: Offset(20),
            }),
            ..CallFilter::default()
        };
        let has =
            |partition, offset, at, key| filter.has(Partition(partition), &record(offset, at, key, &[]));
        assert!(has(1, 10, Some(100), b"a") && has(1, 19, Some(199), b"b"));
        for (partition, offset, at, key) in [
            (0, 10, Some(100), b"a"),
            (1, 9, Some(100), b"a"),
            (1, 20, Some(100), b"a"),
            (1, 10, Some(99), b"a"),
            (1, 10, Some(200), b"a"),
            (1, 10, None, b"a"),
            (1, 10, Some(100), b"c"),
        ] {
            assert!(!has(partition, offset, at, key), "{partition} {offset} {at:?}");
        }
        assert!(CallFilter::default().has(Partition(4), &record(7, None, b"x", &[])));
        let within = filter.within(Bounds {
            start: Offset(0),
            end: Offset(15),
        });
        assert_eq!((within.start, within.end), (Offset(10), Offset(15)));
    }

    #[test]
    fn dead_letters_are_selected_by_reason_and_status() {
        let filter = CallFilter {
            dead_letter_reason: Some("rejected".into()),
            status: Some(422),
            ..CallFilter::default()
        };
        let has = |reason: &'static str, status: &'static str| {
            let headers = [
                (dead_letter::REASON, reason.as_bytes()),
                (call_dead_letter::STATUS, status.as_bytes()),
            ];
            filter.has_dead_letter(&record(0, None, b"k", &headers))
        };
        assert!(has("rejected", "422"));
        assert!(!has("rejected", "400") && !has("abandoned", "422"));
        assert!(filter.is_by_dead_letter() && !CallFilter::default().is_by_dead_letter());
    }
}
