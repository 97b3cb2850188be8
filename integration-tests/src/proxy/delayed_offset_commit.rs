//! A rule under which an `OffsetCommit` or `TxnOffsetCommit` request reaches the broker late, after its
//! repetition and after later commits.
//!
//! ```text
//! OffsetCommit ──▶ withheld, the sender's connection is closed
//! OffsetCommit ──▶ passes and is answered      (the repetition; its sender knows of nothing else)
//! OffsetCommit ──▶ pass and are answered       (later commits)
//!                  the withheld OffsetCommit passes, its response is dropped
//! ```
//!
//! A network does the same when a connection breaks: bytes already sent may still arrive.

use std::io::{Result, Write};
use std::net::{Shutdown, TcpStream};

use super::gate::Gate;
use super::wire::{
    OFFSET_COMMIT, RequestSplitter, TXN_OFFSET_COMMIT, api_key, correlation_id, offset_commit_error,
};
use super::{Rule, Sockets};

/// Delays one request on demand.
pub struct DelayedOffsetCommit {
    /// API key of the request.
    delayed_key: i16,
    gate: Gate<State>,
    splitter: RequestSplitter,
}

#[derive(Default)]
struct State {
    /// Group whose request is delayed.
    group: Option<String>,
    delayed: Option<Delayed>,
    released: bool,
}

/// The delayed request and its response.
struct Delayed {
    connection: u64,
    correlation_id: Vec<u8>,
    /// Error code of its response.
    error: Option<i16>,
}

impl DelayedOffsetCommit {
    /// Returns the rule for `OffsetCommit`.
    #[must_use]
    pub fn plain() -> Self {
        Self::of(OFFSET_COMMIT)
    }

    /// Returns the rule for `TxnOffsetCommit`, the commit of offsets within a transaction.
    #[must_use]
    pub fn transactional() -> Self {
        Self::of(TXN_OFFSET_COMMIT)
    }

    fn of(delayed_key: i16) -> Self {
        Self {
            delayed_key,
            gate: Gate::default(),
            splitter: RequestSplitter::default(),
        }
    }

    /// Delays the next such request for this group, and forgets an earlier one.
    pub fn delay_next(&self, group: &str) {
        self.gate.update(|state| {
            *state = State {
                group: Some(group.to_owned()),
                ..State::default()
            };
        });
    }

    /// Returns true once a request is withheld.
    #[must_use]
    pub fn is_withheld(&self) -> bool {
        self.gate.lock().delayed.is_some()
    }

    /// Forwards the withheld request.
    pub fn release(&self) {
        self.gate.update(|state| state.released = true);
    }

    /// Kafka's error code in the response to the withheld request, once it is there; 0 is success.
    #[must_use]
    pub fn delayed_response_error(&self) -> Option<i16> {
        let state = self.gate.lock();
        state.delayed.as_ref().and_then(|delayed| delayed.error)
    }

    /// Closes the sender's connection, and forwards its request after the release.
    fn delay(&self, request: &[u8], mut sockets: Sockets<'_>) -> Result<()> {
        // The sender must repeat it on another connection, as when this one breaks.
        sockets.client.shutdown(Shutdown::Both)?;
        drop(self.gate.wait_while(self.gate.lock(), |state| !state.released));
        sockets.server.write_all(request)?;
        // A connection that closes before the response may take the request with it.
        drop(self.gate.wait_while(self.gate.lock(), |state| {
            state
                .delayed
                .as_ref()
                .is_none_or(|delayed| delayed.error.is_none())
        }));
        Ok(())
    }
}

impl Rule for DelayedOffsetCommit {
    fn to_server(&self, connection: u64, bytes: &[u8], mut sockets: Sockets<'_>) -> Result<()> {
        for request in self.splitter.split(connection, bytes) {
            let mut state = self.gate.lock();
            let is_delayed = api_key(&request) == self.delayed_key
                && state.group.as_ref().is_some_and(|group| names(&request, group));
            if is_delayed {
                state.group = None;
                state.delayed = Some(Delayed {
                    connection,
                    correlation_id: correlation_id(&request).to_vec(),
                    error: None,
                });
            }
            // Others must pass meanwhile, the repetition above all.
            drop(state);
            if is_delayed {
                self.delay(&request, sockets)?;
            } else {
                sockets.server.write_all(&request)?;
            }
        }
        Ok(())
    }

    fn to_client(&self, connection: u64, bytes: &[u8], mut client: &TcpStream) -> Result<()> {
        let mut state = self.gate.lock();
        if let Some(delayed) = &mut state.delayed
            && delayed.connection == connection
        {
            // Nobody reads these: the sender's connection is closed.
            if bytes.get(4..8) == Some(&delayed.correlation_id) {
                delayed.error = offset_commit_error(bytes);
            }
            drop(state);
            self.gate.notify();
            return Ok(());
        }
        drop(state);
        client.write_all(bytes)
    }

    fn close(&self) {
        self.gate.close();
    }
}

/// Returns true if the request contains this name.
fn names(request: &[u8], name: &str) -> bool {
    request.windows(name.len()).any(|bytes| bytes == name.as_bytes())
}
