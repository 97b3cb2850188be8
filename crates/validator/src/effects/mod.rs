//! Execution of the state machine's actions.

pub(crate) mod output_records;
pub(crate) mod perform;
