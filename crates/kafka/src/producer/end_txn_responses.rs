//! Responses to the EndTxn requests of the open transaction, read from librdkafka's debug log.
//!
//! librdkafka repeats EndTxn by itself when the connection is lost before the response, and does not report
//! that to its caller. The first request may still be in flight: a broker that processes it later ends
//! whatever transaction this producer has open by then, in the middle (KAFKA-17754). Only a new producer,
//! with a new epoch, is safe from that. librdkafka logs each response, and each request that it stopped
//! waiting for, in order, in its debug log for `eos`.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Debug context that logs the responses: some lines per transaction and partition.
pub(super) const DEBUG_CONTEXT: &str = "eos";

/// Responses logged since the last [`Self::reset`].
#[derive(Default)]
pub(super) struct EndTxnResponses {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_acknowledged: bool,
    /// Name of the librdkafka error that ended the wait for a response.
    lost: Option<String>,
}

impl EndTxnResponses {
    /// Forgets the responses of an earlier transaction.
    pub(super) fn reset(&self) {
        *self.lock() = State::default();
    }

    /// Reads a line of librdkafka's log.
    pub(super) fn observe_log(&self, facility: &str, line: &str) {
        let Some(result) = end_txn_result(facility, line) else {
            return;
        };
        let mut state = self.lock();
        match result {
            "NO_ERROR" => state.is_acknowledged = true,
            // A leading underscore marks librdkafka's own errors: there is no response, and the request may
            // still reach the broker. Any other name is the broker's refusal, after which nothing of the
            // request remains.
            local if local.starts_with('_') => state.lost = Some(local.to_owned()),
            _ => {}
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Returns why an EndTxn request may still be in flight although the transaction has ended; `None` if
    /// none is.
    pub(super) fn request_in_flight(&self) -> Option<String> {
        // librdkafka logs on another thread, so that the line about the last response may come after its
        // result.
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), LOG_LINE_TIMEOUT, |state| !state.is_acknowledged)
            .unwrap_or_else(PoisonError::into_inner);
        match &state.lost {
            Some(lost) => Some(format!("EndTxn was repeated after {lost}")),
            // Without the line nothing is proved, so the producer counts as unsafe.
            None if !state.is_acknowledged => Some("librdkafka has not logged the response to EndTxn".into()),
            None => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Timeout for the log line of a response.
// The line comes within microseconds unless the machine is overloaded; a new producer costs more than this
// wait.
const LOG_LINE_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the result in a line such as
/// `[thrd:main]: EndTxn returned _TRANSPORT in state CommittingTransaction (may_retry=true)`.
fn end_txn_result<'a>(facility: &str, line: &'a str) -> Option<&'a str> {
    if facility != "ENDTXN" {
        return None;
    }
    let (_, result) = line.split_once("EndTxn returned ")?;
    result.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACKNOWLEDGED: &str =
        "[thrd:main]: EndTxn returned NO_ERROR in state CommittingTransaction (may_retry=true)";

    fn in_flight_after(lines: &[&str]) -> Option<String> {
        let responses = EndTxnResponses::default();
        responses.observe_log("ENDTXN", "[thrd:main]: EndTxn returned _TIMED_OUT in state X");
        responses.reset();
        for line in lines {
            responses.observe_log("ENDTXN", line);
        }
        responses.observe_log("TXNSTATE", "EndTxn returned _TRANSPORT in state X");
        responses.request_in_flight()
    }

    #[test]
    fn repeated_end_txn_without_response_is_detected() {
        assert_eq!(in_flight_after(&[ACKNOWLEDGED]), None);
        let refused = "[thrd:main]: EndTxn returned CONCURRENT_TRANSACTIONS in state X (may_retry=true)";
        assert_eq!(
            in_flight_after(&[refused, ACKNOWLEDGED]),
            None,
            "the broker has responded"
        );
        let lost = "[thrd:main]: EndTxn returned _TRANSPORT in state X (may_retry=true)";
        assert!(in_flight_after(&[lost, ACKNOWLEDGED]).is_some_and(|why| why.contains("_TRANSPORT")));
        assert!(in_flight_after(&[]).is_some(), "silence proves nothing");
    }
}
