//! A rule under which an `EndTxn` request reaches the broker late, during the producer's next transaction.
//!
//! ```text
//! EndTxn ──▶ withheld, the sender's connection is closed
//! EndTxn ──▶ passes and is answered            (the retry)
//! Produce ─▶ the first passes, others wait     (the next transaction is half written)
//!            the withheld EndTxn passes
//! ```
//!
//! A network does the same when a connection breaks: bytes already sent may still arrive.

use std::io::{ErrorKind, Result, Write};
use std::net::{Shutdown, TcpStream};

use super::gate::{Gate, Locked};
use super::wire::{END_TXN, PRODUCE, RequestSplitter, api_key, int16};
use super::{Rule, Sockets};

/// Delays one `EndTxn` request on demand ([`DelayedEndTxn::delay_next`]).
#[derive(Default)]
pub struct DelayedEndTxn {
    gate: Gate<State>,
    splitter: RequestSplitter,
}

#[derive(Default)]
struct State {
    step: Step,
    delayed: Option<Delayed>,
    released: bool,
    waiting: usize,
}

/// Progress of the delay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// No delay: all requests pass.
    #[default]
    Passing,
    /// The next `EndTxn` will be withheld.
    Armed,
    /// An `EndTxn` is withheld; its retry has not arrived.
    Withheld,
    /// The retry has passed; the next `Produce` will pass too.
    Retried,
    /// One `Produce` of the next transaction has passed; all others wait.
    HalfForwarded,
}

/// The delayed request and its response.
struct Delayed {
    connection: u64,
    /// Error code of its response.
    error: Option<i16>,
}

impl DelayedEndTxn {
    /// Delays the next `EndTxn`, and forgets an earlier one.
    pub fn delay_next(&self) {
        self.gate.update(|state| {
            *state = State {
                step: Step::Armed,
                ..State::default()
            };
        });
    }

    /// Returns the progress of the delay.
    #[must_use]
    pub fn step(&self) -> Step {
        self.gate.lock().step
    }

    /// Returns true once one `Produce` of the next transaction was forwarded and another one waits. The
    /// partitions' end offsets show whether the broker has written the first.
    #[must_use]
    pub fn is_half_forwarded(&self) -> bool {
        let state = self.gate.lock();
        // A waiting request proves that the transaction has more records than the broker got.
        state.step == Step::HalfForwarded && state.waiting > 0
    }

    /// Forwards the withheld `EndTxn`.
    pub fn release(&self) {
        self.gate.update(|state| state.released = true);
    }

    /// Kafka's error code in the response to the withheld `EndTxn`, once it is there; 0 is success.
    #[must_use]
    pub fn delayed_response_error(&self) -> Option<i16> {
        self.gate
            .lock()
            .delayed
            .as_ref()
            .and_then(|delayed| delayed.error)
    }

    /// Passes all requests from now on. Connections with a waiting request are closed.
    pub fn pass_all(&self) {
        self.gate.update(|state| state.step = Step::Passing);
    }

    fn forward(&self, connection: u64, request: &[u8], mut sockets: Sockets<'_>) -> Result<()> {
        let mut state = self.gate.lock();
        match (state.step, api_key(request)) {
            (Step::Armed, END_TXN) => {
                state.step = Step::Withheld;
                state.delayed = Some(Delayed {
                    connection,
                    error: None,
                });
                return self.delay(state, request, sockets);
            }
            (Step::Withheld, END_TXN) => state.step = Step::Retried,
            // The first part of the next transaction reaches the broker, the rest does not.
            (Step::Retried, PRODUCE) => state.step = Step::HalfForwarded,
            (Step::HalfForwarded, PRODUCE) => {
                state.waiting += 1;
                drop(
                    self.gate
                        .wait_while(state, |state| state.step == Step::HalfForwarded),
                );
                // The rest of this transaction must never reach the broker, not even after the wait.
                return Err(ErrorKind::ConnectionAborted.into());
            }
            _ => {}
        }
        drop(state);
        sockets.server.write_all(request)
    }

    /// Closes the sender's connection, and forwards its request after the release.
    fn delay(&self, state: Locked<'_, State>, request: &[u8], mut sockets: Sockets<'_>) -> Result<()> {
        // The sender must retry on another connection, as when this one breaks.
        sockets.client.shutdown(Shutdown::Both)?;
        let state = self.gate.wait_while(state, |state| !state.released);
        sockets.server.write_all(request)?;
        // A connection that closes before the response may take the request with it.
        drop(self.gate.wait_while(state, |state| {
            state
                .delayed
                .as_ref()
                .is_none_or(|delayed| delayed.error.is_none())
        }));
        Ok(())
    }
}

impl Rule for DelayedEndTxn {
    fn to_server(&self, connection: u64, bytes: &[u8], sockets: Sockets<'_>) -> Result<()> {
        for request in self.splitter.split(connection, bytes) {
            self.forward(connection, &request, sockets)?;
        }
        Ok(())
    }

    fn to_client(&self, connection: u64, bytes: &[u8], mut client: &TcpStream) -> Result<()> {
        let mut state = self.gate.lock();
        if let Some(delayed) = &mut state.delayed
            && delayed.connection == connection
        {
            // Nobody reads this response: the sender has closed its connection.
            delayed.error = end_txn_error(bytes);
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

/// Returns the error code of an `EndTxn` response.
fn end_txn_error(response: &[u8]) -> Option<i16> {
    // Up to version 2 (librdkafka sends 0 or 1): length (4), correlation id (4), throttle time (4).
    int16(response, 12)
}
