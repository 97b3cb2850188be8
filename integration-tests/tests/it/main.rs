//! The guarantees, on a real Kafka, with real processes that are killed.
//!
//! One module per guarantee or pair of them. Tests take turns: each loads the machine, and a time that one
//! may take says nothing while another is at work.

mod asking;
mod coordinator;
mod end_txn;
mod high_watermark;
mod one_by_one;
mod outages;
mod poison;
mod refusals;
mod replaced;
mod restores;
mod secrets;
mod settings;
mod shutdown;
mod stage_one;
mod stage_two;
mod stubborn;

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;

static TURN: Mutex<()> = Mutex::new(());

/// Runs a story when no other does, and fails with its whole chain of errors.
fn in_turn(story: impl FnOnce() -> Result<()>) {
    // A story that failed has cleaned up after itself.
    let _turn: MutexGuard<'_, ()> = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = story() {
        panic!("{error:#}");
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
