//! A rule for a proxy before a broker, by which nobody hears what became of the end of a transaction.
//!
//! Either the request does not reach the broker, or its answer does not reach the sender, who cannot tell the two
//! apart. A network does this to a sender from which it is cut off at that moment.

use std::collections::HashSet;
use std::io::{Result, Write};
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::proxy::wire::{END_TXN, Requests, api_key};
use crate::proxy::{Ends, Rule};

/// The rule. Everything passes until it is told otherwise.
#[derive(Default)]
pub struct LostEndTxn {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    loses: Loss,
    /// The connections on which an end was asked for whose answer is lost.
    deaf: HashSet<u64>,
    requests: Requests,
}

/// What is lost of the end of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    #[default]
    Nothing,
    /// The request.
    Requests,
    /// The answer, and what else the broker says on that connection.
    Answers,
}

impl LostEndTxn {
    /// What is lost from now on.
    pub fn lose(&self, loses: Loss) {
        self.lock().loses = loses;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rule for LostEndTxn {
    fn to_server(&self, connection: u64, said: &[u8], mut ends: Ends<'_>) -> Result<()> {
        let mut state = self.lock();
        for request in state.requests.take(connection, said) {
            match state.loses {
                Loss::Requests if api_key(&request) == END_TXN => continue,
                Loss::Answers if api_key(&request) == END_TXN => drop(state.deaf.insert(connection)),
                _ => {}
            }
            ends.server.write_all(&request)?;
        }
        Ok(())
    }

    fn to_client(&self, connection: u64, said: &[u8], mut client: &TcpStream) -> Result<()> {
        if self.lock().deaf.contains(&connection) {
            return Ok(());
        }
        client.write_all(said)
    }

    fn close(&self) {}
}
