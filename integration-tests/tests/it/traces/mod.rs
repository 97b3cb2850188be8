//! Traces of orders: one from the producer's header to the API, which nothing waits for.

mod one_trace;
mod receiver;
mod waterfall;
