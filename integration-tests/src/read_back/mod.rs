//! What Kafka and the validators' stores hold, read back after and during a run.

pub mod group_generations;
pub mod stores;
pub mod tail;
pub mod topics;
