//! Behaviour that operators rely on beside the guarantees: shutdown, outages, health checks, group membership and secrets.

mod health;
mod instance_id_conflict;
mod outages;
mod pause;
mod quiet_topics;
mod rolling_upgrade;
mod secrets;
mod shutdown;
mod unassigned_partitions;
mod unreadable_partition;
mod watched;
