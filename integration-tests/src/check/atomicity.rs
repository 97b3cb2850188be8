//! Torn transactions: outbox, changelog, dead letters and offsets change together or not at all, at each moment
//! and not only in the end.
//!
//! A moment is looked at in the order that makes it tell: what readers see of a topic first, then the committed
//! offsets, then the topics' ends. So
//! - what was *there* before the offsets were asked for is done: its order lies below the committed offset;
//! - what the offsets say is *done* was written before the ends were asked for: its record lies below the end.

use std::collections::HashMap;

use records::{Entry, Offset, Partition, Position, dead_letter, pending};

use super::{Anomaly, Guarantee, Violation};
use crate::read_back::topics::Record;

/// What was seen at one moment, in this order.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Per topic and partition, how far a read_committed reader got.
    pub readable: HashMap<String, HashMap<Partition, Offset>>,
    /// The validators' committed offsets, none of them pending.
    pub committed: HashMap<Partition, Offset>,
    /// Per topic and partition, the end of the log.
    pub ends: HashMap<String, HashMap<Partition, Offset>>,
}

/// What a topic holds in the end: which order each record comes from, and where it lies.
#[derive(Clone, Debug)]
pub struct RecordSources {
    /// The topic.
    pub topic: String,
    /// By the partition of the order and that of the record: the order's offset and the record's.
    pairs: HashMap<(Partition, Partition), Vec<(Offset, Offset)>>,
}

impl RecordSources {
    /// Of a topic whose records tell in a header which order they come from.
    #[must_use]
    pub fn from_headers(topic: &str, records: &[Record]) -> Self {
        Self::new(topic, records, |record| {
            let source = record
                .header(pending::SOURCE)
                .or_else(|| record.header(dead_letter::SOURCE))?;
            let position: Position = source.parse().ok()?;
            Some((position.partition, position.offset))
        })
    }

    /// Of the changelog, whose entries tell it; read with its values.
    #[must_use]
    pub fn from_entries(topic: &str, records: &[Record]) -> Self {
        Self::new(topic, records, |record| {
            let entry = Entry::decode(record.value.as_deref()?).ok()?;
            Some((record.partition, entry.source))
        })
    }

    /// What has no readable source is another checker's finding.
    fn new(topic: &str, records: &[Record], source: impl Fn(&Record) -> Option<(Partition, Offset)>) -> Self {
        let mut pairs: HashMap<_, Vec<_>> = HashMap::new();
        for record in records {
            if let Some((partition, offset)) = source(record) {
                pairs
                    .entry((partition, record.partition))
                    .or_default()
                    .push((offset, record.offset));
            }
        }
        Self {
            topic: topic.to_owned(),
            pairs,
        }
    }
}

/// Checks every moment against what the topics hold in the end.
#[must_use]
pub fn check(snapshots: &[Snapshot], topics: &[RecordSources]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for topic in topics {
        for ((of, at), pairs) in &topic.pairs {
            let by_place = furthest(pairs.iter().map(|(source, place)| (*place, *source)));
            let by_source = furthest(pairs.iter().copied());
            for (number, moment) in snapshots.iter().enumerate() {
                let here = |what: &HashMap<String, HashMap<Partition, Offset>>| {
                    what.get(&topic.topic)
                        .and_then(|partitions| partitions.get(at))
                        .copied()
                };
                let done = moment.committed.get(of).copied().unwrap_or(Offset(0));
                if let Some(readable) = here(&moment.readable)
                    && let Some(source) = furthest_below(&by_place, readable)
                    && source >= done
                {
                    violations.push(torn(format!(
                        "at moment {number} {}/{at} could be read up to {readable}, with a record of the order \
                         {of}@{source}, and {done} was committed",
                        topic.topic
                    )));
                }
                if let Some(end) = here(&moment.ends)
                    && let Some(place) = furthest_below(&by_source, done)
                    && place >= end
                {
                    violations.push(torn(format!(
                        "at moment {number} the offset {done} of partition {of} was committed, and {}/{at} ended at \
                         {end}: the record of one of these orders was written later, at {place}",
                        topic.topic
                    )));
                }
            }
        }
    }
    violations
}

/// Sorted by the first; the second is the largest so far.
fn furthest(pairs: impl Iterator<Item = (Offset, Offset)>) -> Vec<(Offset, Offset)> {
    let mut sorted: Vec<_> = pairs.collect();
    sorted.sort_unstable();
    let mut largest = Offset(-1);
    for (_, second) in &mut sorted {
        largest = largest.max(*second);
        *second = largest;
    }
    sorted
}

/// The largest second of all whose first is below the limit.
fn furthest_below(sorted: &[(Offset, Offset)], limit: Offset) -> Option<Offset> {
    let count = sorted.partition_point(|(first, _)| *first < limit);
    sorted[..count].last().map(|(_, largest)| *largest)
}

fn torn(finding: String) -> Violation {
    Violation {
        guarantee: Guarantee::G2,
        anomaly: Anomaly::Torn,
        finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "outbox";

    /// Orders 0 to 4 of partition 1 lie in the outbox's partition 2 at these offsets; between them are markers.
    fn outbox() -> RecordSources {
        let records: Vec<Record> = [10, 11, 13, 14, 16]
            .into_iter()
            .zip(0..)
            .map(|(offset, source)| Record {
                partition: Partition(2),
                offset: Offset(offset),
                timestamp_ms: 0,
                key: None,
                fingerprint: None,
                value: None,
                headers: vec![(
                    pending::SOURCE.into(),
                    Some(format!("orders/1@{source}").into_bytes()),
                )],
            })
            .collect();
        RecordSources::from_headers(TOPIC, &records)
    }

    fn check_moment(readable: i64, committed: i64, end: i64) -> Vec<Violation> {
        let at =
            |offset| HashMap::from([(TOPIC.to_owned(), HashMap::from([(Partition(2), Offset(offset))]))]);
        let moment = Snapshot {
            readable: at(readable),
            committed: [(Partition(1), Offset(committed))].into(),
            ends: at(end),
        };
        let violations = check(&[moment], &[outbox()]);
        assert!(violations.iter().all(|found| found.anomaly == Anomaly::Torn));
        violations
    }

    #[test]
    fn whole_transactions_are_fine() {
        // Before anything; with the second transaction open and committed; in the end.
        assert_eq!(check_moment(10, 0, 10), []);
        assert_eq!(check_moment(13, 2, 15), []);
        assert_eq!(check_moment(13, 4, 16), []);
        assert_eq!(check_moment(17, 5, 17), []);
    }

    #[test]
    fn a_record_before_its_offset_is_found() {
        let found = check_moment(15, 2, 15);
        assert!(
            found[0].finding.contains("the order 1@3, and 2 was committed"),
            "{found:?}"
        );
    }

    #[test]
    fn an_offset_before_its_record_is_found() {
        let found = check_moment(13, 4, 14);
        assert!(found[0].finding.contains("was written later, at 14"), "{found:?}");
    }

    #[test]
    fn entries_tell_their_order_too() {
        let entry = Entry {
            status: records::entry::Status::Pending,
            fingerprint: records::Fingerprint::of(b"x"),
            admitted_at: records::Timestamp(1),
            source: Offset(7),
        };
        let record = Record {
            partition: Partition(1),
            offset: Offset(3),
            timestamp_ms: 0,
            key: None,
            fingerprint: None,
            value: Some(entry.encode().to_vec()),
            headers: Vec::new(),
        };
        let moment = Snapshot {
            readable: [("changelog".into(), [(Partition(1), Offset(4))].into())].into(),
            committed: [(Partition(1), Offset(7))].into(),
            ends: HashMap::new(),
        };
        let found = check(&[moment], &[RecordSources::from_entries("changelog", &[record])]);
        assert_eq!(found.len(), 1, "{found:?}");
    }
}
