//! A rule under which the bounds of one partition cannot be read.
//!
//! `ListOffsets` requests that ask for the partition do not reach the broker and get no response; all else passes. A
//! partition without a leader looks like this to a client that reads its bounds.

use std::io::{Result, Write};

use super::gate::Gate;
use super::wire::{RequestSplitter, listed_partitions};
use super::{Rule, Sockets};

/// Withholds `ListOffsets` requests for one partition on demand.
#[derive(Default)]
pub struct WithheldListOffsets {
    gate: Gate<State>,
    splitter: RequestSplitter,
}

#[derive(Default)]
struct State {
    /// Topic and partition.
    withheld: Option<(String, i32)>,
    count: usize,
}

impl WithheldListOffsets {
    /// Withholds the requests for this partition of a topic from now on; `None`: all pass.
    pub fn withhold(&self, partition: Option<(&str, i32)>) {
        let withheld = partition.map(|(topic, number)| (topic.to_owned(), number));
        self.gate.update(|state| state.withheld = withheld);
    }

    /// Number of requests withheld so far.
    #[must_use]
    pub fn withheld(&self) -> usize {
        self.gate.lock().count
    }
}

impl Rule for WithheldListOffsets {
    fn to_server(&self, connection: u64, bytes: &[u8], mut sockets: Sockets<'_>) -> Result<()> {
        for request in self.splitter.split(connection, bytes) {
            let mut state = self.gate.lock();
            let is_withheld = state
                .withheld
                .as_ref()
                .is_some_and(|(topic, number)| listed_partitions(&request, topic).contains(number));
            if is_withheld {
                // Dropped, not delayed: the client's later requests on this connection are answered.
                state.count += 1;
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
