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
//! call that goes on failing is deferred: `Stubborn` ─▶ `Deferring` ─▶ final here, and continued by its copy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use records::{IdempotencyKey, Offset};

use super::answer::{Answer, Classes, NotSent, Reply, Report};
use super::lookup::Verdict;
use super::policy::{Policy, Verify};

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
    pub(super) stage: Stage,
    /// What was tried so far.
    pub(super) history: History,
    /// Why nobody can know whether the order was processed already.
    pub(super) doubt: Option<Doubt>,
    /// The last report that told nobody whether it was processed.
    pub(super) unclear: Option<Report>,
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
pub enum Stage {
    /// Waits for an earlier call of the same key.
    Behind,
    /// May be sent, or may have its beginning noted.
    Ready,
    /// Its beginning goes with the commit that is in flight, or with the next one.
    Beginning,
    /// Its beginning is committed; it waits for its turn to be sent.
    Begun,
    /// Its request is under way.
    Calling,
    /// Waits for its next attempt.
    Waiting,
    /// It is to be deferred: its copy goes with the next transaction.
    Stubborn,
    /// Its copy, and the note that it is final here, are on their way to Kafka.
    Deferring,
    /// Until then an earlier request of it may leave, or be at work; or the next look-up waits.
    Settling(Instant),
    /// The API is to be asked for it, or is being asked.
    LookingUp,
    /// Its end is known, and waits to be handed to Kafka once more.
    Unpublished(Arc<Ending>),
    /// Its end is on its way to Kafka.
    Publishing(Arc<Ending>),
}

/// How a call ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The API accepted it: its outcome is to be published.
    Accepted(Reply),
    /// The API said, when it was asked for the order, that it has processed it.
    Found(Reply),
    /// The API rejected it: it is a dead letter.
    Rejected(Reply),
    /// It was tried for longer than the settings allow, and surely not processed: it is a dead letter. With the
    /// last report, if there is one.
    GivenUp(Option<Report>),
    /// Nobody can know whether it was processed: it waits for a person.
    Parked(Evidence),
    /// The record is no pending call: it is a dead letter, and nothing was called.
    NotACall,
}

/// What is known of a call that is parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Why nobody can know.
    pub doubt: Doubt,
    /// The last report that told nothing, if this process had one.
    pub last: Option<Report>,
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
pub enum Doubt {
    /// The answer to an earlier request was ambiguous.
    Ambiguous,
    /// An earlier owner of the partition noted that it had begun, and did not note its end.
    Redelivered,
}

impl Doubt {
    /// All reasons, so that each has its metric from the start.
    pub const ALL: [Self; 2] = [Self::Ambiguous, Self::Redelivered];

    /// The reason as it stands in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous",
            Self::Redelivered => "redelivered",
        }
    }
}

impl Stage {
    /// The stage as a person reads it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Behind => "behind an earlier call of its key",
            Self::Ready => "ready",
            Self::Beginning => "its beginning is being noted",
            Self::Begun => "its beginning is noted",
            Self::Calling => "calling",
            Self::Waiting => "waiting for its next attempt",
            Self::Stubborn => "to be deferred",
            Self::Deferring => "being deferred",
            Self::Settling(_) => "waiting until an earlier request has settled",
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
    Publish(Arc<Ending>),
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
    pub fn stage(&self) -> (&Stage, Instant) {
        (&self.stage, self.since)
    }

    /// What was tried so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The next request begins.
    pub(super) fn begin(&mut self, now: Instant) {
        debug_assert!(
            matches!(self.stage, Stage::Ready | Stage::Begun),
            "{:?}",
            self.stage
        );
        self.history.attempts += 1;
        self.history.first_attempt_at.get_or_insert(now);
        self.enter(Stage::Calling, now);
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
        report: Report,
        classes: &Classes,
        settle: Duration,
        now: Instant,
    ) -> Next {
        debug_assert_eq!(self.stage, Stage::Calling);
        let answer = classes.answer(&report);
        self.history.answered_at = Some(now);
        if answer == Answer::Ambiguous {
            self.history.attempts_ambiguous += 1;
            self.doubt = Some(Doubt::Ambiguous);
        }
        let is_clear = self.doubt.is_none() || self.policy == Policy::Retry;
        let next = match (answer, report) {
            (Answer::Accepted, Report::Status(reply)) => Next::Publish(Arc::new(Ending::Accepted(reply))),
            // What this request came to says nothing of another that may be at work: only the policy that
            // makes calls again anyway goes by it.
            (Answer::Rejected, Report::Status(reply)) if is_clear => {
                Next::Publish(Arc::new(Ending::Rejected(reply)))
            }
            (Answer::Retry, Report::NotSent(NotSent::Withheld)) if is_clear => {
                self.take_back_attempt();
                Next::Ready
            }
            (Answer::Retry | Answer::Ambiguous | Answer::Accepted | Answer::Rejected, report) => {
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
        let stage = match &next {
            Next::Publish(ending) => Stage::Publishing(Arc::clone(ending)),
            Next::Wait(_) => Stage::Waiting,
            Next::Ready => Stage::Ready,
            Next::Settle => Stage::Settling(now + settle),
        };
        self.enter(stage, now);
        next
    }

    /// A look-up has come to something. One that failed while the API `is_ill` tells nothing of the order and
    /// nothing of the API that is not known, so it does not bring the call nearer to being given up: an outage of
    /// hours parks nothing that a look-up can settle.
    pub(super) fn looked_up(
        &mut self,
        report: Report,
        classes: &Classes,
        verify: &Verify,
        is_ill: bool,
        now: Instant,
    ) -> Next {
        debug_assert_eq!(self.stage, Stage::LookingUp);
        let first_at = *self.looked_up_first_at.get_or_insert(now);
        let next = match (Verdict::from(verify.answers.answer(&report)), report) {
            (Verdict::Found, Report::Status(reply)) => {
                self.history.answered_at = Some(now);
                Next::Publish(Arc::new(Ending::Found(reply)))
            }
            (Verdict::NotFound, _) => {
                (self.doubt, self.lookups, self.looked_up_first_at) = (None, 0, None);
                match self.unclear.take() {
                    // It was the answer to our request, and no other was processed.
                    Some(unclear) if classes.answer(&unclear) == Answer::Rejected => match unclear {
                        Report::Status(reply) => Next::Publish(Arc::new(Ending::Rejected(reply))),
                        Report::NotSent(_) | Report::Lost(_) => Next::Ready,
                    },
                    Some(_) | None => Next::Ready,
                }
            }
            (Verdict::Found | Verdict::Unknown, report) => {
                let wait = report.retry_after().unwrap_or_default();
                let is_late = now.saturating_duration_since(first_at) >= verify.give_up_after;
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
        let stage = match &next {
            Next::Publish(ending) => Stage::Publishing(Arc::clone(ending)),
            Next::Wait(_) | Next::Settle => Stage::Settling(now),
            Next::Ready => Stage::Ready,
        };
        self.enter(stage, now);
        next
    }

    /// The call as a person will find it.
    pub(super) fn parked(&self) -> Arc<Ending> {
        Arc::new(Ending::Parked(Evidence {
            doubt: self.doubt.unwrap_or(Doubt::Redelivered),
            last: self.unclear.clone(),
            lookups: self.lookups,
        }))
    }

    /// The call as it is given up after its last report, if there is one: what was surely not processed is a
    /// dead letter.
    pub(super) fn given_up(&mut self, last: Option<Report>) -> Arc<Ending> {
        if self.doubt.is_none() {
            return Arc::new(Ending::GivenUp(last));
        }
        self.unclear = last.or(self.unclear.take());
        self.parked()
    }

    pub(super) fn enter(&mut self, stage: Stage, now: Instant) {
        self.stage = stage;
        self.since = now;
    }

    /// Whether the next owner has to know that the call may have been processed. While a beginning is being
    /// noted it is not so yet, but it must stand in the note before it is.
    pub(super) fn is_doubtful(&self) -> bool {
        match self.stage {
            Stage::Beginning | Stage::Begun | Stage::Calling | Stage::Settling(_) | Stage::LookingUp => true,
            Stage::Behind | Stage::Ready | Stage::Waiting | Stage::Stubborn | Stage::Deferring => {
                self.doubt.is_some()
            }
            // Its answer is known. Yet the next owner has to call again if the end does not reach Kafka.
            Stage::Unpublished(_) | Stage::Publishing(_) => self.history.attempts > 0 || self.doubt.is_some(),
        }
    }

    /// The call is let go before its request was asked for: a beginning that was noted was none.
    /// Returns whether there was one.
    pub(super) fn take_back_beginning(&mut self) -> bool {
        let was_beginning = matches!(self.stage, Stage::Beginning | Stage::Begun);
        if was_beginning {
            self.stage = Stage::Ready;
        }
        was_beginning
    }

    fn take_back_attempt(&mut self) {
        self.history.attempts -= 1;
        self.history.answered_at = None;
        if self.history.attempts == 0 {
            self.history.first_attempt_at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::{Class, Lost, Statuses};
    use super::*;

    fn classes() -> Classes {
        Classes::new([
            (Statuses::Hundred(2), Class::Accepted),
            (Statuses::Hundred(4), Class::Rejected),
            (Statuses::Exactly(429), Class::Retry),
        ])
        .expect("a table")
    }

    fn status(status: u16) -> Report {
        let retry_after = (status == 429).then_some(Duration::from_secs(7));
        Report::Status(Reply {
            status,
            retry_after,
            ..Reply::default()
        })
    }

    fn call(policy: Policy, now: Instant) -> Call<()> {
        Call {
            key: None,
            payload: Arc::new(()),
            bytes: 0,
            policy,
            stage: Stage::Ready,
            history: History::default(),
            doubt: None,
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
    fn play(policy: Policy, reports: &[Report]) -> (Next, Call<()>) {
        let now = Instant::now();
        let mut call = call(policy, now);
        let mut last = Next::Ready;
        for report in reports {
            call.enter(Stage::Ready, now);
            call.begin(now);
            last = call.answered(report.clone(), &classes(), SETTLE, now);
        }
        (last, call)
    }

    fn check(reports: &[Report]) -> (Next, Call<()>) {
        play(Policy::Retry, reports)
    }

    const SETTLE: Duration = Duration::from_secs(9);

    #[test]
    fn attempts_are_counted_and_told_apart() {
        let (next, call) = check(&[
            Report::NotSent(NotSent::NoConnection),
            Report::Lost(Lost::TimedOut),
            status(500),
            status(429),
            status(201),
        ]);
        assert!(
            matches!(next, Next::Publish(ending) if matches!(&*ending, Ending::Accepted(reply) if reply.status == 201))
        );
        assert_eq!((call.history.attempts, call.history.attempts_ambiguous), (5, 2));
        assert_eq!(call.doubt, Some(Doubt::Ambiguous));
    }

    #[test]
    fn a_surely_unprocessed_call_raises_no_doubt() {
        let (next, call) = check(&[Report::NotSent(NotSent::NotWritten), status(429)]);
        assert_eq!(next, Next::Wait(Duration::from_secs(7)));
        assert!(!call.is_doubtful());
    }

    #[test]
    fn an_ambiguous_answer_leaves_a_doubt_that_stays() {
        let (next, call) = check(&[Report::Lost(Lost::Closed), status(429)]);
        assert_eq!(next, Next::Wait(Duration::from_secs(7)));
        assert!(call.is_doubtful());
    }

    #[test]
    fn a_withheld_request_is_no_attempt() {
        let (next, call) = check(&[Report::NotSent(NotSent::Withheld)]);
        assert_eq!(next, Next::Ready);
        assert_eq!(call.history, History::default());
        assert!(!call.is_doubtful());
    }

    #[test]
    fn a_rejected_call_is_a_dead_letter() {
        let (next, _) = check(&[status(422)]);
        assert!(matches!(next, Next::Publish(ending) if matches!(*ending, Ending::Rejected(_))));
    }

    #[test]
    fn under_park_what_nobody_can_know_waits_for_a_person() {
        for report in [Report::Lost(Lost::Closed), status(500)] {
            let (next, call) = play(Policy::Park, &[status(429), report.clone()]);
            let Next::Publish(ending) = next else {
                panic!("{next:?}");
            };
            let expected = Evidence {
                doubt: Doubt::Ambiguous,
                last: Some(report),
                lookups: 0,
            };
            assert_eq!(*ending, Ending::Parked(expected));
            assert!(call.is_doubtful(), "until the parked record is acknowledged");
        }
    }

    #[test]
    fn under_park_and_verify_only_what_was_surely_not_processed_is_sent_again() {
        for policy in [Policy::Park, Policy::Verify] {
            let (next, call) = play(policy, &[Report::NotSent(NotSent::NoConnection), status(429)]);
            assert_eq!(next, Next::Wait(Duration::from_secs(7)));
            assert!(!call.is_doubtful(), "the next owner may call it");
        }
    }

    /// Story: an earlier owner had begun the call, too, and nobody knows what came of that.
    #[test]
    fn with_another_request_about_only_an_acceptance_is_an_answer() {
        let now = Instant::now();
        let answered = |policy, report| {
            let mut call = call(policy, now);
            call.doubt = Some(Doubt::Redelivered);
            call.begin(now);
            call.answered(report, &classes(), SETTLE, now)
        };
        for report in [status(429), status(422), Report::NotSent(NotSent::Withheld)] {
            let parked = answered(Policy::Park, report.clone());
            assert!(matches!(parked, Next::Publish(ending) if matches!(*ending, Ending::Parked(_))));
            assert_eq!(answered(Policy::Verify, report), Next::Settle);
        }
        let accepted = answered(Policy::Park, status(201));
        assert!(matches!(accepted, Next::Publish(ending) if matches!(*ending, Ending::Accepted(_))));
    }

    #[test]
    fn a_look_up_settles_it_or_is_given_up() {
        let now = Instant::now();
        let verify = Verify {
            settle: SETTLE,
            lookups_max: 3,
            give_up_after: Duration::from_secs(60),
            answers: Classes::new([
                (Statuses::Exactly(200), Class::Accepted),
                (Statuses::Exactly(404), Class::Rejected),
            ])
            .expect("a table"),
        };
        let doubtful = || {
            let (next, mut call) = play(Policy::Verify, &[Report::Lost(Lost::TimedOut)]);
            assert_eq!(next, Next::Settle);
            call.enter(Stage::LookingUp, now);
            call
        };
        let found = doubtful().looked_up(status(200), &classes(), &verify, false, now);
        assert!(matches!(found, Next::Publish(ending) if matches!(*ending, Ending::Found(_))));
        let mut call = doubtful();
        assert_eq!(
            call.looked_up(status(404), &classes(), &verify, false, now),
            Next::Ready
        );
        assert!(!call.is_doubtful());
        let mut call = doubtful();
        for _ in 0..2 {
            let next = call.looked_up(status(500), &classes(), &verify, false, now);
            assert_eq!(next, Next::Wait(Duration::ZERO));
            assert!(call.is_doubtful());
            call.enter(Stage::LookingUp, now);
        }
        let given_up = call.looked_up(status(500), &classes(), &verify, false, now);
        assert!(
            matches!(&given_up, Next::Publish(ending) if matches!(&**ending, Ending::Parked(evidence) if evidence.lookups == 3))
        );
        let mut call = doubtful();
        call.looked_up(status(500), &classes(), &verify, false, now);
        call.enter(Stage::LookingUp, now);
        let late = call.looked_up(
            status(500),
            &classes(),
            &verify,
            false,
            now + verify.give_up_after,
        );
        assert!(matches!(late, Next::Publish(ending) if matches!(*ending, Ending::Parked(_))));
    }
}
