//! Reads back what Kafka and the validators' stores hold, with clients of the harness's own.

pub mod group_generations;
pub mod stores;
pub mod tail;
pub mod topics;
