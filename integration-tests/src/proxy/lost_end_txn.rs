//! A rule under which the outcome of `EndTxn` stays unknown to the producer.
//!
//! Either the request does not reach the broker or its response does not reach the producer, which cannot
//! tell the two apart. A network partition at that moment does the same.

use std::collections::HashSet;
use std::io::{Result, Write};
use std::net::TcpStream;

use super::gate::Gate;
use super::wire::{END_TXN, RequestSplitter, api_key};
use super::{Rule, Sockets};

/// Loses `EndTxn` requests or their responses on demand.
#[derive(Default)]
pub struct LostEndTxn {
    gate: Gate<State>,
    splitter: RequestSplitter,
}

#[derive(Default)]
struct State {
    loss: Loss,
    /// Connections whose responses are dropped.
    silenced: HashSet<u64>,
}

/// Part of the `EndTxn` exchange that is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loss {
    /// Neither request nor response.
    #[default]
    Nothing,
    /// The request; the transaction stays open.
    Requests,
    /// The response, and all later responses on that connection; the transaction is committed.
    Responses,
}

impl LostEndTxn {
    /// Sets what is lost from now on.
    pub fn lose(&self, loss: Loss) {
        self.gate.update(|state| state.loss = loss);
    }
}

impl Rule for LostEndTxn {
    fn to_server(&self, connection: u64, bytes: &[u8], mut sockets: Sockets<'_>) -> Result<()> {
        for request in self.splitter.split(connection, bytes) {
            if api_key(&request) == END_TXN {
                let mut state = self.gate.lock();
                match state.loss {
                    Loss::Nothing => {}
                    Loss::Requests => continue,
                    // Before the request is forwarded: the response may arrive at once.
                    Loss::Responses => drop(state.silenced.insert(connection)),
                }
            }
            sockets.server.write_all(&request)?;
        }
        Ok(())
    }

    fn to_client(&self, connection: u64, bytes: &[u8], mut client: &TcpStream) -> Result<()> {
        // All of them: responses come in the order of their requests, so none may be left out alone.
        if self.gate.lock().silenced.contains(&connection) {
            return Ok(());
        }
        client.write_all(bytes)
    }

    fn close(&self) {
        self.gate.close();
    }
}
