//! Deferred calls: an order is in the outbox once, and again only as a deferred copy of that call.

use std::collections::HashMap;

use records::continuation::{CONTINUES, Continuation};
use records::{Offset, Partition};

use super::{Anomaly, Guarantee, Violation};
use crate::read_back::topics::Record;

/// A pending call: its first record and its deferred copies.
#[derive(Debug)]
pub struct Chain<'a> {
    /// Record written by the validator.
    pub first: &'a Record,
    /// Copies written by callers that deferred it, in the order of the outbox.
    pub copies: Vec<&'a Record>,
}

impl Chain<'_> {
    /// Returns true if one of its records is at this position, `topic/partition@offset`.
    #[must_use]
    pub fn has(&self, pending_topic: &str, position: &str) -> bool {
        let mut records = [self.first].into_iter().chain(self.copies.iter().copied());
        records.any(|record| position == format!("{pending_topic}/{}@{}", record.partition, record.offset))
    }
}

/// Groups the records of the outbox by call. G1: a copy must name an existing call, equal its first record,
/// and be the next in its chain.
#[must_use]
pub fn chains(pending: &[Record]) -> (Vec<Chain<'_>>, Vec<Violation>) {
    let mut violations = Vec::new();
    let mut wrong = |anomaly, record: &Record, finding: String| {
        violations.push(Violation {
            guarantee: Guarantee::G1,
            anomaly,
            finding: format!(
                "the deferred copy {}@{} of {:?} {finding}",
                record.partition,
                record.offset,
                record.key_text()
            ),
        });
    };
    // Without the header a record is a call of its own, and a second one of its key a duplicate.
    let is_copy = |record: &&Record| record.headers.iter().any(|(name, _)| name == CONTINUES);
    let mut chains: Vec<Chain<'_>> = pending
        .iter()
        .filter(|record| !is_copy(record))
        .map(|first| Chain {
            first,
            copies: Vec::new(),
        })
        .collect();
    let by_position: HashMap<(Partition, Offset), usize> = chains
        .iter()
        .enumerate()
        .map(|(at, chain)| ((chain.first.partition, chain.first.offset), at))
        .collect();
    let mut copies: Vec<&Record> = pending.iter().filter(is_copy).collect();
    // In the order in which they were written, which their numbers must follow.
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
        // A copy names the first record, not the copy before it: a chain has one identity.
        let Some(chain) = by_position.get(&(call.partition, call.offset)) else {
            wrong(
                Anomaly::Wrong,
                copy,
                format!("continues {call}, which starts no call"),
            );
            continue;
        };
        let chain = &mut chains[*chain];
        // The header that names the call is all that may differ.
        let own: Vec<_> = copy
            .headers
            .iter()
            .filter(|(name, _)| name != CONTINUES)
            .collect();
        let first = chain.first;
        if (&copy.key, copy.fingerprint, copy.partition) != (&first.key, first.fingerprint, first.partition)
            || own != first.headers.iter().collect::<Vec<_>>()
            // A deferral appends to the tail.
            || copy.offset <= first.offset
        {
            wrong(
                Anomaly::Wrong,
                copy,
                format!("differs in key, value, headers or partition from {call}, or does not follow it"),
            );
        }
        // Two callers that defer one call write the same number: the sign of a call that runs twice.
        chain.copies.push(copy);
        let number = u32::try_from(chain.copies.len()).unwrap_or(u32::MAX);
        if continuation.deferrals != number {
            wrong(
                Anomaly::Duplicated,
                copy,
                format!(
                    "is copy {number} of {call} but claims to be copy {}",
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
        let mut continuation = Continuation::new(
            call.parse().expect("a position"),
            "api-caller".into(),
            Timestamp(1),
        );
        continuation.deferrals = deferrals;
        let mut copy = record(offset, key);
        copy.headers
            .push((CONTINUES.into(), Some(continuation.to_json())));
        copy
    }

    #[test]
    fn call_and_its_copies_form_one_chain() {
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
    fn orphaned_changed_or_repeated_copy_is_found() {
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
        check(vec![copy(5, "a", "pending/0@3", 1)], "which starts no call");
        check(vec![copy(5, "a", "pending/0@1", 1)], "differs in key");
        check(vec![copy(5, "a", "pending/0@0", 2)], "is copy 1 of");
        check(
            vec![copy(5, "a", "pending/0@0", 1), copy(6, "a", "pending/0@0", 1)],
            "is copy 2 of",
        );
        let mut unreadable = copy(5, "a", "pending/0@0", 1);
        unreadable.headers[1].1 = Some(b"{}".to_vec());
        check(vec![unreadable], "not a continuation");
        let mut changed = copy(5, "a", "pending/0@0", 1);
        changed.headers[0].1 = None;
        check(vec![changed], "differs in key");
        // Without the header it is a second call.
        let again = [record(0, "a"), record(5, "a")];
        assert_eq!(chains(&again).0.len(), 2);
    }
}
