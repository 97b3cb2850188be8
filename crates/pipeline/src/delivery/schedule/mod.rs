//! State of the delivery beside its partitions: what waits, what is in flight, and what is due.
//!
//! Each part keeps one invariant; `machine` brings them together.

mod commit_schedule;
mod deferral_queue;
mod drains;
mod intent_window;
mod look_ups;
mod requests;
mod send_queues;

pub(super) use commit_schedule::{CommitInFlight, CommitSchedule};
pub(super) use deferral_queue::DeferralQueue;
pub(super) use drains::Drains;
pub(super) use intent_window::{IntentWindow, Slots};
pub(super) use look_ups::LookUps;
pub(super) use requests::{Known, KnownResult, Requests};
pub(super) use send_queues::{End, Recall, SendQueues};
