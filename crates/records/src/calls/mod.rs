//! Records of stage two: outcomes, dead letters, parked calls, deferred copies and call notes of the caller, and
//! the operator's settlements of parked calls.

pub mod call_dead_letter;
pub mod call_note;
pub mod continuation;
pub mod outcome;
pub mod parked;
pub mod settlement;
