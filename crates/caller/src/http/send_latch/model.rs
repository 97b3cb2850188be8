//! Model check of the send latch: loom runs every interleaving of the connection and the caller.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use gate::{Gate, SendState};

/// The atomics that this copy of `gate.rs` is compiled with.
mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU8, Ordering};
}

#[path = "gate.rs"]
#[allow(
    clippy::duplicate_mod,
    reason = "compiled once with the standard atomics, once with those of loom"
)]
mod gate;

/// A request in transit: its gate, its permit, and the wire that a claimed body goes to.
struct Fixture {
    gate: Gate,
    is_permitted: AtomicBool,
    wire: AtomicBool,
}

/// Runs all interleavings of a connection that claims the body, and of a caller that does `meanwhile` and
/// then cancels. The reported state must agree with the wire.
fn check(is_permitted: bool, meanwhile: fn(&Fixture), retried: bool) {
    loom::model(move || {
        let fixture = Arc::new(Fixture {
            gate: Gate::new(),
            is_permitted: AtomicBool::new(is_permitted),
            wire: AtomicBool::new(false),
        });
        let connection = thread::spawn({
            let fixture = Arc::clone(&fixture);
            move || {
                let is_claimed = fixture.gate.claim(fixture.is_permitted.load(Ordering::Acquire));
                if is_claimed {
                    fixture.wire.store(true, Ordering::Release);
                }
                // hyper may poll the body again, and must get nothing.
                assert!(!(retried && fixture.gate.claim(true)), "two bodies left");
                is_claimed
            }
        });
        meanwhile(&fixture);
        let send_state = fixture.gate.cancel();
        let is_claimed = connection.join().expect("the connection");
        let has_left = fixture.wire.load(Ordering::Acquire);
        assert_eq!(has_left, is_claimed);
        assert_eq!(has_left, send_state == SendState::Sent, "reported {send_state:?}");
        assert_eq!(fixture.gate.cancel(), send_state, "the state changes");
    });
}

#[test]
fn exactly_one_of_claim_and_cancel_succeeds() {
    check(true, |_| {}, false);
    check(true, |_| {}, true);
}

#[test]
fn withheld_request_has_not_left() {
    check(false, |_| {}, true);
    check(
        true,
        |fixture| fixture.is_permitted.store(false, Ordering::Release),
        false,
    );
}
