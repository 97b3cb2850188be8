//! Checker of stage two: from the outbox to the API and to one final state per call.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use legacy_api::{Decision, RequestLine};
use records::Timestamp;

use super::at_most_once::{self, Policy};
use super::chains::{Chain, chains};
use super::explain::{self, Explanation};
use super::{Anomaly, Guarantee, Violation};
use crate::process::Interruption;
use crate::read_back::topics::Record;

/// Header of dead letters and parked calls with the position of the pending call.
const CALL: &str = "outbox-call";

/// Header with the reason of a dead letter or parked call.
const REASON: &str = "outbox-error-reason";

/// Input of the check, read under read_committed and from the API.
#[derive(Clone, Copy, Debug)]
pub struct StageTwo<'a> {
    /// Name of the outbox topic, as in the headers.
    pub pending_topic: &'a str,
    /// Records of the outbox.
    pub pending: &'a [Record],
    /// Outcomes of accepted calls.
    pub processed: &'a [Record],
    /// Dead letters of rejected and abandoned calls.
    pub dead_letters: &'a [Record],
    /// Records of parked calls.
    pub parked: &'a [Record],
    /// All requests to the API, in order of arrival.
    pub requests: &'a [RequestLine],
    /// All kills and freezes of callers.
    pub interruptions: &'a [Interruption],
    /// Ambiguity policy of the callers.
    pub policy: Policy,
    /// Timeout of the callers' requests.
    pub api_timeout: Duration,
}

/// Counts for the report and the scenarios.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of requests to the API.
    pub requests: u64,
    /// Number of accepted calls.
    pub accepted: u64,
    /// Number of rejected calls.
    pub rejected: u64,
    /// Number of calls abandoned after too many attempts.
    pub abandoned: u64,
    /// Number of calls deferred at least once.
    pub deferred: u64,
    /// Number of deferrals of all calls.
    pub deferrals: u64,
    /// Number of parked calls.
    pub parked: u64,
    /// Number of calls parked because a caller left an intent without a completion.
    pub parked_with_intent: u64,
    /// Number of calls parked although they have another final state, because a caller was interrupted before
    /// it recorded that.
    pub parked_and_final: u64,
    /// Number of repeated outcome records with an interruption of a caller in between.
    pub outcomes_repeated: u64,
    /// Number of repeated requests, by explanation.
    pub repeats: BTreeMap<Explanation, u64>,
    /// Number of orders that the API charged at least once.
    pub charged: u64,
    /// Number of calls that the API neither charged nor rejected.
    pub undecided: u64,
    /// Number of orders that the API charged more than once: the cost of at-least-once with such an API.
    pub charged_again: u64,
}

/// Final state of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Final {
    Accepted,
    Rejected,
    Abandoned,
    Parked,
}

impl StageTwo<'_> {
    /// Returns counts and all violations.
    #[must_use]
    pub fn check(&self) -> (Counts, Vec<Violation>) {
        let mut counts = Counts {
            requests: self.requests.len() as u64,
            ..Counts::default()
        };
        let mut violations = Vec::new();
        let outcomes = self.outcomes(&mut violations);
        let requests = self.requests_by_order(&mut violations);
        let (chains, broken) = chains(self.pending);
        violations.extend(broken);
        for chain in &chains {
            let key = chain.first.key_text();
            counts.deferred += u64::from(!chain.copies.is_empty());
            counts.deferrals += chain.copies.len() as u64;
            let outcomes = outcomes.get(key.as_str()).map_or(&[][..], Vec::as_slice);
            let requests = requests.get(key.as_str()).map_or(&[][..], Vec::as_slice);
            let state = self.check_final(chain, outcomes, &mut counts, &mut violations);
            check_decisions(&key, state, requests, &mut violations);
            let parked = outcomes.iter().find(|(state, _)| *state == Final::Parked);
            let parked = parked.map(|(_, record)| *record);
            violations.extend(at_most_once::check(self.policy, &key, parked, requests));
            self.check_repeats(&key, requests, &mut counts, &mut violations);
        }
        (counts, violations)
    }

    /// Returns all outcome records by key, in the order of their timestamps. Checks G4: each belongs to a
    /// call.
    fn outcomes(&self, violations: &mut Vec<Violation>) -> HashMap<String, Vec<(Final, &Record)>> {
        let mut outcomes: HashMap<String, Vec<(Final, &Record)>> = self
            .pending
            .iter()
            .map(|call| (call.key_text(), Vec::new()))
            .collect();
        let all = [
            (Final::Accepted, self.processed),
            (Final::Rejected, self.dead_letters),
            (Final::Parked, self.parked),
        ];
        for (state, records) in all {
            for record in records {
                // Rejected and abandoned calls share the dead-letter topic.
                let state = match record.header(REASON) {
                    Some("abandoned") => Final::Abandoned,
                    _ => state,
                };
                match outcomes.get_mut(record.key_text().as_str()) {
                    Some(found) => found.push((state, record)),
                    None => violations.push(g4(format!(
                        "{:?} has a final state ({state:?}) but is not in the outbox",
                        record.key_text()
                    ))),
                }
            }
        }
        // By time, because the three topics have no common offsets.
        for found in outcomes.values_mut() {
            found.sort_by_key(|(_, record)| (record.timestamp_ms, record.offset));
        }
        outcomes
    }

    /// Returns the final state of a call. Checks G4: there is one, and its records are right.
    fn check_final(
        &self,
        chain: &Chain<'_>,
        outcomes: &[(Final, &Record)],
        counts: &mut Counts,
        violations: &mut Vec<Violation>,
    ) -> Option<Final> {
        let key = chain.first.key_text();
        // A response of the API takes precedence over a parked record of the same call.
        let answered = outcomes.iter().find(|(state, _)| *state != Final::Parked);
        let Some((state, _)) = answered.or(outcomes.first()) else {
            violations.push(g4(format!("{key:?} has no final state: its call was skipped")));
            return None;
        };
        match state {
            Final::Accepted => counts.accepted += 1,
            Final::Rejected => counts.rejected += 1,
            Final::Abandoned => counts.abandoned += 1,
            Final::Parked => counts.parked += 1,
        }
        // The reason that a caller gives for a call of its predecessor with an intent and no completion.
        let has_intent = |(_, record): &&(Final, &Record)| record.header(REASON) == Some("redelivered");
        if outcomes.iter().any(|outcome| has_intent(&outcome)) {
            counts.parked_with_intent += 1;
        }
        self.check_repeated_outcomes(&key, outcomes, counts, violations);
        self.check_outcome_records(chain, outcomes, violations);
        Some(*state)
    }

    /// Checks G4: no second final state, and no repeated outcome without an interruption.
    fn check_repeated_outcomes(
        &self,
        key: &str,
        outcomes: &[(Final, &Record)],
        counts: &mut Counts,
        violations: &mut Vec<Violation>,
    ) {
        // An interrupted caller may have published an outcome without recording it; its successor publishes
        // again.
        for pair in outcomes.windows(2) {
            let [(first, earlier), (second, later)] = pair else {
                continue;
            };
            // The caller got a response and was interrupted before it recorded the outcome; its successor
            // found only the intent, and parked the call.
            let is_parked_too = (*first == Final::Parked) != (*second == Final::Parked);
            if is_parked_too && self.interrupted_between(earlier.timestamp_ms, later.timestamp_ms) {
                counts.parked_and_final += 1;
            } else if first != second {
                violations.push(g4(format!(
                    "{key:?} has two final states: {first:?} and {second:?}"
                )));
            } else if self.interrupted_between(earlier.timestamp_ms, later.timestamp_ms) {
                counts.outcomes_repeated += 1;
            } else {
                violations.push(g4(format!(
                    "{key:?} has its outcome twice, at {} ms and {} ms, without an interrupted caller in \
                     between",
                    earlier.timestamp_ms, later.timestamp_ms
                )));
            }
        }
    }

    /// Checks G4: records with the order's value are unchanged and name their call.
    fn check_outcome_records(
        &self,
        chain: &Chain<'_>,
        outcomes: &[(Final, &Record)],
        violations: &mut Vec<Violation>,
    ) {
        let call = chain.first;
        let key = call.key_text();
        for (state, record) in outcomes {
            match state {
                // The outcome is a JSON document of its own, not the order's value.
                Final::Accepted => {}
                Final::Rejected | Final::Abandoned | Final::Parked => {
                    if record.fingerprint != call.fingerprint {
                        violations.push(g4(format!(
                            "the {state:?} record of {key:?} has another value than its pending call"
                        )));
                    }
                    let named = record.header(CALL).unwrap_or_default();
                    if !chain.has(self.pending_topic, named) {
                        violations.push(g4(format!(
                            "the {state:?} record of {key:?} names the call {named:?} instead of {}/{}@{} or a copy \
                             of it",
                            self.pending_topic, call.partition, call.offset
                        )));
                    }
                }
            }
        }
    }

    fn interrupted_between(&self, earlier_ms: i64, later_ms: i64) -> bool {
        let (earlier, later) = (Timestamp(earlier_ms), Timestamp(later_ms));
        self.interruptions
            .iter()
            .any(|interruption| interruption.until >= earlier && interruption.from <= later)
    }

    /// Returns the requests of each pending call. Checks G5: there are no others, and each has its
    /// idempotency key.
    fn requests_by_order(&self, violations: &mut Vec<Violation>) -> HashMap<String, Vec<&RequestLine>> {
        let mut requests: HashMap<String, Vec<&RequestLine>> = self
            .pending
            .iter()
            .map(|call| (call.key_text(), Vec::new()))
            .collect();
        for request in self.requests {
            // The stand-in reads the order id from the body, and the idempotency key from its header.
            if request.idempotency_key.as_deref() != Some(request.order_id.as_str()) {
                violations.push(g5(format!(
                    "a request for {:?} has the idempotency key {:?}",
                    request.order_id, request.idempotency_key
                )));
            }
            match requests.get_mut(request.order_id.as_str()) {
                Some(found) => found.push(request),
                None => violations.push(g5(format!(
                    "the API was called for {:?}, which is not in the outbox",
                    request.order_id
                ))),
            }
        }
        requests
    }

    /// Checks G5: each repeated request is explained by the one before it or by an interruption.
    fn check_repeats(
        &self,
        key: &str,
        requests: &[&RequestLine],
        counts: &mut Counts,
        violations: &mut Vec<Violation>,
    ) {
        let charges = requests.iter().filter(|request| is_charge(request)).count();
        counts.charged += u64::from(charges > 0);
        counts.charged_again += u64::from(charges > 1);
        counts.undecided += u64::from(requests.iter().all(|request| request.decision.is_none()));
        for pair in requests.windows(2) {
            let [earlier, later] = pair else { continue };
            // An ambiguous request may be sent again under `retry`, and under `verify` after a look-up.
            match explain::repeat(earlier, later, self.interruptions, self.api_timeout) {
                Some(explanation) if self.policy == Policy::Park && explanation.is_ambiguous() => {
                    violations.push(Violation {
                        guarantee: Guarantee::G6,
                        ..g5(format!(
                            "{key:?} was sent again although its outcome was unknown ({explanation}): {}; \
                             then {}",
                            describe(earlier),
                            describe(later)
                        ))
                    });
                }
                Some(explanation) => *counts.repeats.entry(explanation).or_default() += 1,
                None => violations.push(g5(format!(
                    "{key:?} was sent again without a reason: {}; then {}",
                    describe(earlier),
                    describe(later)
                ))),
            }
        }
    }
}

/// Checks G4 and G5: the final state matches the API's decisions.
fn check_decisions(
    key: &str,
    state: Option<Final>,
    requests: &[&RequestLine],
    violations: &mut Vec<Violation>,
) {
    if requests.is_empty() && state == Some(Final::Parked) {
        // Its intent was committed, and its caller was killed before it sent the request.
        return;
    }
    if requests.is_empty() {
        violations.push(g5(format!("the API was never called for {key:?}")));
        return;
    }
    match state {
        // Parked means that the decision is unknown, and a missing state is a finding already.
        None | Some(Final::Parked) => {}
        Some(Final::Accepted) => {
            if !requests.iter().any(|request| is_charge(request)) {
                violations.push(g4(format!(
                    "{key:?} ended as accepted but the API never charged it"
                )));
            }
        }
        Some(Final::Abandoned) => {
            if requests.iter().any(|request| is_charge(request)) {
                violations.push(g4(format!(
                    "{key:?} was abandoned as surely not processed but the API charged it"
                )));
            }
        }
        Some(Final::Rejected) => {
            if !requests
                .iter()
                .any(|request| request.decision == Some(Decision::Rejected))
            {
                violations.push(g4(format!(
                    "{key:?} ended as rejected but the API never rejected it"
                )));
            }
        }
    }
}

/// Describes a request for a finding.
fn describe(request: &RequestLine) -> String {
    let end = match (request.answered, request.cut) {
        (Some(status), _) => format!("answered {status}"),
        (None, Some(cut)) => format!("cut off ({cut:?})"),
        (None, None) => "without an end".into(),
    };
    format!(
        "request {} at {} ms, {end} at {} ms",
        request.nth,
        request.arrived_at,
        request.finished_at.unwrap_or_default()
    )
}

fn is_charge(request: &RequestLine) -> bool {
    request.decision == Some(Decision::Charged)
}

fn g4(finding: String) -> Violation {
    Violation {
        guarantee: Guarantee::G4,
        anomaly: Anomaly::Call,
        finding,
    }
}

fn g5(finding: String) -> Violation {
    Violation {
        guarantee: Guarantee::G5,
        anomaly: Anomaly::Call,
        finding,
    }
}

#[cfg(test)]
mod tests;
