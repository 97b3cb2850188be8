//! Records that the caller writes: outcomes, call dead letters, parked calls, deferred copies, call notes.

pub mod call_dead_letter;
pub mod call_note;
pub mod continuation;
pub mod outcome;
pub mod parked;
