//! Checker of the guarantees.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use pipeline::delivery::{Assignment, CallId, FinalState, Policy};
use records::{Offset, OffsetSet, Partition};

use crate::delivery::caller::AMBIGUOUS_ATTEMPTS_MAX;

/// Position of a call on the outbox.
pub(crate) type CallPosition = (Partition, Offset);

/// Kind of violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ViolationKind {
    /// Under park or verify, the API processed an order twice.
    ProcessedTwice,
    /// A request was sent after the call was committed as final.
    CalledAfterFinal,
    /// A request was repeated without a reason.
    UnexplainedRepeat,
    /// A request was sent by a caller that did not own the partition.
    SentByNonOwner,
    /// A request was sent after the call was parked.
    SentAfterParked,
    /// A request was sent before an earlier call of its key was final.
    OutOfOrder,
    /// A call was committed as final without an outcome.
    FinalWithoutOutcome,
    /// A committed offset decreased.
    CommitPositionDecreased,
    /// Under retry, a request was sent after too many ambiguous responses.
    TooManyAmbiguousAttempts,
    /// A call was parked without being ambiguous, or before a look-up.
    ParkedUnnecessarily,
    /// A dead letter says that no request may have been processed, although its caller knew of one; or that one may have
    /// been, without a cause.
    WrongAmbiguity,
    /// An outcome contradicts the API.
    WrongOutcome,
    /// Two commits were in flight, or one for a released partition.
    InvalidCommit,
    /// A partition was halted, paused before its start, or released twice.
    InvalidAction,
    /// More requests were in flight, or calls open, than the limits allow.
    LimitExceeded,
    /// During an outage, or with an open circuit breaker, there was more than one probe in an interval.
    TooManyProbes,
    /// While the API rejected all calls, too many of them became dead letters.
    TooManyDeadLetters,
    /// The circuit breaker opened after too few failures of the API.
    OpenedUnnecessarily,
    /// Calls are left without an outcome at the end.
    NotDrained,
}

/// Violation of a guarantee.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) kind: ViolationKind,
    #[expect(dead_code, reason = "printed in the message of a failed test")]
    pub(crate) details: String,
}

/// Outcome of a call, as in its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Accepted,
    Found,
    Rejected,
    Abandoned,
    Parked,
}

/// Ambiguous responses to an order.
pub(crate) struct AmbiguousResponses {
    owner: (u64, Assignment),
    to_owner: u32,
    all: u32,
}

/// State of the checker.
#[derive(Default)]
pub(crate) struct Checks {
    pub(crate) first: Option<Violation>,
    /// Outcomes written to Kafka, with their times.
    pub(crate) outcomes: HashMap<CallPosition, BTreeMap<Outcome, Instant>>,
    /// Calls that an accepted commit has as final.
    pub(crate) finals: BTreeSet<CallPosition>,
    /// Requests with a definite response: process, time of sending, and position of the call.
    pub(crate) definite: HashMap<CallPosition, Vec<(u64, Instant, CallPosition)>>,
    pub(crate) ambiguous: BTreeSet<CallPosition>,
    /// Orders that were rejected, and that the API may accept later.
    pub(crate) rejected_for_a_time: BTreeSet<CallPosition>,
    /// Ambiguous responses to each order: those to its last owner, and all.
    pub(crate) ambiguous_responses: HashMap<CallPosition, AmbiguousResponses>,
    /// Last owner that deferred each order.
    pub(crate) deferred_by: HashMap<CallPosition, (u64, Assignment)>,
    /// Intents that each process has read with the notes of a partition, by its assignment.
    pub(crate) inherited: HashMap<(u64, Partition), (Assignment, OffsetSet)>,
    /// Requests in flight.
    pub(crate) in_flight: BTreeMap<(u64, CallPosition), Instant>,
    /// Only kind of violation that is reported.
    pub(crate) only_kind: Option<ViolationKind>,
    /// Times at which a process was killed or paused, or lost its membership.
    pub(crate) interruptions: Vec<(u64, Instant)>,
}

impl Checks {
    pub(crate) fn violation(&mut self, kind: ViolationKind, details: impl FnOnce() -> String) {
        if self.first.is_none() && self.only_kind.is_none_or(|only| only == kind) {
            let details = details();
            self.first = Some(Violation { kind, details });
        }
    }

    pub(crate) fn is_interrupted_since(&self, process: u64, since: Instant) -> bool {
        self.interruptions
            .iter()
            .any(|(who, at)| *who == process && *at >= since)
    }

    /// Checks a request that `process` sends for a call. `origin` is the position of the order.
    pub(crate) fn sent(
        &mut self,
        process: u64,
        call: CallPosition,
        position: CallPosition,
        policy: Policy,
        now: Instant,
    ) {
        if self.finals.contains(&call) {
            self.violation(ViolationKind::CalledAfterFinal, || format!("{call:?}"));
        }
        let outcomes = self.outcomes.get(&position);
        let parked_at = outcomes
            .and_then(|outcomes| outcomes.get(&Outcome::Parked))
            .copied();
        // Under retry, a call is parked at a limit only. It is sent again if its outcome was not committed, as
        // with any outcome. Under verify, the next owner of an uncommitted parked call may have a successful
        // look-up.
        let is_sent_again = |at: Instant| match policy {
            Policy::Park => false,
            Policy::Retry => true,
            Policy::Verify => self
                .interruptions
                .iter()
                .any(|(_, interrupted)| *interrupted >= at),
        };
        if parked_at.is_some_and(|at| !is_sent_again(at)) {
            self.violation(ViolationKind::SentAfterParked, || {
                format!("{position:?} by {process}")
            });
        }
        if self.in_flight.insert((process, position), now).is_some() {
            self.violation(ViolationKind::UnexplainedRepeat, || {
                format!("{process} sends {position:?} again with a request in flight")
            });
        }
        for (who, at, of) in self.definite.get(&position).cloned().unwrap_or_default() {
            // The next owner may send an order again if a look-up says it was rejected. So may an owner that
            // has the copy of another owner before it.
            let knows_response = who == process && of == call && policy != Policy::Verify;
            if knows_response || !self.is_interrupted_since(who, at) {
                self.violation(ViolationKind::UnexplainedRepeat, || {
                    format!(
                        "{position:?} is sent by {process}; {who} has its response and was not interrupted"
                    )
                });
            }
        }
    }

    /// Records an ambiguous response to an order, which this assignment of a process has received.
    pub(crate) fn ambiguous_response(&mut self, position: CallPosition, owner: (u64, Assignment)) {
        let responses = self
            .ambiguous_responses
            .entry(position)
            .or_insert(AmbiguousResponses {
                owner,
                to_owner: 0,
                all: 0,
            });
        if responses.owner != owner {
            (responses.owner, responses.to_owner) = (owner, 0);
        }
        responses.to_owner += 1;
        responses.all += 1;
    }

    /// Checks, before a request under retry, that its sender has not received too many ambiguous responses,
    /// whether it has deferred the call or not.
    pub(crate) fn within_ambiguous_limit(&mut self, position: CallPosition, owner: (u64, Assignment)) {
        let responses = self.ambiguous_responses.get(&position);
        let to_owner = responses
            .filter(|responses| responses.owner == owner)
            .map_or(0, |responses| responses.to_owner);
        if to_owner >= AMBIGUOUS_ATTEMPTS_MAX {
            self.violation(ViolationKind::TooManyAmbiguousAttempts, || {
                format!("{position:?} is sent by {owner:?} after {to_owner} ambiguous responses")
            });
        }
    }

    /// Returns `true` if there are enough ambiguous responses to park the call under retry.
    pub(crate) fn is_at_ambiguous_limit(&self, position: CallPosition) -> bool {
        let responses = self.ambiguous_responses.get(&position);
        responses.is_some_and(|responses| responses.all >= AMBIGUOUS_ATTEMPTS_MAX)
    }

    /// Returns `true` if a process has read the intent of this call of its assignment.
    pub(crate) fn has_inherited(&self, process: u64, call: CallId) -> bool {
        let inherited = self.inherited.get(&(process, call.partition));
        inherited.is_some_and(|(assignment, intents)| {
            *assignment == call.assignment && intents.contains(call.offset)
        })
    }

    /// Records an outcome that is written to Kafka.
    pub(crate) fn record_outcome(
        &mut self,
        position: CallPosition,
        state: &FinalState,
        policy: Policy,
        abandons: bool,
        now: Instant,
    ) -> Outcome {
        let outcome = match state {
            FinalState::Accepted(_) => Outcome::Accepted,
            FinalState::Found(_) => Outcome::Found,
            FinalState::Rejected(_) => Outcome::Rejected,
            FinalState::Abandoned(_) => Outcome::Abandoned,
            FinalState::Parked(_) => Outcome::Parked,
            FinalState::NotACall => {
                self.violation(ViolationKind::WrongOutcome, || format!("{position:?} is a call"));
                Outcome::Rejected
            }
        };
        if let FinalState::Parked(evidence) = state {
            let is_explained = self.ambiguous.contains(&position) || !self.interruptions.is_empty();
            let is_allowed = match policy {
                // Abandoned and perhaps processed, or after too many ambiguous responses.
                Policy::Retry => abandons && is_explained || self.is_at_ambiguous_limit(position),
                Policy::Park => is_explained,
                Policy::Verify => is_explained && evidence.lookups > 0,
            };
            if !is_allowed {
                self.violation(ViolationKind::ParkedUnnecessarily, || {
                    format!("{position:?} under {policy:?}: {evidence:?}")
                });
            }
        }
        self.outcomes
            .entry(position)
            .or_default()
            .entry(outcome)
            .or_insert(now);
        outcome
    }

    /// Checks at the end that each call has one outcome, and that it is true.
    pub(crate) fn finish(&mut self, position: CallPosition, policy: Policy, processed: u32) {
        let outcomes: Vec<Outcome> = self
            .outcomes
            .get(&position)
            .map(|outcomes| outcomes.keys().copied().collect())
            .unwrap_or_default();
        let is_true = |outcome: &Outcome| match outcome {
            Outcome::Accepted | Outcome::Found => processed > 0,
            Outcome::Rejected if !self.rejected_for_a_time.contains(&position) => {
                processed == 0 || policy == Policy::Retry
            }
            // As long as the outcome is not committed, the next owner sends the call again if it learns that the
            // order was not processed.
            Outcome::Rejected | Outcome::Abandoned => {
                processed == 0
                    || policy == Policy::Retry && *outcome == Outcome::Rejected
                    || policy != Policy::Park && !self.interruptions.is_empty()
            }
            Outcome::Parked => true,
        };
        // A caller that is killed before it has committed the outcome leaves a call that the next owner may
        // park.
        let definite = outcomes
            .iter()
            .filter(|outcome| match outcome {
                Outcome::Parked => false,
                Outcome::Rejected => !self.rejected_for_a_time.contains(&position),
                Outcome::Accepted | Outcome::Found | Outcome::Abandoned => true,
            })
            .count();
        let is_one = match outcomes[..] {
            [] => false,
            [_] => true,
            [Outcome::Accepted, Outcome::Found] => policy == Policy::Verify,
            _ => definite <= 2 && !self.interruptions.is_empty(),
        };
        if !outcomes.iter().all(is_true) || !is_one {
            self.violation(ViolationKind::WrongOutcome, || {
                format!(
                    "{position:?} under {policy:?} ended {outcomes:?}; it was processed {processed} times"
                )
            });
        }
    }
}
