//! The send latch: proof that a request never left.
//!
//! An HTTP client that fails does not say whether the server has seen the request. The request body is
//! therefore wrapped around one atomic. The connection *claims* the request when it asks for the body; the
//! caller *cancels* it when the request has failed. Only one of the two succeeds. If the cancel does, no byte
//! of the body was sent and none will be: the server has at most the head of a request whose body never
//! arrives.
//!
//! The claim is also the last moment at which a request can be stopped. It is refused once the ownership
//! lease has expired, however long connecting took.

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

/// The atomics that `gate.rs` is compiled with; `model.rs` replaces them with loom's.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU8, Ordering};
}

use gate::Gate;
pub(crate) use gate::SendState;

/// The latch of one request: decides once whether the request is sent.
#[derive(Debug)]
pub(crate) struct Latch {
    gate: Gate,
    permit: SendPermit,
}

impl Latch {
    /// Returns the latch of a request that may leave while `permit` is valid.
    pub(crate) fn new(permit: SendPermit) -> Arc<Self> {
        let gate = Gate::new();
        Arc::new(Self { gate, permit })
    }

    /// Cancels a request that ended without a response, and returns whether it was sent. The result is final.
    pub(crate) fn cancel(&self) -> SendState {
        self.gate.cancel()
    }

    /// Reports whether the body was handed to the connection.
    #[cfg(feature = "failpoints")]
    pub(crate) fn is_sent(&self) -> bool {
        self.gate.is_sent()
    }

    /// Claims the request for the connection. Returns whether it may have the body.
    fn claim(&self, now: Instant) -> bool {
        // Checked here and not before connecting: a slow connect can outlast the lease, and the next owner of
        // the partition would send the same call. The failpoint removes the guard, so that a test can show it
        // matters.
        self.gate
            .claim(self.permit.is_valid(now) || guard_removed!("guard-ownership-lease"))
    }
}

/// Permission to send requests for one assigned partition, valid until its ownership lease expires. Clones
/// share one state.
#[derive(Clone, Debug)]
pub(crate) struct SendPermit {
    epoch: Instant,
    /// Expiry in nanoseconds since `epoch`; 0: not valid.
    until: Arc<AtomicU64>,
}

impl SendPermit {
    /// Returns a permit that is not valid yet. `epoch` is any time before all others that it is used with.
    pub(crate) fn new(epoch: Instant) -> Self {
        let until = Arc::new(AtomicU64::new(0));
        Self { epoch, until }
    }

    /// Makes the permit valid until the given time.
    pub(crate) fn extend(&self, until: Instant) {
        // Release pairs with the Acquire in `is_valid`: a connection task that sees the new lease also sees
        // what the run loop wrote before it.
        self.until.store(self.nanos(until), Ordering::Release);
    }

    /// Revokes the permit: no further request leaves, including those that are connecting.
    pub(crate) fn withhold(&self) {
        self.until.store(0, Ordering::Release);
    }

    fn is_valid(&self, now: Instant) -> bool {
        // Strictly before, as in the pipeline: the lease does not include its end.
        self.nanos(now) < self.until.load(Ordering::Acquire)
    }

    fn nanos(&self, at: Instant) -> u64 {
        // An Instant fits into no atomic. 64 bits of nanoseconds last for 584 years of uptime.
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A request body in one piece, released only through its latch.
pub(crate) struct LatchedBody {
    bytes: Option<Bytes>,
    latch: Arc<Latch>,
}

/// Error given to the connection when it asks for the body of a cancelled or withheld request.
#[derive(Debug)]
pub(crate) struct BodyWithheld;

impl LatchedBody {
    /// Wraps a body, which must not be empty.
    pub(crate) fn new(bytes: Bytes, latch: Arc<Latch>) -> Self {
        // hyper never polls a body of size 0: the latch would report `NotSent` for a request that the server
        // has processed.
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
    type Error = BodyWithheld;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyWithheld>>> {
        // `take`, so that a second poll ends the body instead of sending it twice.
        let Some(bytes) = self.bytes.take() else {
            return Poll::Ready(None);
        };
        freeze_at!("frozen-before-send");
        // The clock is read after everything that can take time.
        Poll::Ready(Some(match self.latch.claim(Instant::now()) {
            true => {
                service::failpoint::kill_at!("before-send");
                Ok(Frame::data(bytes))
            }
            false => Err(BodyWithheld),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // An exact size makes hyper send Content-Length. Many legacy servers refuse chunked bodies.
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

impl fmt::Display for BodyWithheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was stopped before its body was sent")
    }
}

impl std::error::Error for BodyWithheld {}

impl From<Infallible> for BodyWithheld {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Duration;

    use super::*;

    fn valid_permit() -> SendPermit {
        let permit = SendPermit::new(Instant::now());
        permit.extend(Instant::now() + Duration::from_secs(60));
        permit
    }

    fn poll(body: &mut LatchedBody) -> Option<bool> {
        match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(frame) => frame.map(|frame| frame.is_ok()),
            Poll::Pending => unreachable!("a latched body never waits"),
        }
    }

    #[test]
    fn claimed_body_is_sent_and_cancelled_body_never_is() {
        let latch = Latch::new(valid_permit());
        let mut body = LatchedBody::new(Bytes::from_static(b"{}"), Arc::clone(&latch));
        assert_eq!((poll(&mut body), poll(&mut body)), (Some(true), None));
        assert_eq!(latch.cancel(), SendState::Sent);

        let latch = Latch::new(valid_permit());
        let mut body = LatchedBody::new(Bytes::from_static(b"{}"), Arc::clone(&latch));
        assert_eq!(latch.cancel(), SendState::NotSent);
        assert_eq!(poll(&mut body), Some(false));
        assert_eq!(latch.cancel(), SendState::NotSent);
    }

    #[test]
    fn expired_permit_withholds_the_request() {
        let permit = SendPermit::new(Instant::now());
        let send_state = |permit: &SendPermit| {
            let latch = Latch::new(permit.clone());
            poll(&mut LatchedBody::new(
                Bytes::from_static(b"{}"),
                Arc::clone(&latch),
            ));
            latch.cancel()
        };
        assert_eq!(
            send_state(&permit),
            SendState::Withheld,
            "a new permit is not valid"
        );
        permit.extend(Instant::now() + Duration::from_secs(60));
        assert_eq!(send_state(&permit), SendState::Sent);
        permit.extend(Instant::now());
        assert_eq!(send_state(&permit), SendState::Withheld);
        permit.extend(Instant::now() + Duration::from_secs(60));
        permit.withhold();
        assert_eq!(send_state(&permit), SendState::Withheld);
    }
}
