//! Torn transactions: outbox, changelog, dead letters and committed offset change together, at all times.
//!
//! A snapshot is taken in a fixed order: readable records, then committed offsets, then end offsets. So
//! - the order of a record that was readable in the first step is below the committed offset of the second;
//! - the records of an order below that committed offset are below the end offset of the third.

use std::collections::HashMap;

use records::entry::SEEN_AGAIN;
use records::{Entry, Offset, Partition, Position, dead_letter, pending};

use super::{Anomaly, Guarantee, Violation};
use crate::read_back::topics::Record;

/// Offsets at one time, fetched in the order of the fields.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Position that a read_committed reader has reached, by topic and partition.
    pub readable: HashMap<String, HashMap<Partition, Offset>>,
    /// Committed offsets of the validators, stable ones only.
    pub committed: HashMap<Partition, Offset>,
    /// End offsets by topic and partition.
    pub ends: HashMap<String, HashMap<Partition, Offset>>,
}

/// Source order of each record of a topic, at the end of the run.
#[derive(Clone, Debug)]
pub struct RecordSources {
    /// Name of the topic.
    pub topic: String,
    /// Pairs of order offset and record offset, by partition of the order and of the record.
    pairs: HashMap<(Partition, Partition), Vec<(Offset, Offset)>>,
}

impl RecordSources {
    /// Reads the sources from the records' headers.
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

    /// Reads the sources from changelog entries. The records need their values.
    #[must_use]
    pub fn from_entries(topic: &str, records: &[Record]) -> Self {
        Self::new(topic, records, |record| {
            // A key that is recorded again has the source of its first order, and not of the one that it comes with.
            if record.headers.iter().any(|(name, _)| name == SEEN_AGAIN) {
                return None;
            }
            let entry = Entry::decode(record.value.as_deref()?).ok()?;
            Some((record.partition, entry.source))
        })
    }

    fn new(topic: &str, records: &[Record], source: impl Fn(&Record) -> Option<(Partition, Offset)>) -> Self {
        let mut pairs: HashMap<_, Vec<_>> = HashMap::new();
        for record in records {
            // A record without a readable source is a finding of the stage one checker.
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

/// Checks all snapshots against the records at the end of the run.
#[must_use]
pub fn check(snapshots: &[Snapshot], topics: &[RecordSources]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for topic in topics {
        for ((of, at), pairs) in &topic.pairs {
            // Offsets only grow, so of all records below a limit the one with the largest counterpart
            // decides.
            let by_record = running_maximum(pairs.iter().map(|(source, record)| (*record, *source)));
            let by_source = running_maximum(pairs.iter().copied());
            for (number, snapshot) in snapshots.iter().enumerate() {
                let here = |what: &HashMap<String, HashMap<Partition, Offset>>| {
                    what.get(&topic.topic)
                        .and_then(|partitions| partitions.get(at))
                        .copied()
                };
                let committed = snapshot.committed.get(of).copied().unwrap_or(Offset(0));
                // Read before the offsets were fetched, so its transaction had committed the offset too.
                if let Some(readable) = here(&snapshot.readable)
                    && let Some(source) = maximum_below(&by_record, readable)
                    && source >= committed
                {
                    violations.push(torn(format!(
                        "snapshot {number}: {}/{at} was readable up to {readable}, including the record of \
                         order {of}@{source}, but the committed offset of partition {of} was {committed}",
                        topic.topic
                    )));
                }
                // Committed before the end was fetched, so its transaction had written the record too.
                if let Some(end) = here(&snapshot.ends)
                    && let Some(record) = maximum_below(&by_source, committed)
                    && record >= end
                {
                    violations.push(torn(format!(
                        "snapshot {number}: the committed offset of partition {of} was {committed}, but {}/{at} \
                         ended at {end}: the record of an order below that offset was written later, at {record}",
                        topic.topic
                    )));
                }
            }
        }
    }
    violations
}

/// Sorts pairs by the first offset, and replaces the second by the maximum so far.
fn running_maximum(pairs: impl Iterator<Item = (Offset, Offset)>) -> Vec<(Offset, Offset)> {
    let mut sorted: Vec<_> = pairs.collect();
    sorted.sort_unstable();
    let mut largest = Offset(-1);
    for (_, second) in &mut sorted {
        largest = largest.max(*second);
        *second = largest;
    }
    sorted
}

/// Returns the largest second offset of the pairs whose first is below the limit.
fn maximum_below(sorted: &[(Offset, Offset)], limit: Offset) -> Option<Offset> {
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

    /// Orders 0 to 4 of partition 1, in partition 2 of the outbox. Gaps are transaction markers.
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

    fn check_snapshot(readable: i64, committed: i64, end: i64) -> Vec<Violation> {
        let at =
            |offset| HashMap::from([(TOPIC.to_owned(), HashMap::from([(Partition(2), Offset(offset))]))]);
        let snapshot = Snapshot {
            readable: at(readable),
            committed: [(Partition(1), Offset(committed))].into(),
            ends: at(end),
        };
        let violations = check(&[snapshot], &[outbox()]);
        assert!(violations.iter().all(|found| found.anomaly == Anomaly::Torn));
        violations
    }

    #[test]
    fn whole_transactions_pass() {
        // Before the first transaction; with the second open, then committed; at the end.
        assert_eq!(check_snapshot(10, 0, 10), []);
        assert_eq!(check_snapshot(13, 2, 15), []);
        assert_eq!(check_snapshot(13, 4, 16), []);
        assert_eq!(check_snapshot(17, 5, 17), []);
    }

    #[test]
    fn record_readable_before_its_offset_is_found() {
        let found = check_snapshot(15, 2, 15);
        assert!(
            found[0]
                .finding
                .contains("order 1@3, but the committed offset of partition 1 was 2"),
            "{found:?}"
        );
    }

    #[test]
    fn offset_committed_before_its_record_is_found() {
        let found = check_snapshot(13, 4, 14);
        assert!(found[0].finding.contains("was written later, at 14"), "{found:?}");
    }

    #[test]
    fn changelog_entries_have_a_source_too() {
        let entry = Entry {
            status: records::entry::Status::Pending,
            selection: records::fingerprint::SelectionId::Order,
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
        let snapshot = Snapshot {
            readable: [("changelog".into(), [(Partition(1), Offset(4))].into())].into(),
            committed: [(Partition(1), Offset(7))].into(),
            ends: HashMap::new(),
        };
        let found = check(
            &[snapshot],
            &[RecordSources::from_entries("changelog", &[record])],
        );
        assert_eq!(found.len(), 1, "{found:?}");
    }
}
