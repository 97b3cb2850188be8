//! Deferred calls: an order lies in the outbox once, and again only as the continuation of that one call.

use std::collections::HashMap;

use records::continuation::{CONTINUES, Continuation};
use records::{Offset, Partition};

use super::{Anomaly, Promise, Violation};
use crate::read::Record;

/// One call: its first record, and the copies that continue it, in the order of the outbox.
#[derive(Debug)]
pub struct Chain<'a> {
    /// The record that the validator has written.
    pub first: &'a Record,
    /// What continues it.
    pub copies: Vec<&'a Record>,
}

impl Chain<'_> {
    /// Whether a record of it lies at this position, `topic/partition@offset`, of the outbox.
    #[must_use]
    pub fn has(&self, pending_topic: &str, position: &str) -> bool {
        let mut records = [self.first].into_iter().chain(self.copies.iter().copied());
        records.any(|record| position == format!("{pending_topic}/{}@{}", record.partition, record.offset))
    }
}

/// The calls of an outbox. G1: a record without the header is an order of its own, and one with it continues a
/// call that there is, unchanged, as the next of its chain.
#[must_use]
pub fn chains(pending: &[Record]) -> (Vec<Chain<'_>>, Vec<Violation>) {
    let mut violations = Vec::new();
    let mut wrong = |anomaly, record: &Record, finding: String| {
        violations.push(Violation {
            promise: Promise::G1,
            anomaly,
            finding: format!(
                "the copy {}@{} of {:?} {finding}",
                record.partition,
                record.offset,
                record.key_text()
            ),
        });
    };
    let is_copy = |record: &&Record| record.headers.iter().any(|(name, _)| name == CONTINUES);
    let mut chains: Vec<Chain<'_>> = pending
        .iter()
        .filter(|record| !is_copy(record))
        .map(|first| Chain {
            first,
            copies: Vec::new(),
        })
        .collect();
    let by_place: HashMap<(Partition, Offset), usize> = chains
        .iter()
        .enumerate()
        .map(|(at, chain)| ((chain.first.partition, chain.first.offset), at))
        .collect();
    let mut copies: Vec<&Record> = pending.iter().filter(is_copy).collect();
    copies.sort_by_key(|record| (record.partition, record.offset));
    for copy in copies {
        let header = copy.header(CONTINUES).unwrap_or_default();
        let continuation = match Continuation::parse(header.as_bytes()) {
            Ok(continuation) => continuation,
            Err(error) => {
                wrong(Anomaly::Wrong, copy, error.to_string());
                continue;
            }
        };
        let call = &continuation.call;
        let Some(chain) = by_place.get(&(call.partition, call.offset)) else {
            wrong(
                Anomaly::Wrong,
                copy,
                format!("continues {call}, where no call begins"),
            );
            continue;
        };
        let chain = &mut chains[*chain];
        let own: Vec<_> = copy
            .headers
            .iter()
            .filter(|(name, _)| name != CONTINUES)
            .collect();
        let first = chain.first;
        if (&copy.key, copy.fingerprint, copy.partition) != (&first.key, first.fingerprint, first.partition)
            || own != first.headers.iter().collect::<Vec<_>>()
            || copy.offset <= first.offset
        {
            wrong(
                Anomaly::Wrong,
                copy,
                format!("has not the key, bytes, headers and partition of {call}"),
            );
        }
        chain.copies.push(copy);
        let number = u32::try_from(chain.copies.len()).unwrap_or(u32::MAX);
        if continuation.deferrals != number {
            wrong(
                Anomaly::Duplicated,
                copy,
                format!(
                    "is number {number} behind {call}, and says that it is number {}",
                    continuation.deferrals
                ),
            );
        }
    }
    (chains, violations)
}

#[cfg(test)]
mod tests {
    use records::{Fingerprint, Timestamp};

    use super::*;

    fn record(offset: i64, key: &str) -> Record {
        Record {
            partition: Partition(0),
            offset: Offset(offset),
            timestamp_ms: 0,
            key: Some(key.into()),
            fingerprint: Some(Fingerprint::of(key.as_bytes())),
            value: None,
            headers: vec![("trace".into(), Some(b"t".to_vec()))],
        }
    }

    fn copy(offset: i64, key: &str, call: &str, deferrals: u32) -> Record {
        let mut continuation = Continuation::new(call.parse().expect("a position"), Timestamp(1));
        continuation.deferrals = deferrals;
        let mut copy = record(offset, key);
        copy.headers
            .push((CONTINUES.into(), Some(continuation.to_json())));
        copy
    }

    #[test]
    fn a_call_and_its_copies_are_one_chain() {
        let pending = [
            record(0, "a"),
            record(1, "b"),
            copy(5, "a", "pending/0@0", 1),
            copy(9, "a", "pending/0@0", 2),
        ];
        let (chains, violations) = chains(&pending);
        assert_eq!(violations, []);
        let lengths: Vec<usize> = chains.iter().map(|chain| chain.copies.len()).collect();
        assert_eq!(lengths, [2, 0]);
        assert!(chains[0].has("pending", "pending/0@9") && !chains[0].has("pending", "pending/0@1"));
    }

    #[test]
    fn a_copy_that_continues_nothing_or_doubles_a_call_is_found() {
        let check = |copies: Vec<Record>, words: &str| {
            let pending: Vec<Record> = [record(0, "a"), record(1, "b")]
                .into_iter()
                .chain(copies)
                .collect();
            let (_, violations) = chains(&pending);
            assert!(
                violations.iter().any(|found| found.finding.contains(words)),
                "no {words:?} among {violations:?}"
            );
        };
        check(vec![copy(5, "a", "pending/0@3", 1)], "where no call begins");
        check(vec![copy(5, "a", "pending/0@1", 1)], "has not the key");
        check(vec![copy(5, "a", "pending/0@0", 2)], "is number 1 behind");
        check(
            vec![copy(5, "a", "pending/0@0", 1), copy(6, "a", "pending/0@0", 1)],
            "is number 2 behind",
        );
        let mut unreadable = copy(5, "a", "pending/0@0", 1);
        unreadable.headers[1].1 = Some(b"{}".to_vec());
        check(vec![unreadable], "not a continuation");
        let mut changed = copy(5, "a", "pending/0@0", 1);
        changed.headers[0].1 = None;
        check(vec![changed], "has not the key, bytes, headers");
        // Without the header it is a call of its own, which the order has once already.
        let again = [record(0, "a"), record(5, "a")];
        assert_eq!(chains(&again).0.len(), 2);
    }
}
