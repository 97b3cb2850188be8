//! G3: a store is a cache of the changelog, never ahead of it. Only a standby or an earlier owner may lag.

use std::collections::{HashMap, HashSet};

use records::{KeyHash, Partition};

use super::{Anomaly, Guarantee, Violation};
use crate::read_back::stores::StoreContents;
use crate::read_back::topics::Record;

/// Compares stores with the changelog, both read after all validators have stopped.
#[must_use]
pub fn check(changelog: &[Record], stores: &[StoreContents]) -> Vec<Violation> {
    let mut committed: HashMap<Partition, HashMap<KeyHash, &Record>> = HashMap::new();
    for record in changelog {
        let key = record.key.as_deref().unwrap_or_default();
        let of_partition = committed.entry(record.partition).or_default();
        of_partition.insert(KeyHash::of(key), record);
    }
    let mut violations = Vec::new();
    let mut complete: HashSet<Partition> = HashSet::new();
    for store in stores {
        let Some(partition) = store.partition else {
            continue;
        };
        if store.is_damaged {
            // A validator finds the damage when it reads it, and rebuilds the store.
            complete.insert(partition);
            continue;
        }
        let empty = HashMap::new();
        let entries = committed.get(&partition).unwrap_or(&empty);
        for (key, value) in &store.entries {
            match entries.get(key) {
                None => violations.push(violation(format!(
                    "{} contains the key with the hash {key}, which the changelog does not",
                    store.name
                ))),
                // Entries never change, so an older one cannot differ.
                Some(record) if record.value.as_deref() == Some(value) => {}
                Some(record) => violations.push(violation(format!(
                    "{} has another entry for {:?} than the changelog",
                    store.name,
                    record.key_text()
                ))),
            }
        }
        // A restore reads on from the checkpoint: an entry missing below it would be missing for good.
        for (key, record) in entries {
            let below = store
                .checkpoint
                .is_some_and(|checkpoint| record.offset < checkpoint);
            if below && !store.entries.contains_key(key) {
                violations.push(violation(format!(
                    "{} has checkpoint {:?} but lacks {:?}, changelog offset {}",
                    store.name,
                    store.checkpoint,
                    record.key_text(),
                    record.offset
                )));
            }
        }
        if store.entries.len() == entries.len() {
            complete.insert(partition);
        }
    }
    // The owner wrote everything on its clean shutdown.
    for partition in committed.keys() {
        if !complete.contains(partition) {
            violations.push(violation(format!(
                "no store is complete for partition {partition} after a clean shutdown"
            )));
        }
    }
    violations
}

fn violation(finding: String) -> Violation {
    Violation {
        guarantee: Guarantee::G3,
        anomaly: Anomaly::StoreDivergence,
        finding,
    }
}

#[cfg(test)]
mod tests {
    use records::Offset;

    use super::*;

    fn changelog() -> Vec<Record> {
        (0..5)
            .map(|offset| Record {
                partition: Partition(0),
                offset: Offset(offset),
                timestamp_ms: 0,
                key: Some(vec![b'a' + u8::try_from(offset).expect("small")]),
                fingerprint: None,
                value: Some(vec![1]),
                headers: Vec::new(),
            })
            .collect()
    }

    fn hash(key: &[u8]) -> KeyHash {
        KeyHash::of(key)
    }

    fn whole_store() -> StoreContents {
        StoreContents {
            name: "the store".into(),
            partition: Some(Partition(0)),
            checkpoint: Some(Offset(5)),
            entries: changelog()
                .into_iter()
                .map(|record| (hash(&record.key.expect("a key")), record.value.expect("a value")))
                .collect(),
            is_damaged: false,
        }
    }

    fn check_finds(change: impl FnOnce(&mut StoreContents), words: &str) {
        let mut store = whole_store();
        change(&mut store);
        let violations = check(&changelog(), &[store]);
        assert!(
            violations.iter().any(|found| found.finding.contains(words)),
            "no {words:?} among {violations:?}"
        );
    }

    #[test]
    fn equal_and_lagging_stores_pass() {
        let lagging = StoreContents {
            checkpoint: Some(Offset(1)),
            entries: [(hash(b"a"), vec![1])].into(),
            ..whole_store()
        };
        assert_eq!(check(&changelog(), &[whole_store(), lagging]), []);
    }

    #[test]
    fn store_that_differs_is_found() {
        check_finds(
            |store| drop(store.entries.insert(hash(b"z"), vec![1])),
            "which the changelog does not",
        );
        check_finds(
            |store| drop(store.entries.insert(hash(b"a"), vec![2])),
            "another entry",
        );
        check_finds(|store| drop(store.entries.remove(&hash(b"a"))), "lacks");
        check_finds(
            |store| {
                store.entries.clear();
                store.checkpoint = None;
            },
            "no store is complete",
        );
    }
}
