//! One pending call's life: from the outbox to its outcome.
//!
//! ```text
//! Behind ─▶ Ready ─▶ Calling ─▶ Publishing ─▶ final (and forgotten)
//!             ▲         │           ▲  │
//!             └ Waiting ◀┘           └ Unpublished
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use records::IdempotencyKey;

use super::answer::{Answer, Classes, NotSent, Reply, Report};

/// A pending call. `P` is what the program needs to make it, and is not looked at here.
#[derive(Debug)]
pub struct Call<P> {
    /// What makes two orders the same order; `None` if the record is no pending call.
    pub(super) key: Option<IdempotencyKey>,
    /// The record.
    pub(super) payload: Arc<P>,
    /// How much memory it is counted with, in bytes.
    pub(super) bytes: usize,
    /// Where in its life it is.
    pub(super) stage: Stage,
    /// What was tried so far.
    pub(super) history: History,
    /// Why nobody can know whether the order was processed already.
    pub(super) doubt: Option<Doubt>,
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
    /// May be sent.
    Ready,
    /// Its request is under way.
    Calling,
    /// Waits for its next attempt.
    Waiting,
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
    /// The API rejected it: it is a dead letter.
    Rejected(Reply),
    /// The record is no pending call: it is a dead letter, and nothing was called.
    NotACall,
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
            Self::Calling => "calling",
            Self::Waiting => "waiting for its next attempt",
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
        debug_assert_eq!(self.stage, Stage::Ready);
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

    /// The request that was under way has come to something.
    pub(super) fn answered(&mut self, report: Report, classes: &Classes, now: Instant) -> Next {
        debug_assert_eq!(self.stage, Stage::Calling);
        let answer = classes.answer(&report);
        self.history.answered_at = Some(now);
        let next = match (answer, report) {
            (Answer::Accepted, Report::Status(reply)) => Next::Publish(Arc::new(Ending::Accepted(reply))),
            (Answer::Rejected, Report::Status(reply)) => Next::Publish(Arc::new(Ending::Rejected(reply))),
            (Answer::Retry, Report::NotSent(NotSent::Withheld)) => {
                self.take_back_attempt();
                Next::Ready
            }
            (Answer::Ambiguous, report) => {
                self.history.attempts_ambiguous += 1;
                self.doubt = Some(Doubt::Ambiguous);
                Next::Wait(report.retry_after().unwrap_or_default())
            }
            (Answer::Retry | Answer::Accepted | Answer::Rejected, report) => {
                Next::Wait(report.retry_after().unwrap_or_default())
            }
        };
        let stage = match &next {
            Next::Publish(ending) => Stage::Publishing(Arc::clone(ending)),
            Next::Wait(_) => Stage::Waiting,
            Next::Ready => Stage::Ready,
        };
        self.enter(stage, now);
        next
    }

    pub(super) fn enter(&mut self, stage: Stage, now: Instant) {
        self.stage = stage;
        self.since = now;
    }

    /// Whether nobody can know at this moment if the order was processed.
    pub(super) fn is_doubtful(&self) -> bool {
        match self.stage {
            Stage::Calling => true,
            Stage::Behind | Stage::Ready | Stage::Waiting => self.doubt.is_some(),
            // Its answer is known. Yet the next owner has to call again if the end does not reach Kafka.
            Stage::Unpublished(_) | Stage::Publishing(_) => self.history.attempts > 0,
        }
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

    /// Plays reports one after the other; returns what the last one leads to, and the call.
    fn check(reports: &[Report]) -> (Next, Call<()>) {
        let now = Instant::now();
        let mut call = Call {
            key: None,
            payload: Arc::new(()),
            bytes: 0,
            stage: Stage::Ready,
            history: History::default(),
            doubt: None,
            publications_failed: 0,
            since: now,
        };
        let mut last = Next::Ready;
        for report in reports {
            call.enter(Stage::Ready, now);
            call.begin(now);
            last = call.answered(report.clone(), &classes(), now);
        }
        (last, call)
    }

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
}
