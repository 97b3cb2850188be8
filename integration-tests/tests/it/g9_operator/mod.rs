//! G9: what an operator does charges no order twice.

mod deleted_outcomes;
mod drill;
mod reconciled_calls;
mod redelivered_calls;
mod replayed_calls;
mod replayed_dead_letters;
mod second_group;
mod settled_calls;
