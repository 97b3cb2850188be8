//! Stage two: from the outbox to the API and to one final state, at least once and explained.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use legacy_api::{Decision, RequestLine};
use records::Timestamp;

use super::at_most_once::{self, Policy};
use super::chains::{Chain, chains};
use super::explain::{self, Explanation};
use super::{Anomaly, Promise, Violation};
use crate::process::Interruption;
use crate::read::Record;

/// The header with the pending call's place, on dead letters and parked calls.
const CALL: &str = "outbox-call";

/// The header that says why a call was parked.
const REASON: &str = "outbox-error-reason";

/// What was read, under read_committed and from the API.
#[derive(Clone, Copy, Debug)]
pub struct StageTwo<'a> {
    /// The name of the outbox, which headers refer to.
    pub pending_topic: &'a str,
    /// The outbox.
    pub pending: &'a [Record],
    /// The outcomes of accepted calls.
    pub processed: &'a [Record],
    /// Rejected calls.
    pub dead_letters: &'a [Record],
    /// Parked calls.
    pub parked: &'a [Record],
    /// Every request that the API had, in order of arrival.
    pub requests: &'a [RequestLine],
    /// Every kill and freeze of a caller.
    pub interruptions: &'a [Interruption],
    /// What the callers do when nobody can know.
    pub policy: Policy,
    /// How long a caller waits for an answer.
    pub api_timeout: Duration,
}

/// What was counted on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that the API had.
    pub requests: u64,
    /// Calls that ended accepted.
    pub accepted: u64,
    /// Calls that ended as dead letters.
    pub rejected: u64,
    /// Calls that ended as dead letters because they were tried in vain for too long.
    pub given_up: u64,
    /// Calls that were deferred.
    pub deferred: u64,
    /// How often calls were deferred, in all.
    pub deferrals: u64,
    /// Calls that ended parked.
    pub parked: u64,
    /// Of the parked ones, those that a caller had begun and left without an end.
    pub parked_begun: u64,
    /// Calls that were parked and have another end, because a caller was interrupted before it had noted
    /// that.
    pub parked_too: u64,
    /// Outcome records that say again what another said, because a caller was interrupted between.
    pub outcomes_repeated: u64,
    /// Requests sent again, by what explains it.
    pub repeats: BTreeMap<Explanation, u64>,
    /// Orders that the API charged more than once; what at-least-once costs at such an API.
    pub charged_again: u64,
}

/// The final state that a record tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Final {
    Accepted,
    Rejected,
    Abandoned,
    Parked,
}

impl StageTwo<'_> {
    /// Checks everything.
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
            check_answers(&key, state, requests, &mut violations);
            let parked = outcomes.iter().find(|(state, _)| *state == Final::Parked);
            let parked = parked.map(|(_, record)| *record);
            violations.extend(at_most_once::check(self.policy, &key, parked, requests));
            self.check_repeats(&key, requests, &mut counts, &mut violations);
        }
        (counts, violations)
    }

    /// All outcome records by their key, in the order in which they were written. G4: no stranger's.
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
                let state = match record.header(REASON) {
                    Some("abandoned") => Final::Abandoned,
                    _ => state,
                };
                match outcomes.get_mut(record.key_text().as_str()) {
                    Some(found) => found.push((state, record)),
                    None => violations.push(g4(format!(
                        "{:?} has the outcome {state:?} and is not in the outbox",
                        record.key_text()
                    ))),
                }
            }
        }
        for found in outcomes.values_mut() {
            found.sort_by_key(|(_, record)| (record.timestamp_ms, record.offset));
        }
        outcomes
    }

    /// G4: one final state, told once, or again only when a caller was interrupted after telling.
    fn check_final(
        &self,
        chain: &Chain<'_>,
        outcomes: &[(Final, &Record)],
        counts: &mut Counts,
        violations: &mut Vec<Violation>,
    ) -> Option<Final> {
        let call = chain.first;
        let key = call.key_text();
        // What the API said goes before that nobody could know it.
        let told = outcomes.iter().find(|(state, _)| *state != Final::Parked);
        let Some((state, _)) = told.or(outcomes.first()) else {
            violations.push(g4(format!("{key:?} has no final state: its call was skipped")));
            return None;
        };
        match state {
            Final::Accepted => counts.accepted += 1,
            Final::Rejected => counts.rejected += 1,
            Final::Abandoned => counts.given_up += 1,
            Final::Parked => counts.parked += 1,
        }
        let is_begun = |(_, record): &&(Final, &Record)| record.header(REASON) == Some("redelivered");
        if outcomes.iter().any(|outcome| is_begun(&outcome)) {
            counts.parked_begun += 1;
        }
        for pair in outcomes.windows(2) {
            let [(first, earlier), (second, later)] = pair else {
                continue;
            };
            let is_parked_too = (*first == Final::Parked) != (*second == Final::Parked);
            if is_parked_too && self.interrupted_between(earlier.timestamp_ms, later.timestamp_ms) {
                counts.parked_too += 1;
            } else if first != second {
                violations.push(g4(format!("{key:?} ended {first:?} and {second:?}")));
            } else if self.interrupted_between(earlier.timestamp_ms, later.timestamp_ms) {
                counts.outcomes_repeated += 1;
            } else {
                violations.push(g4(format!(
                    "{key:?} has its outcome twice, at {} and {} ms, and no caller was interrupted between",
                    earlier.timestamp_ms, later.timestamp_ms
                )));
            }
        }
        for (state, record) in outcomes {
            match state {
                Final::Accepted => {}
                Final::Rejected | Final::Abandoned | Final::Parked => {
                    if record.fingerprint != call.fingerprint {
                        violations.push(g4(format!("the {state:?} record of {key:?} has not its bytes")));
                    }
                    let said = record.header(CALL).unwrap_or_default();
                    if !chain.has(self.pending_topic, said) {
                        violations.push(g4(format!(
                            "the {state:?} record of {key:?} says it is of {said:?}, not {}/{}@{} or a copy of it",
                            self.pending_topic, call.partition, call.offset
                        )));
                    }
                }
            }
        }
        Some(*state)
    }

    fn interrupted_between(&self, earlier_ms: i64, later_ms: i64) -> bool {
        let (earlier, later) = (Timestamp(earlier_ms), Timestamp(later_ms));
        self.interruptions
            .iter()
            .any(|interruption| interruption.until >= earlier && interruption.from <= later)
    }

    /// The requests of each pending call. G5: no others, and each carries its key.
    fn requests_by_order(&self, violations: &mut Vec<Violation>) -> HashMap<String, Vec<&RequestLine>> {
        let mut requests: HashMap<String, Vec<&RequestLine>> = self
            .pending
            .iter()
            .map(|call| (call.key_text(), Vec::new()))
            .collect();
        for request in self.requests {
            if request.idempotency_key.as_deref() != Some(request.order_id.as_str()) {
                violations.push(g5(format!(
                    "a request for {:?} carries the idempotency key {:?}",
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

    /// G5: each repeated request is explained by the answer before it, or by an interruption.
    fn check_repeats(
        &self,
        key: &str,
        requests: &[&RequestLine],
        counts: &mut Counts,
        violations: &mut Vec<Violation>,
    ) {
        let charges = requests.iter().filter(|request| is_charge(request)).count();
        counts.charged_again += u64::from(charges > 1);
        for pair in requests.windows(2) {
            let [earlier, later] = pair else { continue };
            match explain::repeat(earlier, later, self.interruptions, self.api_timeout) {
                Some(explanation) if self.policy == Policy::Park && explanation.is_ambiguous() => {
                    violations.push(Violation {
                        promise: Promise::G6,
                        ..g5(format!(
                            "{key:?} was called again though nobody could know: {explanation}; {}; then {}",
                            told(earlier),
                            told(later)
                        ))
                    });
                }
                Some(explanation) => *counts.repeats.entry(explanation).or_default() += 1,
                None => violations.push(g5(format!(
                    "{key:?} was called again without need: {}; then {}",
                    told(earlier),
                    told(later)
                ))),
            }
        }
    }
}

/// G4 and G5: the final state is what the API said.
fn check_answers(
    key: &str,
    state: Option<Final>,
    requests: &[&RequestLine],
    violations: &mut Vec<Violation>,
) {
    if requests.is_empty() && state == Some(Final::Parked) {
        // Its beginning was noted, and its caller died before it was sent.
        return;
    }
    if requests.is_empty() {
        violations.push(g5(format!("the API was never called for {key:?}")));
        return;
    }
    match state {
        None | Some(Final::Parked) => {}
        Some(Final::Accepted) => {
            if !requests.iter().any(|request| is_charge(request)) {
                violations.push(g4(format!(
                    "{key:?} ended accepted, and the API never charged it"
                )));
            }
        }
        Some(Final::Abandoned) => {
            if requests.iter().any(|request| is_charge(request)) {
                violations.push(g4(format!(
                    "{key:?} was given up as surely not processed, and the API charged it"
                )));
            }
        }
        Some(Final::Rejected) => {
            if !requests
                .iter()
                .any(|request| request.decision == Some(Decision::Rejected))
            {
                violations.push(g4(format!(
                    "{key:?} ended rejected, and the API never rejected it"
                )));
            }
        }
    }
}

/// A request in a few words.
fn told(request: &RequestLine) -> String {
    let end = match (request.answered, request.cut) {
        (Some(status), _) => format!("answered {status}"),
        (None, Some(cut)) => format!("cut off ({cut:?})"),
        (None, None) => "under way".into(),
    };
    format!(
        "request {} of it at {} ms, {end} at {} ms",
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
        promise: Promise::G4,
        anomaly: Anomaly::Call,
        finding,
    }
}

fn g5(finding: String) -> Violation {
    Violation {
        promise: Promise::G5,
        anomaly: Anomaly::Call,
        finding,
    }
}

#[cfg(test)]
mod tests;
