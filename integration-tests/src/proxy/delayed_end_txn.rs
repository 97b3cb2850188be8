//! A rule for a proxy before a broker, by which the end of a transaction reaches the broker late.
//!
//! ```text
//! EndTxn ──▶ withheld, and the connection of its sender is closed
//! EndTxn ──▶ passes, and is answered           (the sender asks again)
//! Produce ─▶ the first passes, others wait     (its next transaction is half written)
//!            the withheld EndTxn passes
//! ```
//!
//! A network does this to a sender whose connection breaks: what it wrote may still come out at the other end.

use std::io::{ErrorKind, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::proxy::wire::{END_TXN, PRODUCE, Requests, api_key, number};
use crate::proxy::{Ends, Rule};

/// The rule. It does nothing until it is asked to ([`DelayedEndTxn::delay_next`]).
#[derive(Default)]
pub struct DelayedEndTxn {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    step: Step,
    requests: Requests,
    late: Option<Late>,
    released: bool,
    waiting: usize,
    closed: bool,
}

/// How far the story has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// Everything passes.
    #[default]
    Passing,
    /// The next `EndTxn` is to be withheld.
    Armed,
    /// It is withheld, and its sender is to ask again.
    Withheld,
    /// The second `EndTxn` has passed; the next `Produce` passes too.
    Retried,
    /// One `Produce` of the next transaction has passed, and no other does.
    HalfForwarded,
}

struct Late {
    connection: u64,
    answer: Option<i16>,
}

impl DelayedEndTxn {
    /// Withholds the next `EndTxn`.
    pub fn delay_next(&self) {
        let mut state = self.lock();
        *state = State {
            step: Step::Armed,
            requests: std::mem::take(&mut state.requests),
            ..State::default()
        };
    }

    /// How far the story has come.
    #[must_use]
    pub fn step(&self) -> Step {
        self.lock().step
    }

    /// Whether one part of the next transaction was handed on, and another one waits. That the first one is written
    /// too, the ends of its partitions tell.
    #[must_use]
    pub fn is_half_forwarded(&self) -> bool {
        let state = self.lock();
        state.step == Step::HalfForwarded && state.waiting > 0
    }

    /// Hands on the withheld `EndTxn`.
    pub fn release(&self) {
        self.lock().released = true;
        self.changed.notify_all();
    }

    /// Kafka's error code for the withheld `EndTxn`, once it is there; 0 is success.
    #[must_use]
    pub fn delayed_response_error(&self) -> Option<i16> {
        self.lock().late.as_ref().and_then(|late| late.answer)
    }

    /// Everything passes from now on, but for what waits: its connections are closed.
    pub fn pass_all(&self) {
        self.lock().step = Step::Passing;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, connection: u64, request: &[u8], mut ends: Ends<'_>) -> Result<()> {
        let mut state = self.lock();
        match (state.step, api_key(request)) {
            (Step::Armed, END_TXN) => {
                state.step = Step::Withheld;
                state.late = Some(Late {
                    connection,
                    answer: None,
                });
                ends.client.shutdown(Shutdown::Both)?;
                state = self.wait_while(state, |state| !state.released);
                ends.server.write_all(request)?;
                // Closed before it has answered, the connection might take the request with it.
                drop(self.wait_while(state, |state| {
                    state.late.as_ref().is_none_or(|late| late.answer.is_none())
                }));
                return Ok(());
            }
            (Step::Withheld, END_TXN) => state.step = Step::Retried,
            (Step::Retried, PRODUCE) => {
                state.step = Step::HalfForwarded;
            }
            (Step::HalfForwarded, PRODUCE) => {
                state.waiting += 1;
                drop(self.wait_while(state, |state| state.step == Step::HalfForwarded));
                return Err(ErrorKind::ConnectionAborted.into());
            }
            _ => {}
        }
        drop(state);
        ends.server.write_all(request)
    }

    fn wait_while<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        condition: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        self.changed
            .wait_while(state, |state| condition(state) && !state.closed)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rule for DelayedEndTxn {
    fn to_server(&self, connection: u64, said: &[u8], ends: Ends<'_>) -> Result<()> {
        let requests = self.lock().requests.take(connection, said);
        for request in requests {
            self.request(connection, &request, ends)?;
        }
        Ok(())
    }

    fn to_client(&self, connection: u64, said: &[u8], mut client: &TcpStream) -> Result<()> {
        let mut state = self.lock();
        if let Some(late) = &mut state.late
            && late.connection == connection
        {
            late.answer = end_txn_error(said);
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

/// The answer to `EndTxn` before version 3 is its length (4 bytes), the request's number (4), a throttle time (4) and
/// an error code (2).
fn end_txn_error(answer: &[u8]) -> Option<i16> {
    number(answer, 12)
}
