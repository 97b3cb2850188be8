//! One pending call's life: from the outbox to its outcome.
//!
//! ```text
//! Behind ─▶ Ready ─▶ Beginning ─▶ Begun ─▶ Calling ─▶ Publishing ─▶ final (and forgotten)
//!             ▲ └───── retry ──────────────▶ │  │        ▲ ▲  │
//!             ├────────── Waiting ◀──────────┘  │        │ └ Unpublished
//!             │                                 ▼        │
//!             └─────────── LookingUp ◀────── Settling ───┘ park, found, given up
//! ```
//!
//! `Beginning` and `Begun` are passed under `park` and `verify` only. From `Waiting`, and from `LookingUp`, a
//! call that goes on failing is deferred: `DeferralLimits` ─▶ `Deferring` ─▶ final here, and continued by its copy.

mod deferral_context;
mod lookup;
mod policy;

use std::sync::Arc;
use std::time::{Duration, Instant};

use records::{IdempotencyKey, Offset};

use crate::delivery::response::{HttpResponse, NotSent, Response, ResponseClass, ResponseClassifier};

pub use deferral_context::DeferralContext;
pub use lookup::LookupResult;
pub use policy::{Policy, Verify};

/// A pending call. `P` is what the program needs to make it, and is not looked at here.
#[derive(Debug)]
pub struct Call<P> {
    /// What makes two orders the same order; `None` if the record is no pending call.
    pub(super) key: Option<IdempotencyKey>,
    /// The record.
    pub(super) payload: Arc<P>,
    /// How much memory it is counted with, in bytes.
    pub(super) bytes: usize,
    /// What is done when nobody can know whether it was processed.
    pub(super) policy: Policy,
    /// Where in its life it is.
    pub(super) state: CallState,
    /// What was tried so far.
    pub(super) history: History,
    /// Why nobody can know whether the order was processed already.
    pub(super) ambiguity: Option<Ambiguity>,
    /// The last report that told nobody whether it was processed.
    pub(super) unclear: Option<Response>,
    /// Look-ups in a row that told nothing, and when the first of them was made.
    pub(super) lookups: u32,
    pub(super) looked_up_first_at: Option<Instant>,
    /// Its first place in this partition: another one than where it is, if it was deferred.
    pub(super) origin: Offset,
    /// Until then a request that was made in its earlier place may leave, or be at work.
    pub(super) inherited_until: Option<Instant>,
    /// When it was read, and how long before that it was first seen.
    pub(super) taken_at: Instant,
    pub(super) seen_before: Duration,
    /// When its last attempt or look-up failed.
    pub(super) failed_at: Option<Instant>,
    /// How often its end was handed to Kafka in vain.
    pub(super) publications_failed: u32,
    /// Since when it is in this stage.
    pub(super) since: Instant,
}

/// Where in its life a call is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallState {
    /// WaitReason for an earlier call of the same key.
    BlockedByKey,
    /// May be sent, or may have its beginning noted.
    Ready,
    /// Its beginning goes with the commit that is in flight, or with the next one.
    RecordingIntent,
    /// Its beginning is committed; it waits for its turn to be sent.
    IntentCommitted,
    /// Its request is under way.
    InFlight,
    /// WaitReason for its next attempt.
    BackingOff,
    /// It is to be deferred: its copy goes with the next transaction.
    AwaitingDeferral,
    /// Its copy, and the note that it is final here, are on their way to Kafka.
    Deferring,
    /// Until then an earlier request of it may leave, or be at work; or the next look-up waits.
    AwaitingQuiescence(Instant),
    /// The API is to be asked for it, or is being asked.
    LookingUp,
    /// Its end is known, and waits to be handed to Kafka once more.
    Unpublished(Arc<FinalState>),
    /// Its end is on its way to Kafka.
    Publishing(Arc<FinalState>),
}

/// How a call ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinalState {
    /// The API accepted it: its outcome is to be published.
    Accepted(HttpResponse),
    /// The API said, when it was asked for the order, that it has processed it.
    Found(HttpResponse),
    /// The API rejected it: it is a dead letter.
    Rejected(HttpResponse),
    /// It was tried for longer than the settings allow, and surely not processed: it is a dead letter. With the
    /// last report, if there is one.
    Abandoned(Option<Response>),
    /// Nobody can know whether it was processed: it waits for a person.
    Parked(Evidence),
    /// The record is no pending call: it is a dead letter, and nothing was called.
    NotACall,
}

/// What is known of a call that is parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Why nobody can know.
    pub ambiguity: Ambiguity,
    /// The last report that told nothing, if this process had one.
    pub last: Option<Response>,
    /// Look-ups that told nothing.
    pub lookups: u32,
}

/// What was tried so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// How many requests were made.
    pub attempts: u32,
    /// How many of them may have been processed although no answer said so.
    pub attempts_ambiguous: u32,
    /// When the first was made.
    pub first_attempt_at: Option<Instant>,
    /// When the last answer came.
    pub answered_at: Option<Instant>,
}

/// Why nobody can know whether an order was processed already. A request that is made all the same is a
/// repeated call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ambiguity {
    /// The answer to an earlier request was ambiguous.
    AmbiguousResponse,
    /// An earlier owner of the partition noted that it had begun, and did not note its end.
    Redelivered,
}

impl Ambiguity {
    /// All reasons, so that each has its metric from the start.
    pub const ALL: [Self; 2] = [Self::AmbiguousResponse, Self::Redelivered];

    /// The reason as it stands in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AmbiguousResponse => "ambiguous",
            Self::Redelivered => "redelivered",
        }
    }
}

impl CallState {
    /// The stage as a person reads it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::BlockedByKey => "behind an earlier call of its key",
            Self::Ready => "ready",
            Self::RecordingIntent => "its beginning is being noted",
            Self::IntentCommitted => "its beginning is noted",
            Self::InFlight => "calling",
            Self::BackingOff => "waiting for its next attempt",
            Self::AwaitingDeferral => "to be deferred",
            Self::Deferring => "being deferred",
            Self::AwaitingQuiescence(_) => "waiting until an earlier request has settled",
            Self::LookingUp => "looking it up",
            Self::Unpublished(_) => "waiting to publish its end again",
            Self::Publishing(_) => "publishing its end",
        }
    }
}

/// What an answer leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The call has ended; its end must be acknowledged by Kafka before it is final.
    Publish(Arc<FinalState>),
    /// Another attempt, after a backoff of at least this long.
    Wait(Duration),
    /// Another attempt, as soon as it may be sent: this one was none.
    Ready,
    /// The API is asked for it, when its last request must have settled.
    Settle,
}

impl<P> Call<P> {
    /// What makes two orders the same order.
    #[must_use]
    pub fn key(&self) -> Option<&IdempotencyKey> {
        self.key.as_ref()
    }

    /// Where in its life it is, and since when.
    #[must_use]
    pub fn state(&self) -> (&CallState, Instant) {
        (&self.state, self.since)
    }

    /// What was tried so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The next request begins.
    pub(super) fn begin(&mut self, now: Instant) {
        debug_assert!(
            matches!(self.state, CallState::Ready | CallState::IntentCommitted),
            "{:?}",
            self.state
        );
        self.history.attempts += 1;
        self.history.first_attempt_at.get_or_insert(now);
        self.enter(CallState::InFlight, now);
    }

    /// An earlier assignment has tried this already.
    pub(super) fn resume(&mut self, before: History) {
        if before.attempts > 0 {
            self.history = before;
        }
    }

    /// The request that was under way has come to something. `settle` is how long it may still be at work.
    pub(super) fn answered(
        &mut self,
        report: Response,
        classes: &ResponseClassifier,
        settle: Duration,
        now: Instant,
    ) -> Next {
        debug_assert_eq!(self.state, CallState::InFlight);
        let answer = classes.answer(&report);
        self.history.answered_at = Some(now);
        if answer == ResponseClass::Ambiguous {
            self.history.attempts_ambiguous += 1;
            self.ambiguity = Some(Ambiguity::AmbiguousResponse);
        }
        let is_clear = self.ambiguity.is_none() || self.policy == Policy::Retry;
        let next = match (answer, report) {
            (ResponseClass::Accepted, Response::Status(reply)) => {
                Next::Publish(Arc::new(FinalState::Accepted(reply)))
            }
            // What this request came to says nothing of another that may be at work: only the policy that
            // makes calls again anyway goes by it.
            (ResponseClass::Rejected, Response::Status(reply)) if is_clear => {
                Next::Publish(Arc::new(FinalState::Rejected(reply)))
            }
            (ResponseClass::Retryable, Response::NotSent(NotSent::Withheld)) if is_clear => {
                self.void_attempt();
                Next::Ready
            }
            (
                ResponseClass::Retryable
                | ResponseClass::Ambiguous
                | ResponseClass::Accepted
                | ResponseClass::Rejected,
                report,
            ) => {
                let wait = report.retry_after().unwrap_or_default();
                if !is_clear {
                    self.unclear = Some(report);
                }
                match self.policy {
                    Policy::Verify if !is_clear => Next::Settle,
                    Policy::Park if !is_clear => Next::Publish(self.parked()),
                    Policy::Retry | Policy::Park | Policy::Verify => Next::Wait(wait),
                }
            }
        };
        let state = match &next {
            Next::Publish(ending) => CallState::Publishing(Arc::clone(ending)),
            Next::Wait(_) => CallState::BackingOff,
            Next::Ready => CallState::Ready,
            Next::Settle => CallState::AwaitingQuiescence(now + settle),
        };
        self.enter(state, now);
        next
    }

    /// A look-up has come to something. One that failed while the API `is_ill` tells nothing of the order and
    /// nothing of the API that is not known, so it does not bring the call nearer to being given up: an outage of
    /// hours parks nothing that a look-up can settle.
    pub(super) fn looked_up(
        &mut self,
        report: Response,
        classes: &ResponseClassifier,
        verify: &Verify,
        is_ill: bool,
        now: Instant,
    ) -> Next {
        debug_assert_eq!(self.state, CallState::LookingUp);
        let first_at = *self.looked_up_first_at.get_or_insert(now);
        let next = match (LookupResult::from(verify.answers.answer(&report)), report) {
            (LookupResult::Found, Response::Status(reply)) => {
                self.history.answered_at = Some(now);
                Next::Publish(Arc::new(FinalState::Found(reply)))
            }
            (LookupResult::NotFound, _) => {
                (self.ambiguity, self.lookups, self.looked_up_first_at) = (None, 0, None);
                match self.unclear.take() {
                    // It was the answer to our request, and no other was processed.
                    Some(unclear) if classes.answer(&unclear) == ResponseClass::Rejected => match unclear {
                        Response::Status(reply) => Next::Publish(Arc::new(FinalState::Rejected(reply))),
                        Response::NotSent(_) | Response::Lost(_) => Next::Ready,
                    },
                    Some(_) | None => Next::Ready,
                }
            }
            (LookupResult::Found | LookupResult::Unknown, report) => {
                let wait = report.retry_after().unwrap_or_default();
                let is_late = now.saturating_duration_since(first_at) >= verify.abandon_after;
                if is_ill {
                    self.looked_up_first_at = None;
                } else {
                    self.lookups += 1;
                }
                let is_given_up = !is_ill && (is_late || self.lookups >= verify.lookups_max);
                match is_given_up {
                    true => Next::Publish(self.parked()),
                    false => Next::Wait(wait),
                }
            }
        };
        let state = match &next {
            Next::Publish(ending) => CallState::Publishing(Arc::clone(ending)),
            Next::Wait(_) | Next::Settle => CallState::AwaitingQuiescence(now),
            Next::Ready => CallState::Ready,
        };
        self.enter(state, now);
        next
    }

    /// The call as a person will find it.
    pub(super) fn parked(&self) -> Arc<FinalState> {
        Arc::new(FinalState::Parked(Evidence {
            ambiguity: self.ambiguity.unwrap_or(Ambiguity::Redelivered),
            last: self.unclear.clone(),
            lookups: self.lookups,
        }))
    }

    /// The call as it is given up after its last report, if there is one: what was surely not processed is a
    /// dead letter.
    pub(super) fn given_up(&mut self, last: Option<Response>) -> Arc<FinalState> {
        if self.ambiguity.is_none() {
            return Arc::new(FinalState::Abandoned(last));
        }
        self.unclear = last.or(self.unclear.take());
        self.parked()
    }

    pub(super) fn enter(&mut self, state: CallState, now: Instant) {
        self.state = state;
        self.since = now;
    }

    /// Whether the next owner has to know that the call may have been processed. While a beginning is being
    /// noted it is not so yet, but it must stand in the note before it is.
    pub(super) fn is_ambiguous(&self) -> bool {
        match self.state {
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
            // Its answer is known. Yet the next owner has to call again if the end does not reach Kafka.
            CallState::Unpublished(_) | CallState::Publishing(_) => {
                self.history.attempts > 0 || self.ambiguity.is_some()
            }
        }
    }

    /// The call is let go before its request was asked for: a beginning that was noted was none.
    /// Returns whether there was one.
    pub(super) fn void_intent(&mut self) -> bool {
        let was_beginning = matches!(
            self.state,
            CallState::RecordingIntent | CallState::IntentCommitted
        );
        if was_beginning {
            self.state = CallState::Ready;
        }
        was_beginning
    }

    fn void_attempt(&mut self) {
        self.history.attempts -= 1;
        self.history.answered_at = None;
        if self.history.attempts == 0 {
            self.history.first_attempt_at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::response::{Lost, StatusClass, Statuses};

    fn classes() -> ResponseClassifier {
        ResponseClassifier::new([
            (Statuses::Hundred(2), StatusClass::Accepted),
            (Statuses::Hundred(4), StatusClass::Rejected),
            (Statuses::Exactly(429), StatusClass::Retry),
        ])
        .expect("a table")
    }

    fn status(status: u16) -> Response {
        let retry_after = (status == 429).then_some(Duration::from_secs(7));
        Response::Status(HttpResponse {
            status,
            retry_after,
            ..HttpResponse::default()
        })
    }

    fn call(policy: Policy, now: Instant) -> Call<()> {
        Call {
            key: None,
            payload: Arc::new(()),
            bytes: 0,
            policy,
            state: CallState::Ready,
            history: History::default(),
            ambiguity: None,
            unclear: None,
            lookups: 0,
            looked_up_first_at: None,
            origin: Offset(0),
            inherited_until: None,
            taken_at: now,
            seen_before: Duration::ZERO,
            failed_at: None,
            publications_failed: 0,
            since: now,
        }
    }

    /// Plays reports one after the other; returns what the last one leads to, and the call.
    fn play(policy: Policy, reports: &[Response]) -> (Next, Call<()>) {
        let now = Instant::now();
        let mut call = call(policy, now);
        let mut last = Next::Ready;
        for report in reports {
            call.enter(CallState::Ready, now);
            call.begin(now);
            last = call.answered(report.clone(), &classes(), SETTLE, now);
        }
        (last, call)
    }

    fn check(reports: &[Response]) -> (Next, Call<()>) {
        play(Policy::Retry, reports)
    }

    const SETTLE: Duration = Duration::from_secs(9);

    #[test]
    fn attempts_are_counted_and_told_apart() {
        let (next, call) = check(&[
            Response::NotSent(NotSent::NoConnection),
            Response::Lost(Lost::TimedOut),
            status(500),
            status(429),
            status(201),
        ]);
        assert!(
            matches!(next, Next::Publish(ending) if matches!(&*ending, FinalState::Accepted(reply) if reply.status == 201))
        );
        assert_eq!((call.history.attempts, call.history.attempts_ambiguous), (5, 2));
        assert_eq!(call.ambiguity, Some(Ambiguity::AmbiguousResponse));
    }

    #[test]
    fn a_surely_unprocessed_call_raises_no_doubt() {
        let (next, call) = check(&[Response::NotSent(NotSent::NotWritten), status(429)]);
        assert_eq!(next, Next::Wait(Duration::from_secs(7)));
        assert!(!call.is_ambiguous());
    }

    #[test]
    fn an_ambiguous_answer_leaves_a_doubt_that_stays() {
        let (next, call) = check(&[Response::Lost(Lost::Closed), status(429)]);
        assert_eq!(next, Next::Wait(Duration::from_secs(7)));
        assert!(call.is_ambiguous());
    }

    #[test]
    fn a_withheld_request_is_no_attempt() {
        let (next, call) = check(&[Response::NotSent(NotSent::Withheld)]);
        assert_eq!(next, Next::Ready);
        assert_eq!(call.history, History::default());
        assert!(!call.is_ambiguous());
    }

    #[test]
    fn a_rejected_call_is_a_dead_letter() {
        let (next, _) = check(&[status(422)]);
        assert!(matches!(next, Next::Publish(ending) if matches!(*ending, FinalState::Rejected(_))));
    }

    #[test]
    fn under_park_what_nobody_can_know_waits_for_a_person() {
        for report in [Response::Lost(Lost::Closed), status(500)] {
            let (next, call) = play(Policy::Park, &[status(429), report.clone()]);
            let Next::Publish(ending) = next else {
                panic!("{next:?}");
            };
            let expected = Evidence {
                ambiguity: Ambiguity::AmbiguousResponse,
                last: Some(report),
                lookups: 0,
            };
            assert_eq!(*ending, FinalState::Parked(expected));
            assert!(call.is_ambiguous(), "until the parked record is acknowledged");
        }
    }

    #[test]
    fn under_park_and_verify_only_what_was_surely_not_processed_is_sent_again() {
        for policy in [Policy::Park, Policy::Verify] {
            let (next, call) = play(policy, &[Response::NotSent(NotSent::NoConnection), status(429)]);
            assert_eq!(next, Next::Wait(Duration::from_secs(7)));
            assert!(!call.is_ambiguous(), "the next owner may call it");
        }
    }

    /// Story: an earlier owner had begun the call, too, and nobody knows what came of that.
    #[test]
    fn with_another_request_about_only_an_acceptance_is_an_answer() {
        let now = Instant::now();
        let answered = |policy, report| {
            let mut call = call(policy, now);
            call.ambiguity = Some(Ambiguity::Redelivered);
            call.begin(now);
            call.answered(report, &classes(), SETTLE, now)
        };
        for report in [status(429), status(422), Response::NotSent(NotSent::Withheld)] {
            let parked = answered(Policy::Park, report.clone());
            assert!(matches!(parked, Next::Publish(ending) if matches!(*ending, FinalState::Parked(_))));
            assert_eq!(answered(Policy::Verify, report), Next::Settle);
        }
        let accepted = answered(Policy::Park, status(201));
        assert!(matches!(accepted, Next::Publish(ending) if matches!(*ending, FinalState::Accepted(_))));
    }

    #[test]
    fn a_look_up_settles_it_or_is_given_up() {
        let now = Instant::now();
        let verify = Verify {
            api_processing_max: SETTLE,
            lookups_max: 3,
            abandon_after: Duration::from_secs(60),
            answers: ResponseClassifier::new([
                (Statuses::Exactly(200), StatusClass::Accepted),
                (Statuses::Exactly(404), StatusClass::Rejected),
            ])
            .expect("a table"),
        };
        let doubtful = || {
            let (next, mut call) = play(Policy::Verify, &[Response::Lost(Lost::TimedOut)]);
            assert_eq!(next, Next::Settle);
            call.enter(CallState::LookingUp, now);
            call
        };
        let found = doubtful().looked_up(status(200), &classes(), &verify, false, now);
        assert!(matches!(found, Next::Publish(ending) if matches!(*ending, FinalState::Found(_))));
        let mut call = doubtful();
        assert_eq!(
            call.looked_up(status(404), &classes(), &verify, false, now),
            Next::Ready
        );
        assert!(!call.is_ambiguous());
        let mut call = doubtful();
        for _ in 0..2 {
            let next = call.looked_up(status(500), &classes(), &verify, false, now);
            assert_eq!(next, Next::Wait(Duration::ZERO));
            assert!(call.is_ambiguous());
            call.enter(CallState::LookingUp, now);
        }
        let given_up = call.looked_up(status(500), &classes(), &verify, false, now);
        assert!(
            matches!(&given_up, Next::Publish(ending) if matches!(&**ending, FinalState::Parked(evidence) if evidence.lookups == 3))
        );
        let mut call = doubtful();
        call.looked_up(status(500), &classes(), &verify, false, now);
        call.enter(CallState::LookingUp, now);
        let late = call.looked_up(
            status(500),
            &classes(),
            &verify,
            false,
            now + verify.abandon_after,
        );
        assert!(matches!(late, Next::Publish(ending) if matches!(*ending, FinalState::Parked(_))));
    }
}
