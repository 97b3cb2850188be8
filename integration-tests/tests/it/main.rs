//! The guarantees G1 to G9, tested on a real Apache Kafka with real processes that are killed.
//!
//! There is one folder for each guarantee or group of guarantees. Each file begins with its scenario: what is
//! set up, what is killed or broken, what must hold, and which guard's removal makes the scenario fail.

mod assertions;
mod fixtures;
mod g1_g2_exactly_once;
mod g3_restore;
mod g4_g7_calls;
mod g8_fail_closed;
mod g9_operator;
mod operations;
mod security;
mod single_order_transactions;
mod traces;

use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::Result;

/// Maximum number of scenarios that run at the same time.
// Most of its time a scenario waits for a session, a transaction or a restart: four at a time leave a third of two
// cores idle, the broker included. `scripts/test` starts as many. Six take a fifth less time, and one that waits for a
// refusal of the broker has then run out of its own once.
const CONCURRENT_SCENARIOS_MAX: usize = 4;

static RUNNING: Mutex<usize> = Mutex::new(0);
static SLOT_RELEASED: Condvar = Condvar::new();

/// Runs a scenario as soon as a slot is free, and panics with the whole chain of causes if it fails.
fn run(scenario: impl FnOnce() -> Result<()>) {
    // A scenario that fails panics outside the lock, so a poisoned lock still holds a correct count.
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut running = SLOT_RELEASED
        .wait_while(running, |running| *running >= CONCURRENT_SCENARIOS_MAX)
        .unwrap_or_else(PoisonError::into_inner);
    *running += 1;
    drop(running);
    let _slot = Slot;
    if let Err(error) = scenario() {
        panic!("{error:#}");
    }
}

/// Slot of a running scenario.
struct Slot;

impl Drop for Slot {
    // In a destructor, so that a scenario that panics releases its slot too.
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        SLOT_RELEASED.notify_one();
    }
}

/// Returns the seed of a random scenario: that of `OUTBOX_TEST_SEED`, to repeat a run, or a new one.
fn seed() -> u64 {
    let seed = match std::env::var("OUTBOX_TEST_SEED") {
        Ok(text) => text.parse().expect("OUTBOX_TEST_SEED is a number"),
        Err(_) => rand::random_range(0..1_000_000),
    };
    println!("to repeat this scenario: OUTBOX_TEST_SEED={seed}");
    seed
}
