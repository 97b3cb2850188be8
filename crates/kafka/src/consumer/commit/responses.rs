//! Responses to the OffsetCommit requests of one commit, read from librdkafka's debug log.
//!
//! librdkafka repeats OffsetCommit by itself when the connection is lost or the request times out before the
//! response, and does not report that to its caller. The first request may still be in flight: a coordinator
//! that processes it later puts this commit over whatever the same member has committed since. Only a new
//! membership, which fences the request, is safe from that.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Debug contexts that log the responses: some lines per commit, heartbeat and connection.
pub(crate) const DEBUG_CONTEXTS: &str = "cgrp,broker";

/// Responses logged since the last [`Self::reset`]. One commit at a time.
#[derive(Default)]
pub(crate) struct OffsetCommitResponses {
    state: Mutex<State>,
}

struct State {
    /// The connection to the coordinator is up, or its state is not known.
    is_connected: bool,
    /// A request may have been sent that has no response yet.
    is_sent: bool,
    is_logged: bool,
    /// librdkafka's error that ended the wait for a response.
    lost: Option<String>,
}

impl Default for State {
    fn default() -> Self {
        Self::of(true)
    }
}

impl State {
    fn of(is_connected: bool) -> Self {
        Self {
            is_connected,
            is_sent: is_connected,
            is_logged: false,
            lost: None,
        }
    }
}

impl OffsetCommitResponses {
    /// Forgets the responses to an earlier commit.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        *state = State::of(state.is_connected);
    }

    /// Reads a line of librdkafka's log. The lines must come in the order in which they were logged.
    pub(crate) fn observe_log(&self, facility: &str, line: &str) {
        match facility {
            // Logged for each attempt, whatever its result. That of the last one comes before the result of
            // the commit.
            "COMMIT" if is_result(line) => self.lock().is_logged = true,
            // A request is queued, for the first time or again. It leaves only over a connection that is up.
            "COMMIT" | "RETRY" => {
                let mut state = self.lock();
                state.is_sent |= state.is_connected;
            }
            "STATE" => {
                if let Some(to) = coordinator_state(line) {
                    let mut state = self.lock();
                    state.is_connected = !UNCONNECTED.contains(&to);
                    state.is_sent |= state.is_connected;
                }
            }
            "REQERR" => {
                if let Some((_, error)) = line.split_once("OffsetCommitRequest failed: ") {
                    self.failed(error);
                }
            }
            _ => {}
        }
    }

    fn failed(&self, error: &str) {
        let mut state = self.lock();
        let was_sent = std::mem::replace(&mut state.is_sent, false);
        // librdkafka's own errors: there is no response. Any other is the coordinator's refusal, after which
        // nothing of the request remains. A coordinator that moves fails requests that were never sent.
        if was_sent && error.starts_with("Local: ") {
            state.lost = Some(error.to_owned());
        }
    }

    /// Returns why an OffsetCommit request may still be in flight although the commit has ended; `None` if
    /// none is.
    pub(crate) fn request_in_flight(&self) -> Option<String> {
        let state = self.lock();
        match &state.lost {
            Some(lost) => Some(format!("OffsetCommit got no response ({lost})")),
            // Without the line nothing is proved.
            None if !state.is_logged => Some("librdkafka has not logged the response to OffsetCommit".into()),
            None => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// States of a connection in which librdkafka sends no commit. It may send one in all others.
const UNCONNECTED: [&str; 7] = [
    "INIT",
    "DOWN",
    "TRY_CONNECT",
    "CONNECT",
    "SSL_HANDSHAKE",
    "AUTH_LEGACY",
    // The query alone: librdkafka holds other requests back until the connection is set up.
    "APIVERSION_QUERY",
];

/// Returns `true` for a line such as `[thrd:main]: GroupCoordinator/1: OffsetCommit for 1 partition(s) in
/// join-state steady: manual: returned: Success`.
fn is_result(line: &str) -> bool {
    line.contains("OffsetCommit for ") && line.contains(": returned: ")
}

/// Returns the new state in a line such as `[thrd:GroupCoordinator]: GroupCoordinator: Broker changed state
/// APIVERSION_QUERY -> UP`.
fn coordinator_state(line: &str) -> Option<&str> {
    let (_, states) = line.split_once("GroupCoordinator: Broker changed state ")?;
    let (_, to) = states.split_once(" -> ")?;
    Some(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_COORDINATOR: &str = "Broker: Not coordinator: explicit actions Refresh,Retry,Special";
    const TRANSPORT: &str = "Local: Broker transport failure: explicit actions Refresh,Retry,Special";

    fn observe(responses: &OffsetCommitResponses, facility: &str, event: &str) {
        let line = format!("[thrd:x]: GroupCoordinator{event}");
        responses.observe_log(facility, &line);
    }

    fn fail(responses: &OffsetCommitResponses, error: &str) {
        observe(
            responses,
            "REQERR",
            &format!("/1: OffsetCommitRequest failed: {error}"),
        );
    }

    fn connection(responses: &OffsetCommitResponses, to: &str) {
        observe(responses, "STATE", &format!(": Broker changed state X -> {to}"));
    }

    fn retry(responses: &OffsetCommitResponses) {
        observe(responses, "RETRY", "/1: Moved 1 retry buffer(s) to output queue");
    }

    /// Returns the request in flight after these events of a commit that ends with success.
    fn in_flight_after(events: impl Fn(&OffsetCommitResponses)) -> Option<String> {
        let responses = OffsetCommitResponses::default();
        fail(&responses, "Local: Timed out: actions Retry");
        responses.reset();
        events(&responses);
        let result = "/1: OffsetCommit for 1 partition(s) in join-state steady: manual: returned: Success";
        observe(&responses, "COMMIT", result);
        observe(
            &responses,
            "REQERR",
            "/1: HeartbeatRequest failed: Local: Timed out: actions Retry",
        );
        responses.request_in_flight()
    }

    #[test]
    fn repeated_commit_without_response_is_detected() {
        assert_eq!(in_flight_after(|_| ()), None);
        assert!(OffsetCommitResponses::default().request_in_flight().is_some());
        for lost in [TRANSPORT, "Local: Timed out: actions Retry"] {
            let why = in_flight_after(|log| fail(log, lost));
            assert!(why.is_some_and(|why| why.contains("Local: ")), "{lost}");
        }
    }

    #[test]
    fn refused_commit_was_answered() {
        let repeated = |log: &_| {
            fail(log, NOT_COORDINATOR);
            retry(log);
        };
        assert_eq!(in_flight_after(repeated), None);
        let lost = in_flight_after(|log| {
            repeated(log);
            fail(log, TRANSPORT);
        });
        assert!(lost.is_some(), "the repetition has no response");
    }

    #[test]
    fn unsent_commit_is_not_in_flight() {
        let moving = |log: &_| {
            fail(log, NOT_COORDINATOR);
            connection(log, "DOWN");
            retry(log);
            connection(log, "TRY_CONNECT");
            fail(log, TRANSPORT);
        };
        assert_eq!(in_flight_after(moving), None);
        let lost = in_flight_after(|log| {
            moving(log);
            connection(log, "UP");
            connection(log, "DOWN");
            fail(log, TRANSPORT);
        });
        assert!(
            lost.is_some(),
            "it may have been sent while the connection was up"
        );
    }
}
