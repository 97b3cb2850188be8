//! A rule for a proxy before a broker, by which a request to join a group reaches the broker late.
//!
//! ```text
//! JoinGroup ──▶ withheld, and the connection of its sender is closed
//! JoinGroup ──▶ passes, and is answered           (the sender asks again, and is a member)
//!               the withheld JoinGroup passes, and nobody hears the answer
//! ```
//!
//! A broker that stands still for a while does this to a sender that gives it up meanwhile: in the end it takes both.

use std::io::{Result, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::proxy::wire::{JOIN_GROUP, Requests, api_key};
use crate::proxy::{Ends, Rule};

/// The rule. It does nothing until it is asked to ([`DelayedJoinGroup::delay_next`]).
#[derive(Default)]
pub struct DelayedJoinGroup {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_armed: bool,
    requests: Requests,
    /// The connection of the request that is withheld, or was.
    late: Option<u64>,
    released: bool,
    answered: bool,
    closed: bool,
}

impl DelayedJoinGroup {
    /// Withholds the next `JoinGroup`.
    pub fn delay_next(&self) {
        self.lock().is_armed = true;
    }

    /// Hands on the withheld `JoinGroup`.
    pub fn release(&self) {
        self.lock().released = true;
        self.changed.notify_all();
    }

    /// Whether the broker has answered it, to nobody.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.lock().answered
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, condition: impl Fn(&State) -> bool) {
        let waited = self
            .changed
            .wait_while(self.lock(), |state| !condition(state) && !state.closed);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Rule for DelayedJoinGroup {
    fn to_server(&self, connection: u64, said: &[u8], mut ends: Ends<'_>) -> Result<()> {
        let requests = self.lock().requests.take(connection, said);
        for request in requests {
            let mut state = self.lock();
            let is_late = state.is_armed && api_key(&request) == JOIN_GROUP;
            if is_late {
                state.is_armed = false;
                state.late = Some(connection);
            }
            drop(state);
            if is_late {
                ends.client.shutdown(Shutdown::Both)?;
                self.wait_until(|state| state.released);
            }
            ends.server.write_all(&request)?;
            if is_late {
                // Closed before it has answered, the connection might take the request with it.
                self.wait_until(|state| state.answered);
            }
        }
        Ok(())
    }

    fn to_client(&self, connection: u64, said: &[u8], mut client: &TcpStream) -> Result<()> {
        let mut state = self.lock();
        if state.late == Some(connection) {
            // What was asked for before on this connection may be answered too, and nobody hears that either.
            state.answered = state.released;
            self.changed.notify_all();
            return Ok(());
        }
        drop(state);
        client.write_all(said)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}
