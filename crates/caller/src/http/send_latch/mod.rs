//! The send latch: proof that a request never left.
//!
//! An HTTP client that fails does not tell whether the server has seen the request. So the body is wrapped
//! around one atomic. When the connection asks for the body, it *claims* that the request is being sent;
//! when the request has failed, the caller *cancels*. Only one of the two can win. If the cancel wins,
//! not a byte of the body was sent, and none will be: a server has at most the head of a request whose body
//! never comes.
//!
//! The claim is also the last moment at which a request can be held back. It is refused once the ownership
//! deadline has passed, however long connecting took.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use service::failpoint::{freeze_at, guard_removed};

mod gate;
#[cfg(test)]
mod model;

/// What `gate.rs` is made of.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU8, Ordering};
}

pub(crate) use gate::Fate;
use gate::Gate;

/// Whether one request may leave, and whether it has.
#[derive(Debug)]
pub(crate) struct Latch {
    gate: Gate,
    permit: ExtendLease,
}

impl Latch {
    /// A request that may leave as long as `permit` says so.
    pub(crate) fn new(permit: ExtendLease) -> Arc<Self> {
        let gate = Gate::new();
        Arc::new(Self { gate, permit })
    }

    /// The request has come to an end without an answer: says how far it came, and holds it there.
    pub(crate) fn cancel(&self) -> Fate {
        self.gate.cancel()
    }

    /// Whether the request was handed to the connection.
    #[cfg(feature = "failpoints")]
    pub(crate) fn is_sent(&self) -> bool {
        self.gate.is_sent()
    }

    /// The connection asks for the body: may it have it?
    fn claim(&self, now: Instant) -> bool {
        self.gate
            .claim(self.permit.allows(now) || guard_removed!("guard-ownership-deadline"))
    }
}

/// Until when the requests of one assignment of a partition may leave. Clones are the same permit.
#[derive(Clone, Debug)]
pub(crate) struct ExtendLease {
    epoch: Instant,
    /// Nanoseconds since the epoch; 0 is "not at all".
    until: Arc<AtomicU64>,
}

impl ExtendLease {
    /// A permit that allows nothing yet. `epoch` is any time before those that it is asked about.
    pub(crate) fn new(epoch: Instant) -> Self {
        let until = Arc::new(AtomicU64::new(0));
        Self { epoch, until }
    }

    /// Requests may leave until then.
    pub(crate) fn extend(&self, until: Instant) {
        self.until.store(self.nanos(until), Ordering::Release);
    }

    /// No request may leave any more.
    pub(crate) fn withhold(&self) {
        self.until.store(0, Ordering::Release);
    }

    fn allows(&self, now: Instant) -> bool {
        self.nanos(now) < self.until.load(Ordering::Acquire)
    }

    fn nanos(&self, at: Instant) -> u64 {
        // 584 years fit.
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A request's body, in one piece.
pub(crate) struct LatchedBody {
    bytes: Option<Bytes>,
    latch: Arc<Latch>,
}

/// The connection came for the body after the request was cancelled or withheld.
#[derive(Debug)]
pub(crate) struct HeldBack;

impl LatchedBody {
    /// A body that leaves only through `latch`. It is not empty, or nobody would ask for it.
    pub(crate) fn new(bytes: Bytes, latch: Arc<Latch>) -> Self {
        debug_assert!(
            !bytes.is_empty(),
            "an empty body is never asked for, so nothing would be proved"
        );
        Self {
            bytes: Some(bytes),
            latch,
        }
    }
}

impl Body for LatchedBody {
    type Data = Bytes;
    type Error = HeldBack;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HeldBack>>> {
        let Some(bytes) = self.bytes.take() else {
            return Poll::Ready(None);
        };
        freeze_at!("frozen-before-send");
        Poll::Ready(Some(match self.latch.claim(Instant::now()) {
            true => {
                service::failpoint::kill_at!("before-send");
                Ok(Frame::data(bytes))
            }
            false => Err(HeldBack),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was held back before it left")
    }
}

impl std::error::Error for HeldBack {}

impl From<Infallible> for HeldBack {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Duration;

    use super::*;

    fn permitted() -> ExtendLease {
        let permit = ExtendLease::new(Instant::now());
        permit.extend(Instant::now() + Duration::from_secs(60));
        permit
    }

    fn poll(body: &mut LatchedBody) -> Option<bool> {
        match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(frame) => frame.map(|frame| frame.is_ok()),
            Poll::Pending => unreachable!("the body is there or not"),
        }
    }

    #[test]
    fn what_was_asked_for_was_sent_and_what_was_cancelled_never_is() {
        let latch = Latch::new(permitted());
        let mut body = LatchedBody::new(Bytes::from_static(b"{}"), Arc::clone(&latch));
        assert_eq!((poll(&mut body), poll(&mut body)), (Some(true), None));
        assert_eq!(latch.cancel(), Fate::Sent);

        let latch = Latch::new(permitted());
        let mut body = LatchedBody::new(Bytes::from_static(b"{}"), Arc::clone(&latch));
        assert_eq!(latch.cancel(), Fate::NotSent);
        assert_eq!(poll(&mut body), Some(false));
        assert_eq!(latch.cancel(), Fate::NotSent);
    }

    #[test]
    fn past_the_deadline_nothing_leaves() {
        let permit = ExtendLease::new(Instant::now());
        let fate = |permit: &ExtendLease| {
            let latch = Latch::new(permit.clone());
            poll(&mut LatchedBody::new(
                Bytes::from_static(b"{}"),
                Arc::clone(&latch),
            ));
            latch.cancel()
        };
        assert_eq!(fate(&permit), Fate::Withheld, "a new permit allows nothing");
        permit.extend(Instant::now() + Duration::from_secs(60));
        assert_eq!(fate(&permit), Fate::Sent);
        permit.extend(Instant::now());
        assert_eq!(fate(&permit), Fate::Withheld);
        permit.extend(Instant::now() + Duration::from_secs(60));
        permit.withhold();
        assert_eq!(fate(&permit), Fate::Withheld);
    }
}
