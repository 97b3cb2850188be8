//! G9: what an operator does charges no order twice.

mod settled_calls;
