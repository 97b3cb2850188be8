//! How often the end of a transaction was asked for.
//!
//! librdkafka asks again by itself when the connection is lost before the answer, and says nothing of it to
//! its caller. The first request may still be on its way: a broker that takes it up later ends whatever
//! transaction this producer has open by then, in the middle (KAFKA-17754). Only a new producer, with its
//! new epoch, is safe from that, so it must be known. librdkafka tells of each answer in its debug log for
//! `eos`, and of each request that it has given up on, in their order.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The debug log that these are read from; some lines per transaction and partition.
pub(crate) const DEBUG_CONTEXT: &str = "eos";

/// What was heard of the requests to end the open transaction.
#[derive(Default)]
pub(crate) struct EndAnswers {
    heard: Mutex<Heard>,
    changed: Condvar,
}

#[derive(Default)]
struct Heard {
    taken: bool,
    unanswered: Option<String>,
}

impl EndAnswers {
    /// Forgets what was heard of an earlier transaction.
    pub(crate) fn reset(&self) {
        *self.lock() = Heard::default();
    }

    /// Takes in a line of librdkafka's log.
    pub(crate) fn hear(&self, facility: &str, line: &str) {
        let Some(answer) = end_answer(facility, line) else {
            return;
        };
        let mut heard = self.lock();
        match answer {
            "NO_ERROR" => heard.taken = true,
            // The names of librdkafka's own errors begin so: it has no answer. Any other is the broker's
            // refusal of that request, of which nothing remains.
            lost if lost.starts_with('_') => heard.unanswered = Some(lost.to_owned()),
            _ => {}
        }
        drop(heard);
        self.changed.notify_all();
    }

    /// Why a request to end the transaction may still be on its way, after the transaction has ended.
    ///
    /// The log comes by another thread, so that the line about the last answer is waited for.
    pub(crate) fn on_its_way(&self) -> Option<String> {
        let (heard, _) = self
            .changed
            .wait_timeout_while(self.lock(), HEAR_MAX, |heard| !heard.taken)
            .unwrap_or_else(PoisonError::into_inner);
        match &heard.unanswered {
            Some(lost) => Some(format!("it was asked for again after {lost}")),
            None if !heard.taken => Some("librdkafka has not told of its answer".into()),
            None => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The line comes within microseconds, unless the machine is overloaded; a new producer costs more than this.
const HEAR_MAX: Duration = Duration::from_secs(1);

/// The result in a line such as
/// `[thrd:main]: EndTxn returned _TRANSPORT in state CommittingTransaction (may_retry=true)`.
fn end_answer<'a>(facility: &str, line: &'a str) -> Option<&'a str> {
    if facility != "ENDTXN" {
        return None;
    }
    let (_, answer) = line.split_once("EndTxn returned ")?;
    answer.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKEN: &str =
        "[thrd:main]: EndTxn returned NO_ERROR in state CommittingTransaction (may_retry=true)";

    fn after(lines: &[&str]) -> Option<String> {
        let answers = EndAnswers::default();
        answers.hear("ENDTXN", "[thrd:main]: EndTxn returned _TIMED_OUT in state X");
        answers.reset();
        for line in lines {
            answers.hear("ENDTXN", line);
        }
        answers.hear("TXNSTATE", "EndTxn returned _TRANSPORT in state X");
        answers.on_its_way()
    }

    #[test]
    fn an_end_that_was_asked_for_again_without_an_answer_is_known() {
        assert_eq!(after(&[TAKEN]), None);
        let refused = "[thrd:main]: EndTxn returned CONCURRENT_TRANSACTIONS in state X (may_retry=true)";
        assert_eq!(after(&[refused, TAKEN]), None, "the broker has answered");
        let lost = "[thrd:main]: EndTxn returned _TRANSPORT in state X (may_retry=true)";
        assert!(after(&[lost, TAKEN]).is_some_and(|why| why.contains("_TRANSPORT")));
        assert!(after(&[]).is_some(), "silence proves nothing");
    }
}
