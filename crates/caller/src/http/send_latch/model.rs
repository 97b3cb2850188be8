//! Every order in which the connection and the caller can meet at the latch, played by loom.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use gate::{Fate, Gate};

/// What `gate.rs` is compiled with here.
mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU8, Ordering};
}

#[path = "gate.rs"]
#[allow(
    clippy::duplicate_mod,
    reason = "once with the atomics of the machine, once with those of loom"
)]
mod gate;

/// A request on its way: the gate, whether it is ours to send, and the wire that a claimed body goes to.
struct Scene {
    gate: Gate,
    is_permitted: AtomicBool,
    wire: AtomicBool,
}

/// Plays all orders of a connection that asks for the body, and of a caller that does something else
/// meanwhile and then cancels. Whatever it is told must be true of the wire for ever after.
fn check(is_permitted: bool, meanwhile: fn(&Scene), retried: bool) {
    loom::model(move || {
        let scene = Arc::new(Scene {
            gate: Gate::new(),
            is_permitted: AtomicBool::new(is_permitted),
            wire: AtomicBool::new(false),
        });
        let connection = thread::spawn({
            let scene = Arc::clone(&scene);
            move || {
                let is_claimed = scene.gate.claim(scene.is_permitted.load(Ordering::Acquire));
                if is_claimed {
                    scene.wire.store(true, Ordering::Release);
                }
                // hyper may ask again, and gets nothing.
                assert!(!(retried && scene.gate.claim(true)), "two bodies left");
                is_claimed
            }
        });
        meanwhile(&scene);
        let fate = scene.gate.cancel();
        let is_claimed = connection.join().expect("the connection");
        let has_left = scene.wire.load(Ordering::Acquire);
        assert_eq!(has_left, is_claimed);
        assert_eq!(has_left, fate == Fate::Sent, "told {fate:?}");
        assert_eq!(scene.gate.cancel(), fate, "the answer changes");
    });
}

#[test]
fn of_claim_and_cancel_exactly_one_wins_in_every_order() {
    check(true, |_| {}, false);
    check(true, |_| {}, true);
}

#[test]
fn what_is_withheld_has_not_left_in_any_order() {
    check(false, |_| {}, true);
    check(
        true,
        |scene| scene.is_permitted.store(false, Ordering::Release),
        false,
    );
}
