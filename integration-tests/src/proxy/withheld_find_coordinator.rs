//! A rule under which no group coordinator is found.
//!
//! `FindCoordinator` requests for groups do not reach the broker and get no response; all else passes. A
//! cluster that has lost the leader of the coordinator's partition looks like this to its clients.

use std::io::{Result, Write};

use super::gate::Gate;
use super::wire::{RequestSplitter, is_find_group_coordinator};
use super::{Rule, Sockets};

/// Withholds `FindCoordinator` requests for groups on demand.
#[derive(Default)]
pub struct WithheldFindCoordinator {
    gate: Gate<State>,
    splitter: RequestSplitter,
}

#[derive(Default)]
struct State {
    withholding: bool,
    withheld: usize,
}

impl WithheldFindCoordinator {
    /// Starts or stops withholding.
    pub fn withhold(&self, withholding: bool) {
        self.gate.update(|state| state.withholding = withholding);
    }

    /// Number of requests withheld so far.
    #[must_use]
    pub fn withheld(&self) -> usize {
        self.gate.lock().withheld
    }
}

impl Rule for WithheldFindCoordinator {
    fn to_server(&self, connection: u64, bytes: &[u8], mut sockets: Sockets<'_>) -> Result<()> {
        for request in self.splitter.split(connection, bytes) {
            let mut state = self.gate.lock();
            if state.withholding && is_find_group_coordinator(&request) {
                // Dropped, not delayed: without a coordinator there is no response, however long one waits.
                state.withheld += 1;
                continue;
            }
            // Written without the lock: a slow broker must not block other connections.
            drop(state);
            sockets.server.write_all(&request)?;
        }
        Ok(())
    }

    fn close(&self) {
        self.gate.close();
    }
}
