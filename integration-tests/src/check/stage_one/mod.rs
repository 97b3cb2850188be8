//! Checker of stage one: from the orders topic to the outbox, exactly once.

use std::collections::{BTreeMap, HashMap};

use records::dead_letter::{self, Reason};
use records::entry::SEEN_AGAIN;
use records::fingerprint::SelectionId;
use records::{Entry, Offset, Partition, pending, resubmission};

use super::chains::chains;
use super::{Anomaly, Guarantee, Violation};
use crate::check::expected::Expected;
use crate::read_back::topics::{Header, Record};

/// Input of the check, read under read_committed.
#[derive(Clone, Copy, Debug)]
pub struct StageOne<'a> {
    /// Name of the orders topic, as in the headers.
    pub orders_topic: &'a str,
    /// Expected verdicts on the orders.
    pub expected: &'a Expected<'a>,
    /// End offsets of the orders topic.
    pub ends: &'a [(Partition, Offset)],
    /// Committed offsets of the validators.
    pub committed: &'a HashMap<Partition, Offset>,
    /// Records of the outbox.
    pub pending: &'a [Record],
    /// Records of the changelog, with values.
    pub changelog: &'a [Record],
    /// Records of the dead-letter topic.
    pub dead_letters: &'a [Record],
    /// True if the validators' group was lost: they begin with the first order again, drop what they have
    /// admitted as duplicates, and refuse again what they had refused.
    pub lost_group: bool,
}

/// Counts for the report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of orders that are in the outbox exactly once.
    pub exactly_once: u64,
    /// Number of dead letters by reason.
    pub dead_letters: BTreeMap<Reason, u64>,
}

impl StageOne<'_> {
    /// Returns counts and all violations.
    #[must_use]
    pub fn check(&self) -> (Counts, Vec<Violation>) {
        let mut violations = Vec::new();
        let counts = Counts {
            exactly_once: self.check_outbox(&mut violations),
            dead_letters: self.check_dead_letters(&mut violations),
        };
        self.check_changelog(&mut violations);
        self.check_committed(&mut violations);
        (counts, violations)
    }

    /// Checks G1: each key once, with value, headers and partition of its first order. Checks G2: no key
    /// missing.
    fn check_outbox(&self, violations: &mut Vec<Violation>) -> u64 {
        let mut found: HashMap<&[u8], u64> = HashMap::new();
        let (chains, broken) = chains(self.pending);
        violations.extend(broken);
        // Deferred copies are part of their call, not a second one.
        for record in chains.iter().map(|chain| chain.first) {
            let key = record.key.as_deref().unwrap_or_default();
            *found.entry(key).or_default() += 1;
            match self.expected.admitted.get(key) {
                None => violations.push(violation(
                    Guarantee::G1,
                    Anomaly::Wrong,
                    format!(
                        "pending call {} has key {:?}, which no valid order has",
                        partition_offset(record),
                        record.key_text()
                    ),
                )),
                Some(order) => self.check_call(order, record, violations),
            }
        }
        let mut exactly_once = 0;
        for (key, order) in &self.expected.admitted {
            match found.get(key) {
                Some(1) => exactly_once += 1,
                Some(count) => violations.push(violation(
                    Guarantee::G1,
                    Anomaly::Duplicated,
                    format!("{:?} is in the outbox {count} times", order.key_text()),
                )),
                None => violations.push(violation(
                    Guarantee::G2,
                    Anomaly::Lost,
                    format!(
                        "{:?} (order {}) is not in the outbox",
                        order.key_text(),
                        partition_offset(order)
                    ),
                )),
            }
        }
        exactly_once
    }

    fn check_call(&self, order: &Record, call: &Record, violations: &mut Vec<Violation>) {
        let mut wrong = |difference: String| {
            violations.push(violation(
                Guarantee::G1,
                Anomaly::Wrong,
                format!(
                    "pending call {} of {:?} {difference}",
                    partition_offset(call),
                    order.key_text()
                ),
            ));
        };
        // The value byte for byte: the API must get what the producer sent.
        if call.fingerprint != order.fingerprint {
            wrong("has another value than its order".into());
        }
        if call.partition != order.partition {
            wrong(format!("is not on partition {} of its order", order.partition));
        }
        if !call.headers.starts_with(&order.headers) {
            wrong("does not start with the headers of its order".into());
        }
        // Also proves that the first of several equal orders was admitted, as the protocol demands.
        let source = self.position(order);
        match call.header(pending::SOURCE) {
            Some(found) if found == source => {}
            found => wrong(format!("has source {found:?} instead of {source}")),
        }
        let admitted_at_ms: i64 = call
            .header(pending::ADMITTED_AT)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        if admitted_at_ms <= 0 {
            wrong("has no valid admission time".into());
        }
        // The order's own, or the one that follows from the admission; a second one would split the trace.
        if count_headers(&call.headers, pending::TRACEPARENT) > 1 {
            wrong("has more than one trace context".into());
        }
    }

    /// Checks G2: each refused record is a dead letter once, unchanged, with the right reason; nothing else
    /// is.
    fn check_dead_letters(&self, violations: &mut Vec<Violation>) -> BTreeMap<Reason, u64> {
        let mut by_source: HashMap<&str, Vec<&Record>> = HashMap::new();
        for record in self.dead_letters {
            let source = record.header(dead_letter::SOURCE);
            // An operator's, who has written the order of a dead letter back. It is an order of its own.
            if source.is_none() && record.header(resubmission::RESUBMITS).is_some() {
                continue;
            }
            let source = source.unwrap_or("nowhere");
            by_source.entry(source).or_default().push(record);
        }
        let mut counts = BTreeMap::new();
        for (order, reason) in self.expected.refused.values() {
            let source = self.position(order);
            // Removed, so that what is left at the end has no refused record.
            let letters = by_source.remove(source.as_str()).unwrap_or_default();
            // Exactly one: a dead letter is part of the transaction, like a pending call.
            if letters.is_empty() || (letters.len() > 1 && !self.lost_group) {
                let anomaly = match letters.len() {
                    0 => Anomaly::Lost,
                    _ => Anomaly::Duplicated,
                };
                violations.push(violation(
                    Guarantee::G2,
                    anomaly,
                    format!(
                        "{source} must be refused as {reason} but has {} dead letters",
                        letters.len()
                    ),
                ));
                continue;
            }
            *counts.entry(*reason).or_default() += 1;
            for letter in letters {
                check_dead_letter(&source, order, *reason, letter, violations);
            }
        }
        for source in by_source.keys() {
            violations.push(violation(
                Guarantee::G2,
                Anomaly::Wrong,
                format!("a dead letter has source {source}, which must not be refused"),
            ));
        }
        counts
    }

    /// Checks G3: the changelog has one entry for each pending call, equal to it.
    fn check_changelog(&self, violations: &mut Vec<Violation>) {
        // Deferred copies have no changelog entry of their own.
        let calls: HashMap<&[u8], &Record> = chains(self.pending)
            .0
            .into_iter()
            .filter_map(|chain| Some((chain.first.key.as_deref()?, chain.first)))
            .collect();
        let mut found: HashMap<&[u8], u64> = HashMap::new();
        for record in self.changelog {
            let key = record.key.as_deref().unwrap_or_default();
            // A key that came again may be recorded again, with the same entry.
            let is_again = record.headers.iter().any(|(name, _)| name == SEEN_AGAIN);
            *found.entry(key).or_default() += u64::from(!is_again);
            let Some(call) = calls.get(key) else {
                violations.push(violation(
                    Guarantee::G3,
                    Anomaly::Torn,
                    format!(
                        "the changelog contains {:?}, which is not in the outbox",
                        record.key_text()
                    ),
                ));
                continue;
            };
            if let Err(finding) = self.entry_equals(record, call) {
                violations.push(violation(
                    Guarantee::G3,
                    Anomaly::Torn,
                    format!("the changelog entry of {:?} {finding}", record.key_text()),
                ));
            }
        }
        for (key, call) in calls {
            match found.get(key) {
                Some(1) => {}
                count => violations.push(violation(
                    Guarantee::G3,
                    Anomaly::Torn,
                    format!(
                        "{:?} is in the outbox but {} times in the changelog",
                        call.key_text(),
                        count.unwrap_or(&0)
                    ),
                )),
            }
        }
    }

    fn entry_equals(&self, record: &Record, call: &Record) -> Result<(), String> {
        let value = record.value.as_deref().unwrap_or_default();
        let entry = Entry::decode(value).map_err(|error| format!("cannot be decoded: {error}"))?;
        // Where its key was moved to since the topics have grown, it has no source.
        let is_moved = entry.source == Entry::MOVED;
        // A restore reads one partition of the changelog: on another one the key would not be found.
        if record.partition != call.partition && !is_moved {
            return Err(format!(
                "is on partition {} instead of {}",
                record.partition, call.partition
            ));
        }
        let key = call.key.as_deref().unwrap_or_default();
        if entry.selection != SelectionId::Order {
            return Err(format!("has a fingerprint of {}", entry.selection));
        }
        if self.expected.fingerprints.get(key) != Some(&entry.fingerprint) {
            return Err("has the fingerprint of another order".into());
        }
        let source = format!("{}/{}@{}", self.orders_topic, record.partition, entry.source);
        if call.header(pending::SOURCE) != Some(source.as_str()) && !is_moved {
            return Err(format!("has source {source}, unlike the pending call"));
        }
        if call.header(pending::ADMITTED_AT) != Some(entry.admitted_at.to_string().as_str()) {
            return Err("has another admission time than the pending call".into());
        }
        Ok(())
    }

    /// Checks G2: the committed offset of each partition is its end.
    fn check_committed(&self, violations: &mut Vec<Violation>) {
        for (partition, end) in self.ends {
            let committed = self.committed.get(partition).copied().unwrap_or(Offset(0));
            // Below: orders are unprocessed. Above: orders would be skipped.
            if committed != *end {
                violations.push(violation(
                    Guarantee::G2,
                    Anomaly::Torn,
                    format!(
                        "{}/{partition} ends at {end} but the committed offset is {committed}",
                        self.orders_topic
                    ),
                ));
            }
        }
    }

    fn position(&self, order: &Record) -> String {
        format!("{}/{}@{}", self.orders_topic, order.partition, order.offset)
    }
}

/// Checks G2: a dead letter is its order, unchanged, with the right reason.
fn check_dead_letter(
    source: &str,
    order: &Record,
    reason: Reason,
    letter: &Record,
    violations: &mut Vec<Violation>,
) {
    let found = letter.header(dead_letter::REASON);
    if found != Some(reason.as_str()) {
        violations.push(violation(
            Guarantee::G2,
            Anomaly::Wrong,
            format!("{source} must be refused as {reason} but its dead letter has reason {found:?}"),
        ));
    }
    if letter.key != order.key
        || letter.fingerprint != order.fingerprint
        || !letter.headers.starts_with(&order.headers)
    {
        violations.push(violation(
            Guarantee::G2,
            Anomaly::Wrong,
            format!("the dead letter of {source} differs from it in key, value or headers"),
        ));
    }
}

fn count_headers(headers: &[Header], name: &str) -> usize {
    headers.iter().filter(|(header, _)| header == name).count()
}

fn partition_offset(record: &Record) -> String {
    format!("{}@{}", record.partition, record.offset)
}

fn violation(guarantee: Guarantee, anomaly: Anomaly, finding: String) -> Violation {
    Violation {
        guarantee,
        anomaly,
        finding,
    }
}

#[cfg(test)]
mod tests;
