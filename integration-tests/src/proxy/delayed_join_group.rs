//! A rule under which a `JoinGroup` request reaches the broker late, after its retry.
//!
//! ```text
//! JoinGroup ──▶ withheld, the sender's connection is closed
//! JoinGroup ──▶ passes and is answered         (the retry; its sender is a member now)
//!               the withheld JoinGroup passes, its response is dropped
//! ```
//!
//! A broker that stalls while its client times out and retries does the same: it processes both requests.

use std::io::{Result, Write};
use std::net::{Shutdown, TcpStream};

use super::gate::Gate;
use super::wire::{JOIN_GROUP, RequestSplitter, api_key};
use super::{Rule, Sockets};

/// Delays one `JoinGroup` request on demand.
#[derive(Default)]
pub struct DelayedJoinGroup {
    gate: Gate<State>,
    splitter: RequestSplitter,
}

#[derive(Default)]
struct State {
    armed: bool,
    /// Connection of the delayed request, during and after the delay.
    delayed: Option<u64>,
    released: bool,
    answered: bool,
}

impl DelayedJoinGroup {
    /// Delays the next `JoinGroup`.
    pub fn delay_next(&self) {
        self.gate.update(|state| state.armed = true);
    }

    /// Forwards the delayed `JoinGroup`.
    pub fn release(&self) {
        self.gate.update(|state| state.released = true);
    }

    /// Returns true once the broker has answered the delayed request.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.gate.lock().answered
    }

    /// Closes the sender's connection, and forwards its request after the release.
    fn delay(&self, request: &[u8], mut sockets: Sockets<'_>) -> Result<()> {
        // The sender must retry on another connection, as after its own timeout.
        sockets.client.shutdown(Shutdown::Both)?;
        drop(self.gate.wait_while(self.gate.lock(), |state| !state.released));
        sockets.server.write_all(request)?;
        // A connection that closes before the response may take the request with it.
        drop(self.gate.wait_while(self.gate.lock(), |state| !state.answered));
        Ok(())
    }
}

impl Rule for DelayedJoinGroup {
    fn to_server(&self, connection: u64, bytes: &[u8], mut sockets: Sockets<'_>) -> Result<()> {
        for request in self.splitter.split(connection, bytes) {
            let mut state = self.gate.lock();
            let is_delayed = state.armed && api_key(&request) == JOIN_GROUP;
            if is_delayed {
                state.armed = false;
                state.delayed = Some(connection);
            }
            // Others must pass meanwhile, the retry above all.
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
        if state.delayed == Some(connection) {
            // Responses to earlier requests on this connection are dropped too; only one after the release
            // answers the delayed request.
            state.answered = state.released;
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
