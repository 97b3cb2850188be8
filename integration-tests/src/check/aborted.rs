//! Aborted reads: no record or store entry derives from an aborted record, and no reader has received one.

use std::collections::{HashMap, HashSet};

use records::{KeyHash, Offset, Partition, dead_letter, pending};

use super::{Anomaly, Guarantee, Violation};
use crate::read_back::stores::StoreContents;
use crate::read_back::topics::Record;

/// Position of a record in its topic.
pub type RecordPosition = (Partition, Offset);

/// Input of the check, read after all programs have stopped.
#[derive(Clone, Copy, Debug)]
pub struct AbortedReadCheck<'a> {
    /// Name of the orders topic, as in the headers.
    pub orders_topic: &'a str,
    /// Positions of the aborted records of the orders topic.
    pub orders: &'a HashSet<RecordPosition>,
    /// Aborted records of the changelog, with values.
    pub changelog: &'a [Record],
    /// Committed records of the changelog, with values.
    pub changelog_committed: &'a [Record],
    /// Committed records of the outbox and the dead letters.
    pub outcomes: &'a [&'a [Record]],
    /// Stores of the validators.
    pub stores: &'a [StoreContents],
}

/// Records that a read_committed reader received from a topic while it was written, from its beginning.
#[derive(Clone, Debug, Default)]
pub struct ObservedRecords {
    /// Name of the topic.
    pub topic: String,
    /// Fingerprint of the key ([`fingerprint`]) by position.
    pub records: HashMap<RecordPosition, u32>,
}

impl AbortedReadCheck<'_> {
    /// Returns a violation for each record and entry from an aborted record.
    #[must_use]
    pub fn check(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        let sources: HashSet<String> = self
            .orders
            .iter()
            .map(|(partition, offset)| format!("{}/{partition}@{offset}", self.orders_topic))
            .collect();
        // To a read_committed validator, an order of an aborted transaction does not exist.
        for record in self.outcomes.iter().copied().flatten() {
            let source = record
                .header(pending::SOURCE)
                .or_else(|| record.header(dead_letter::SOURCE));
            // A record without a source is a finding of the stage one checker.
            if let Some(source) = source.filter(|source| sources.contains(*source)) {
                violations.push(violation(
                    Guarantee::G1,
                    format!(
                        "the record of {:?} comes from {source}, whose transaction was aborted",
                        record.key_text()
                    ),
                ));
            }
        }
        // A value that was aborted once may be committed later, with the same bytes: not an aborted read.
        let committed: HashSet<(&[u8], &[u8])> = self.changelog_committed.iter().map(row).collect();
        let aborted: HashMap<(KeyHash, &[u8]), &Record> = self
            .changelog
            .iter()
            .map(|record| (row(record), record))
            .filter(|(row, _)| !committed.contains(row))
            .map(|((key, value), record)| ((KeyHash::of(key), value), record))
            .collect();
        for store in self.stores {
            for (key, value) in &store.entries {
                if let Some(record) = aborted.get(&(*key, value.as_slice())) {
                    violations.push(violation(
                        Guarantee::G3,
                        format!(
                            "{} contains {:?} from changelog record {}@{}, whose transaction was aborted",
                            store.name,
                            record.key_text(),
                            record.partition,
                            record.offset
                        ),
                    ));
                }
            }
        }
        violations
    }
}

/// Returns the records that only a read_uncommitted reader receives.
#[must_use]
pub fn aborted(all: Vec<Record>, committed: &[Record]) -> Vec<Record> {
    let committed: HashSet<RecordPosition> = committed.iter().map(position).collect();
    all.into_iter()
        .filter(|record| !committed.contains(&position(record)))
        .collect()
}

/// Compares what a reader received while a topic was written with the committed records at the end.
#[must_use]
pub fn check_observed(seen: &ObservedRecords, committed: &[Record]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let committed: HashMap<RecordPosition, u32> = committed
        .iter()
        .map(|record| (position(record), fingerprint(record.key.as_deref())))
        .collect();
    // Highest offset received per partition: records above it may just not have been read yet.
    let mut reached: HashMap<Partition, Offset> = HashMap::new();
    for (position, key) in &seen.records {
        let (partition, offset) = *position;
        let furthest = reached.entry(partition).or_insert(offset);
        *furthest = (*furthest).max(offset);
        if committed.get(position) != Some(key) {
            violations.push(violation(
                Guarantee::G1,
                format!(
                    "a read_committed reader received {}/{partition}@{offset}, which is no committed record",
                    seen.topic
                ),
            ));
        }
    }
    for position in committed.keys() {
        let (partition, offset) = *position;
        let passed = reached.get(&partition).is_some_and(|furthest| offset < *furthest);
        // A reader at a higher offset will never return to this one: the record is lost to it.
        if passed && !seen.records.contains_key(position) {
            violations.push(Violation {
                guarantee: Guarantee::G2,
                anomaly: Anomaly::Lost,
                finding: format!(
                    "a read_committed reader skipped {}/{partition}@{offset}, which is a committed record",
                    seen.topic
                ),
            });
        }
    }
    violations
}

/// Returns a checksum of a key, enough to detect another record at the same offset.
#[must_use]
pub fn fingerprint(key: Option<&[u8]>) -> u32 {
    // Four bytes per record: a chaos run of hours keeps all of them in memory.
    crc32fast::hash(key.unwrap_or_default())
}

fn position(record: &Record) -> RecordPosition {
    (record.partition, record.offset)
}

fn row(record: &Record) -> (&[u8], &[u8]) {
    (
        record.key.as_deref().unwrap_or_default(),
        record.value.as_deref().unwrap_or_default(),
    )
}

fn violation(guarantee: Guarantee, finding: String) -> Violation {
    Violation {
        guarantee,
        anomaly: Anomaly::AbortedRead,
        finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64, key: &str, value: &str, source: &str) -> Record {
        Record {
            partition: Partition(0),
            offset: Offset(offset),
            timestamp_ms: 0,
            key: Some(key.into()),
            fingerprint: None,
            value: Some(value.into()),
            headers: vec![(pending::SOURCE.into(), Some(source.into()))],
        }
    }

    fn check(orders: &[i64], outbox: &[Record], store: (&str, &str)) -> Vec<Violation> {
        // "b" was aborted once and committed later; "c" was only aborted.
        let all = vec![
            record(0, "a", "1", ""),
            record(1, "b", "1", ""),
            record(2, "b", "2", ""),
            record(3, "c", "1", ""),
        ];
        let committed = vec![record(0, "a", "1", ""), record(2, "b", "2", "")];
        AbortedReadCheck {
            orders_topic: "orders",
            orders: &orders
                .iter()
                .map(|offset| (Partition(0), Offset(*offset)))
                .collect(),
            changelog: &aborted(all, &committed),
            changelog_committed: &committed,
            outcomes: &[outbox],
            stores: &[StoreContents {
                name: "the store".into(),
                partition: Some(Partition(0)),
                checkpoint: None,
                entries: [(KeyHash::of(store.0.as_bytes()), store.1.into())].into(),
                is_damaged: false,
            }],
        }
        .check()
    }

    fn is_aborted_read(violations: &[Violation], words: &str) -> bool {
        matches!(violations, [found] if found.anomaly == Anomaly::AbortedRead && found.finding.contains(words))
    }

    #[test]
    fn records_from_committed_orders_pass() {
        let outbox = [record(0, "a", "1", "orders/0@6")];
        assert_eq!(check(&[7], &outbox, ("a", "1")), []);
        assert_eq!(check(&[7], &outbox, ("b", "2")), []);
    }

    #[test]
    fn record_of_aborted_order_is_found() {
        let outbox = [record(0, "a", "1", "orders/0@7")];
        let found = check(&[7], &outbox, ("a", "1"));
        assert!(
            is_aborted_read(&found, "orders/0@7, whose transaction was aborted"),
            "{found:?}"
        );
    }

    #[test]
    fn store_with_aborted_entry_is_found() {
        for entry in [("b", "1"), ("c", "1")] {
            let found = check(&[], &[], entry);
            assert!(
                is_aborted_read(&found, "the store contains"),
                "{entry:?}: {found:?}"
            );
        }
    }

    #[test]
    fn reader_must_receive_all_and_only_committed() {
        let committed = [
            record(0, "a", "", ""),
            record(2, "b", "", ""),
            record(5, "c", "", ""),
        ];
        let seen = |records: &[(i64, &str)]| ObservedRecords {
            topic: "outbox".into(),
            records: records
                .iter()
                .map(|(offset, key)| ((Partition(0), Offset(*offset)), fingerprint(Some(key.as_bytes()))))
                .collect(),
        };
        assert_eq!(check_observed(&seen(&[(0, "a"), (2, "b")]), &committed), []);
        for records in [[(0, "a"), (1, "b")], [(0, "a"), (2, "z")]] {
            let found = check_observed(&seen(&records), &committed[..1]);
            assert!(
                is_aborted_read(&found, "which is no committed record"),
                "{found:?}"
            );
        }
        let found = check_observed(&seen(&[(0, "a"), (5, "c")]), &committed);
        assert!(
            matches!(&found[..], [found] if found.anomaly == Anomaly::Lost && found.finding.contains("0@2")),
            "{found:?}"
        );
    }
}
