//! A rule for a proxy before a broker, by which nobody is told who coordinates a consumer group.
//!
//! The question does not reach the broker, so it is never answered; all else passes. A cluster does this to its
//! clients that has lost the coordinator's partition leader.

use std::io::{Result, Write};
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::proxy::wire::{Requests, asks_for_group_coordinator};
use crate::proxy::{Ends, Rule};

/// The rule. Everything passes until it is asked to withhold.
#[derive(Default)]
pub struct WithheldFindCoordinator {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    withholds: bool,
    withheld: usize,
    requests: Requests,
}

impl WithheldFindCoordinator {
    /// From now on the question is withheld, or no longer.
    pub fn withhold(&self, withholds: bool) {
        self.lock().withholds = withholds;
    }

    /// How often it was withheld.
    #[must_use]
    pub fn withheld(&self) -> usize {
        self.lock().withheld
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rule for WithheldFindCoordinator {
    fn to_server(&self, connection: u64, said: &[u8], mut ends: Ends<'_>) -> Result<()> {
        let mut state = self.lock();
        for request in state.requests.take(connection, said) {
            if state.withholds && asks_for_group_coordinator(&request) {
                state.withheld += 1;
            } else {
                ends.server.write_all(&request)?;
            }
        }
        Ok(())
    }

    fn to_client(&self, _connection: u64, said: &[u8], mut client: &TcpStream) -> Result<()> {
        client.write_all(said)
    }

    fn close(&self) {}
}
