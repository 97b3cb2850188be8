//! The guarantees, on a real Kafka, with real processes that are killed.
//!
//! One module per guarantee or pair of them. Tests take turns: each loads the machine.

mod assertions;
mod g1_g2_exactly_once;
mod g3_restore;
mod g4_g7_calls;
mod g8_fail_closed;
mod operations;
mod single_order_transactions;

use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::Result;

/// So many stories are told at a time. Most of their time they wait for a session, a transaction or a restart; more of
/// them would load two cores so that what each waits for takes longer.
const AT_A_TIME: usize = 2;

static TOLD_NOW: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Runs a story when its turn has come, and fails with its whole chain of errors.
fn in_turn(story: impl FnOnce() -> Result<()>) {
    let told_now = TOLD_NOW.lock().unwrap_or_else(PoisonError::into_inner);
    let mut told_now = ENDED
        .wait_while(told_now, |told_now| *told_now >= AT_A_TIME)
        .unwrap_or_else(PoisonError::into_inner);
    *told_now += 1;
    drop(told_now);
    let _turn = Turn;
    if let Err(error) = story() {
        panic!("{error:#}");
    }
}

/// Gives the turn to another story, also where one has panicked.
struct Turn;

impl Drop for Turn {
    fn drop(&mut self) {
        *TOLD_NOW.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// The seed of a random story: a fresh one, or that of `OUTBOX_TEST_SEED` to see a story again.
fn seed() -> u64 {
    let seed = match std::env::var("OUTBOX_TEST_SEED") {
        Ok(text) => text.parse().expect("OUTBOX_TEST_SEED is a number"),
        Err(_) => rand::random_range(0..1_000_000),
    };
    println!("to see this story again: OUTBOX_TEST_SEED={seed}");
    seed
}
