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

use std::collections::HashMap;
use std::io::{ErrorKind, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::proxy::{Ends, Rule};

/// The rule. It does nothing until it is asked to ([`DelayedEnd::delay_next`]).
#[derive(Default)]
pub struct DelayedEnd {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    step: Step,
    /// What each client has said of a request that is not complete.
    incomplete: HashMap<u64, Vec<u8>>,
    late: Option<Late>,
    released: bool,
    half: Half,
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
    AskedAgain,
    /// One `Produce` of the next transaction has passed, and no other does.
    HalfWritten,
}

/// Of the transaction that is half written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Half {
    /// Where its first `Produce` passed.
    connection: Option<u64>,
    answered: bool,
    waiting: usize,
}

struct Late {
    connection: u64,
    answer: Option<i16>,
}

impl DelayedEnd {
    /// Withholds the next `EndTxn`.
    pub fn delay_next(&self) {
        let mut state = self.lock();
        *state = State {
            step: Step::Armed,
            incomplete: std::mem::take(&mut state.incomplete),
            ..State::default()
        };
    }

    /// How far the story has come.
    #[must_use]
    pub fn step(&self) -> Step {
        self.lock().step
    }

    /// Whether one part of the next transaction is written, and another one waits.
    #[must_use]
    pub fn is_half_written(&self) -> bool {
        let state = self.lock();
        state.step == Step::HalfWritten && state.half.answered && state.half.waiting > 0
    }

    /// Hands on the withheld `EndTxn`.
    pub fn release(&self) {
        self.lock().released = true;
        self.changed.notify_all();
    }

    /// Kafka's error code for the withheld `EndTxn`, once it is there; 0 is success.
    #[must_use]
    pub fn late_answer(&self) -> Option<i16> {
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
            (Step::Withheld, END_TXN) => state.step = Step::AskedAgain,
            (Step::AskedAgain, PRODUCE) => {
                state.step = Step::HalfWritten;
                state.half = Half {
                    connection: Some(connection),
                    ..Half::default()
                };
            }
            (Step::HalfWritten, PRODUCE) => {
                state.half.waiting += 1;
                drop(self.wait_while(state, |state| state.step == Step::HalfWritten));
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

impl Rule for DelayedEnd {
    fn to_server(&self, connection: u64, said: &[u8], ends: Ends<'_>) -> Result<()> {
        let mut bytes = self.lock().incomplete.remove(&connection).unwrap_or_default();
        bytes.extend_from_slice(said);
        while let Some(length) = request_length(&bytes) {
            let rest = bytes.split_off(length);
            self.request(connection, &bytes, ends)?;
            bytes = rest;
        }
        self.lock().incomplete.insert(connection, bytes);
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
        // Nothing else is asked on that connection meanwhile.
        state.half.answered |= state.half.connection == Some(connection);
        drop(state);
        client.write_all(said)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

// From Kafka's protocol: a request is its length (4 bytes), its kind (2), the kind's version (2), a number that
// its answer repeats (4), and the rest. The answer to EndTxn before version 3 is its length (4), that number
// (4), a throttle time (4) and an error code (2).
const PRODUCE: i16 = 0;
const END_TXN: i16 = 26;

fn request_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?);
    let whole = 4 + usize::try_from(length).ok()?;
    (bytes.len() >= whole).then_some(whole)
}

fn api_key(request: &[u8]) -> i16 {
    request
        .get(4..6)
        .and_then(<[u8]>::first_chunk)
        .map_or(-1, |key| i16::from_be_bytes(*key))
}

fn end_txn_error(answer: &[u8]) -> Option<i16> {
    answer
        .get(12..14)
        .and_then(<[u8]>::first_chunk)
        .map(|code| i16::from_be_bytes(*code))
}
