//! AbortedReadCheck reads: nothing may rest on a record whose transaction was aborted, and no reader may have seen one.

use std::collections::{HashMap, HashSet};

use records::{Offset, Partition, dead_letter, pending};

use super::{Anomaly, Guarantee, Violation};
use crate::read_back::stores::StoreContents;
use crate::read_back::topics::Record;

/// Where a record lies in its topic.
pub type RecordPosition = (Partition, Offset);

/// What was read, committed and not, after every program has ended.
#[derive(Clone, Copy, Debug)]
pub struct AbortedReadCheck<'a> {
    /// The name of the orders topic, which headers refer to.
    pub orders_topic: &'a str,
    /// Where the orders topic holds aborted records.
    pub orders: &'a HashSet<RecordPosition>,
    /// The aborted records of the changelog, with their values.
    pub changelog: &'a [Record],
    /// The committed ones.
    pub changelog_committed: &'a [Record],
    /// The outbox and the dead letters, committed.
    pub outcomes: &'a [&'a [Record]],
    /// The validators' stores.
    pub stores: &'a [StoreContents],
}

/// What a read_committed reader has seen of a topic while it was written, from its beginning.
#[derive(Clone, Debug, Default)]
pub struct ObservedRecords {
    /// The topic.
    pub topic: String,
    /// Each record's place and the fingerprint of its key.
    pub records: HashMap<RecordPosition, u32>,
}

impl AbortedReadCheck<'_> {
    /// Checks everything.
    #[must_use]
    pub fn check(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        let sources: HashSet<String> = self
            .orders
            .iter()
            .map(|(partition, offset)| format!("{}/{partition}@{offset}", self.orders_topic))
            .collect();
        for record in self.outcomes.iter().copied().flatten() {
            let source = record
                .header(pending::SOURCE)
                .or_else(|| record.header(dead_letter::SOURCE));
            if let Some(source) = source.filter(|source| sources.contains(*source)) {
                violations.push(violation(
                    Guarantee::G1,
                    format!("{:?} comes from {source}, which was aborted", record.key_text()),
                ));
            }
        }
        let committed: HashSet<(&[u8], &[u8])> = self.changelog_committed.iter().map(row).collect();
        let aborted: HashMap<(&[u8], &[u8]), &Record> = self
            .changelog
            .iter()
            .map(|record| (row(record), record))
            .filter(|(row, _)| !committed.contains(row))
            .collect();
        for store in self.stores {
            for (key, value) in &store.entries {
                if let Some(record) = aborted.get(&(key.as_slice(), value.as_slice())) {
                    violations.push(violation(
                        Guarantee::G3,
                        format!(
                            "{} has {:?} from the changelog's record {}@{}, which was aborted",
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

/// The records that only a read_uncommitted reader sees.
#[must_use]
pub fn aborted(all: Vec<Record>, committed: &[Record]) -> Vec<Record> {
    let committed: HashSet<RecordPosition> = committed.iter().map(place).collect();
    all.into_iter()
        .filter(|record| !committed.contains(&place(record)))
        .collect()
}

/// Compares what was seen of a topic while it was written with what it holds in the end.
#[must_use]
pub fn check_observed(seen: &ObservedRecords, committed: &[Record]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let held: HashMap<RecordPosition, u32> = committed
        .iter()
        .map(|record| (place(record), fingerprint(record.key.as_deref())))
        .collect();
    let mut reached: HashMap<Partition, Offset> = HashMap::new();
    for (place, key) in &seen.records {
        let (partition, offset) = *place;
        let furthest = reached.entry(partition).or_insert(offset);
        *furthest = (*furthest).max(offset);
        if held.get(place) != Some(key) {
            violations.push(violation(
                Guarantee::G1,
                format!(
                    "a read_committed reader saw {}/{partition}@{offset}, and no such record is committed",
                    seen.topic
                ),
            ));
        }
    }
    for place in held.keys() {
        let (partition, offset) = *place;
        let passed = reached.get(&partition).is_some_and(|furthest| offset < *furthest);
        if passed && !seen.records.contains_key(place) {
            violations.push(Violation {
                guarantee: Guarantee::G2,
                anomaly: Anomaly::Lost,
                finding: format!(
                    "a read_committed reader passed over {}/{partition}@{offset}, which is committed",
                    seen.topic
                ),
            });
        }
    }
    violations
}

/// What tells the keys of one topic apart well enough to see that a record became another one.
#[must_use]
pub fn fingerprint(key: Option<&[u8]>) -> u32 {
    crc32fast::hash(key.unwrap_or_default())
}

fn place(record: &Record) -> RecordPosition {
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
        // "b" was aborted once, and then committed; "c" was aborted for good.
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
                entries: [(store.0.into(), store.1.into())].into(),
            }],
        }
        .check()
    }

    fn is_aborted_read(violations: &[Violation], words: &str) -> bool {
        matches!(violations, [found] if found.anomaly == Anomaly::AbortedRead && found.finding.contains(words))
    }

    #[test]
    fn what_rests_on_committed_records_is_fine() {
        let outbox = [record(0, "a", "1", "orders/0@6")];
        assert_eq!(check(&[7], &outbox, ("a", "1")), []);
        assert_eq!(check(&[7], &outbox, ("b", "2")), []);
    }

    #[test]
    fn what_rests_on_an_aborted_order_is_found() {
        let outbox = [record(0, "a", "1", "orders/0@7")];
        let found = check(&[7], &outbox, ("a", "1"));
        assert!(
            is_aborted_read(&found, "orders/0@7, which was aborted"),
            "{found:?}"
        );
    }

    #[test]
    fn a_store_with_an_aborted_entry_is_found() {
        for entry in [("b", "1"), ("c", "1")] {
            let found = check(&[], &[], entry);
            assert!(is_aborted_read(&found, "the store has"), "{entry:?}: {found:?}");
        }
    }

    #[test]
    fn what_a_reader_saw_must_be_what_is_there() {
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
                is_aborted_read(&found, "no such record is committed"),
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
