//! Behaviour that operators rely on beside the guarantees: shutdown, outages, group membership and secrets.

mod instance_id_conflict;
mod outages;
mod pause;
mod quiet_topics;
mod rolling_upgrade;
mod secrets;
mod shutdown;
mod unassigned_partitions;
mod watched;
