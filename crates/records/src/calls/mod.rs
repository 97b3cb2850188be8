//! Records of stage two, all written by the caller: outcomes, dead letters, parked calls, deferred copies and
//! call notes.

pub mod call_dead_letter;
pub mod call_note;
pub mod continuation;
pub mod outcome;
pub mod parked;
