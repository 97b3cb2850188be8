//! Life of one pending call: from the outbox to its final state.
//!
//! ```text
//! BlockedByKey ─▶ Ready ─▶ RecordingIntent ─▶ IntentCommitted ─▶ InFlight ─▶ Publishing ─▶ final
//!                  ▲ └──────── policy retry ──────────────────────▲ │  │       ▲ ▲  │
//!                  ├──────────────────── BackingOff ◀───────────────┘  │       │ └ Unpublished
//!                  │                                                   ▼       │
//!                  └────────── LookingUp ◀───────────── AwaitingQuiescence ────┘ parked, found
//! ```
//!
//! A call passes `RecordingIntent` and `IntentCommitted` under `park` and `verify` only. From `BackingOff`
//! and `LookingUp` a call that keeps failing is deferred: `AwaitingDeferral` ─▶ `Deferring` ─▶ final here,
//! and continued by its copy at the outbox's tail.

mod deferral_context;
mod lookup;
mod pending;
mod policy;
mod state;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use records::{IdempotencyKey, Offset};

use super::response::{ClassifiedResponse, NotSent, Response, ResponseClass};

pub use deferral_context::DeferralContext;
use lookup::shows_unresponsive_api;
pub use lookup::{LookupResponse, LookupResult};
pub use pending::Pending;
pub use policy::{Policy, Verify};
pub use state::{Ambiguity, CallState, Evidence, FinalState, History};

/// A pending call. `P` is what the program needs to make it; the pipeline does not look inside.
#[derive(Debug)]
pub struct Call<P> {
    /// Idempotency key; `None` if the record is no pending call.
    key: Option<IdempotencyKey>,
    payload: Arc<P>,
    /// Memory that it is counted with.
    bytes: usize,
    policy: Policy,
    state: CallState,
    /// Time at which it entered its state.
    since: Instant,
    history: History,
    /// Reason why its outcome is unknown, if it is.
    ambiguity: Option<Ambiguity>,
    /// Last response that left its outcome unknown.
    inconclusive: Option<ClassifiedResponse>,
    /// Inconclusive look-ups in a row.
    lookups: u32,
    /// Time of the first of these look-ups.
    looked_up_first_at: Option<Instant>,
    /// Offset where it stood first in this partition; differs from its own offset after a deferral.
    origin: Offset,
    /// Time until which a request from before a deferral may be sent, or be processed.
    inherited_until: Option<Instant>,
    /// Time at which it was read here.
    taken_at: Instant,
    /// Time for which it was known before that, at earlier offsets.
    seen_before: Duration,
    /// Time at which its last attempt or look-up failed.
    failed_at: Option<Instant>,
    /// Number of times its final state could not be written to Kafka.
    publications_failed: u32,
}

/// Step that follows a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Publish the final state. The call is final once Kafka has acknowledged it.
    Publish(Arc<FinalState>),
    /// Try again after a backoff of at least this long.
    Wait(Duration),
    /// Try again as soon as a slot is free, because this was no attempt.
    Ready,
    /// Look the order up once its last request cannot be processed any more.
    AwaitQuiescence,
}

impl<P> Call<P> {
    /// A call that was just read. After a deferral its earlier request may be sent for as long as `lease`.
    pub(super) fn new(
        pending: Pending<P>,
        is_blocked: bool,
        maybe_called: bool,
        lease: Duration,
        now: Instant,
    ) -> Self {
        let deferral_context = pending.deferral_context;
        let ambiguity_before = deferral_context.and_then(|context| context.ambiguity);
        let state = match (&pending.key, is_blocked) {
            (None, _) => CallState::Publishing(Arc::new(FinalState::NotACall)),
            (Some(_), true) => CallState::BlockedByKey,
            (Some(_), false) => CallState::Ready,
        };
        Self {
            key: pending.key,
            payload: Arc::new(pending.payload),
            bytes: pending.bytes,
            policy: pending.policy,
            state,
            since: now,
            history: deferral_context
                .map(|context| context.history())
                .unwrap_or_default(),
            // The last owner's note is the younger evidence.
            ambiguity: maybe_called
                .then_some(Ambiguity::Redelivered)
                .or(ambiguity_before),
            inconclusive: None,
            lookups: deferral_context.map_or(0, |context| context.lookups),
            looked_up_first_at: None,
            // A call that is deferred again keeps its first offset, which decides the order of its key.
            origin: deferral_context.map_or(pending.offset, |context| context.origin),
            // Only an ambiguous call has an earlier request that matters. The lease of whoever sent it ends
            // by then.
            inherited_until: ambiguity_before.map(|_| now + lease),
            taken_at: now,
            seen_before: deferral_context.map_or(Duration::ZERO, |context| context.seen_before),
            failed_at: None,
            publications_failed: 0,
        }
    }

    /// Idempotency key; `None` if the record is no pending call.
    #[must_use]
    pub fn key(&self) -> Option<&IdempotencyKey> {
        self.key.as_ref()
    }

    pub(super) fn into_key(self) -> Option<IdempotencyKey> {
        self.key
    }

    /// State, and the time at which the call entered it.
    #[must_use]
    pub fn state(&self) -> (&CallState, Instant) {
        (&self.state, self.since)
    }

    pub(super) fn is(&self, state: &CallState) -> bool {
        self.state == *state
    }

    pub(super) fn enter(&mut self, state: CallState, now: Instant) {
        self.state = state;
        self.since = now;
    }

    /// Attempts made so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Attempts, as the record of its final state tells them.
    pub(super) fn published_history(&self, final_state: &FinalState) -> History {
        // Of a dead letter without an ambiguous attempt operators may have the call made again by default. A request
        // that the call note tells of is none of this caller's attempts, and may have been processed as well.
        let is_dead_letter = match final_state {
            FinalState::Rejected(_) | FinalState::Abandoned(_) | FinalState::NotACall => true,
            FinalState::Accepted(_) | FinalState::Found(_) | FinalState::Parked(_) => false,
        };
        let known = u32::from(is_dead_letter && self.ambiguity.is_some());
        History {
            attempts_ambiguous: self.history.attempts_ambiguous.max(known),
            ..self.history
        }
    }

    pub(super) fn payload(&self) -> Arc<P> {
        Arc::clone(&self.payload)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    pub(super) fn ambiguity(&self) -> Option<Ambiguity> {
        self.ambiguity
    }

    pub(super) fn lookups(&self) -> u32 {
        self.lookups
    }

    pub(super) fn origin(&self) -> Offset {
        self.origin
    }

    pub(super) fn inherited_until(&self) -> Option<Instant> {
        self.inherited_until
    }

    /// Time for which it was tried, since it was read here.
    pub(super) fn tried_for(&self, now: Instant) -> Duration {
        let since = self.history.first_attempt_at.or(self.looked_up_first_at);
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Age: the time since it was first read, at any offset.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.seen_before + now.saturating_duration_since(self.taken_at)
    }

    /// Records a failed attempt or look-up. Returns the time of the failure before.
    pub(super) fn record_failure(&mut self, now: Instant) -> Option<Instant> {
        self.failed_at.replace(now)
    }

    /// Records that the final state could not be written to Kafka. Returns the number of such failures.
    pub(super) fn record_failed_publication(&mut self) -> u32 {
        self.publications_failed += 1;
        self.publications_failed
    }

    /// Returns `true` if it may be tried, and never was.
    pub(super) fn is_untried(&self) -> bool {
        match self.state {
            CallState::Ready | CallState::RecordingIntent | CallState::IntentCommitted => {
                self.history.attempts == 0
            }
            CallState::BlockedByKey
            | CallState::InFlight
            | CallState::BackingOff
            | CallState::AwaitingQuiescence(_)
            | CallState::LookingUp
            | CallState::AwaitingDeferral
            | CallState::Deferring
            | CallState::Unpublished(_)
            | CallState::Publishing(_) => false,
        }
    }

    /// Starts the next attempt.
    pub(super) fn start_attempt(&mut self, now: Instant) {
        debug_assert!(
            matches!(self.state, CallState::Ready | CallState::IntentCommitted),
            "{:?}",
            self.state
        );
        self.history.attempts += 1;
        self.history.first_attempt_at.get_or_insert(now);
        self.enter(CallState::InFlight, now);
    }

    /// Takes over the attempts of an earlier assignment.
    pub(super) fn resume(&mut self, before: History) {
        // A response that came while the partition was not ours is remembered without a history.
        if before.attempts > 0 {
            self.history = before;
        }
    }

    /// Takes in the response to its request. That request may arrive and be processed for `quiescence` from
    /// now. Under `retry` the call is parked with its ambiguous response number `ambiguous_max`.
    pub(super) fn responded(
        &mut self,
        response: ClassifiedResponse,
        quiescence: Duration,
        ambiguous_max: Option<NonZeroU32>,
        now: Instant,
    ) -> Next {
        debug_assert_eq!(self.state, CallState::InFlight);
        let (class, response) = response.into_parts();
        self.history.responded_at = Some(now);
        if class == ResponseClass::Ambiguous {
            self.history.attempts_ambiguous += 1;
            self.ambiguity = Some(Ambiguity::AmbiguousResponse);
        }
        // Under `retry` the call is repeated either way, so ambiguity changes nothing but what its dead letter says.
        let is_clear = self.ambiguity.is_none() || self.policy == Policy::Retry;
        // Each ambiguous attempt may be a charge, so an API that charges and then fails must not be called for
        // ever.
        let is_at_limit = class == ResponseClass::Ambiguous
            && self.policy == Policy::Retry
            && ambiguous_max.is_some_and(|max| self.history.attempts_ambiguous >= max.get());
        let next = match (class, response) {
            // Acceptance decides even beside an ambiguous request: one of them has processed the order.
            (ResponseClass::Accepted, Response::Status(http)) => {
                Next::Publish(Arc::new(FinalState::Accepted(http)))
            }
            // The response to this request says nothing of an earlier one that may be processed, so only the
            // policy that repeats calls anyway may follow it.
            (ResponseClass::Rejected, Response::Status(http)) if is_clear => {
                Next::Publish(Arc::new(FinalState::Rejected(http)))
            }
            (ResponseClass::Retryable, Response::NotSent(NotSent::Withheld)) if is_clear => {
                // Our own lease stopped it. Were it an attempt, a suspended process would use up the call's
                // retries.
                self.void_attempt();
                Next::Ready
            }
            (
                ResponseClass::Retryable
                | ResponseClass::Ambiguous
                | ResponseClass::Accepted
                | ResponseClass::Rejected,
                response,
            ) => {
                let wait = response.retry_after().unwrap_or_default();
                if !is_clear || is_at_limit {
                    self.inconclusive = Some(ClassifiedResponse::from_parts(class, response));
                }
                // `park` and `verify` promise that an ambiguous call is not sent again.
                match self.policy {
                    Policy::Retry if is_at_limit => Next::Publish(self.parked()),
                    Policy::Verify if !is_clear => Next::AwaitQuiescence,
                    Policy::Park if !is_clear => Next::Publish(self.parked()),
                    Policy::Retry | Policy::Park | Policy::Verify => Next::Wait(wait),
                }
            }
        };
        let state = match &next {
            Next::Publish(final_state) => CallState::Publishing(Arc::clone(final_state)),
            Next::Wait(_) => CallState::BackingOff,
            Next::Ready => CallState::Ready,
            Next::AwaitQuiescence => CallState::AwaitingQuiescence(now + quiescence),
        };
        self.enter(state, now);
        next
    }

    /// Takes in the response to its look-up. `is_outage` says that it failed while the API was known to be
    /// unhealthy.
    pub(super) fn looked_up(
        &mut self,
        response: LookupResponse,
        verify: &Verify,
        is_outage: bool,
        now: Instant,
    ) -> Next {
        debug_assert_eq!(self.state, CallState::LookingUp);
        let first_at = *self.looked_up_first_at.get_or_insert(now);
        let mut quiescent_at = now;
        let next = match response.into_parts() {
            (LookupResult::Found, Response::Status(http)) => {
                self.history.responded_at = Some(now);
                Next::Publish(Arc::new(FinalState::Found(http)))
            }
            (LookupResult::NotFound, _) => {
                // Quiescence has passed, so the order is surely not processed, and never will be by these
                // requests.
                (self.ambiguity, self.lookups, self.looked_up_first_at) = (None, 0, None);
                match self.inconclusive.take().map(ClassifiedResponse::into_parts) {
                    // A rejection that was not trusted, because an earlier request was ambiguous, holds after
                    // all.
                    Some((ResponseClass::Rejected, Response::Status(http))) => {
                        Next::Publish(Arc::new(FinalState::Rejected(http)))
                    }
                    Some(_) | None => Next::Ready,
                }
            }
            // `Found` needs a status. Without one the look-up is inconclusive.
            (LookupResult::Found | LookupResult::Unknown, response) => {
                let wait = response.retry_after().unwrap_or_default();
                if shows_unresponsive_api(&response) {
                    // An API that hangs keeps the earlier request too, and processes it once it resumes, which
                    // may be now.
                    quiescent_at = now + verify.quiescence();
                }
                let is_late = now.saturating_duration_since(first_at) >= verify.abandon_after;
                if is_outage {
                    // A look-up that fails in an outage says nothing of the order. It does not count, or an
                    // outage of hours would park calls that a look-up can resolve.
                    self.looked_up_first_at = None;
                } else {
                    self.lookups += 1;
                }
                let is_abandoned = !is_outage && (is_late || self.lookups >= verify.lookups_max);
                match is_abandoned {
                    true => Next::Publish(self.parked()),
                    false => Next::Wait(wait.max(quiescent_at - now)),
                }
            }
        };
        let state = match &next {
            Next::Publish(final_state) => CallState::Publishing(Arc::clone(final_state)),
            Next::Wait(_) | Next::AwaitQuiescence => CallState::AwaitingQuiescence(quiescent_at),
            Next::Ready => CallState::Ready,
        };
        self.enter(state, now);
        next
    }

    /// Final state of an ambiguous call, for an operator to decide on.
    pub(super) fn parked(&self) -> Arc<FinalState> {
        Arc::new(FinalState::Parked(Evidence {
            // Only ambiguous calls are parked. The fallback still makes a record that an operator can settle.
            ambiguity: self.ambiguity.unwrap_or(Ambiguity::Redelivered),
            last: (self.inconclusive.clone()).map(ClassifiedResponse::into_response),
            lookups: self.lookups,
        }))
    }

    /// Final state of a call past its retry limit, with its last response if there is one.
    pub(super) fn abandoned(&mut self, last: Option<ClassifiedResponse>) -> Arc<FinalState> {
        if self.ambiguity.is_none() {
            let last = last.map(ClassifiedResponse::into_response);
            return Arc::new(FinalState::Abandoned(last));
        }
        // A dead letter would claim that it was not processed, which is not known.
        self.inconclusive = last.or(self.inconclusive.take());
        self.parked()
    }

    /// Returns `true` if the note must name the call, because the next owner cannot tell whether it is
    /// processed.
    pub(super) fn is_ambiguous(&self) -> bool {
        match self.state {
            // The note must name it before it is sent, so already while the intent is recorded.
            CallState::RecordingIntent
            | CallState::IntentCommitted
            | CallState::InFlight
            | CallState::AwaitingQuiescence(_)
            | CallState::LookingUp => true,
            CallState::BlockedByKey
            | CallState::Ready
            | CallState::BackingOff
            | CallState::AwaitingDeferral
            | CallState::Deferring => self.ambiguity.is_some(),
            // Its response is known here only: the next owner starts over if the final state does not reach
            // Kafka.
            CallState::Unpublished(_) | CallState::Publishing(_) => {
                self.history.attempts > 0 || self.ambiguity.is_some()
            }
        }
    }

    /// Takes back the intent of a call that was not sent. Returns `true` if there was one.
    pub(super) fn void_intent(&mut self) -> bool {
        let had_intent = matches!(
            self.state,
            CallState::RecordingIntent | CallState::IntentCommitted
        );
        // Not `enter`: the call is about to be released, and its time in the state does not matter.
        if had_intent {
            self.state = CallState::Ready;
        }
        had_intent
    }

    fn void_attempt(&mut self) {
        // Neither the outcome nor the backoff may count a request that was never sent.
        self.history.attempts -= 1;
        self.history.responded_at = None;
        if self.history.attempts == 0 {
            self.history.first_attempt_at = None;
        }
    }
}
