//! Long response of one JSON value per line, produced while the client reads it.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde::Serialize;

use crate::{api::Api, ledger::Ledger};

/// Number of lines per frame. The ledger is locked for one frame at a time, so payments wait no longer than
/// that.
const LINES_PER_FRAME: usize = 256;

/// Response body of the lines with the given numbers.
pub(crate) struct Lines<I, F> {
    numbers: I,
    api: Arc<Api>,
    line: F,
}

impl<I, F, L> Lines<I, F>
where
    I: Iterator<Item = u32>,
    F: Fn(&Ledger, u32) -> L,
    L: Serialize,
{
    pub(crate) fn new(numbers: I, api: Arc<Api>, line: F) -> Self {
        Lines { numbers, api, line }
    }

    fn frame(&mut self) -> Option<Bytes> {
        let numbers: Vec<u32> = self.numbers.by_ref().take(LINES_PER_FRAME).collect();
        // An empty frame would not end the body.
        if numbers.is_empty() {
            return None;
        }
        // The lock is released before the lines are serialized.
        let lines: Vec<L> = {
            let ledger = self.api.ledger();
            numbers
                .into_iter()
                .map(|number| (self.line)(&ledger, number))
                .collect()
        };
        let mut text = Vec::with_capacity(lines.len() * 256);
        for line in lines {
            serde_json::to_writer(&mut text, &line).expect("our types are representable in JSON");
            text.push(b'\n');
        }
        Some(text.into())
    }
}

impl<I, F, L> Body for Lines<I, F>
where
    I: Iterator<Item = u32> + Unpin,
    F: Fn(&Ledger, u32) -> L + Unpin,
    L: Serialize,
{
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.frame().map(|text| Ok(Frame::data(text))))
    }
}
