//! Shutdown, outages, group membership and secrets: what an operator relies on beside the guarantees.

mod instance_id_conflict;
mod outages;
mod secrets;
mod shutdown;
mod unassigned_partitions;
