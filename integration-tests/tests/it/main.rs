//! The guarantees, on a real Kafka, with real processes that are killed.
