//! Rules for replicas: the failures of brokers that lose no record.

use super::Rules;
use crate::topics::{Purpose, TopicDescription};

/// Repair that survives one broker that is down and another one that loses its disk.
const THREE_REPLICAS: &str = "on a cluster of three brokers or more: kafka-reassign-partitions.sh to three \
                              replicas, and min.insync.replicas=2. For a trial this may stay as it is";

impl Rules<'_> {
    /// Warns of settings that lose acknowledged records or block writes; refuses unclean elections.
    pub(super) fn replication(&mut self, purpose: Purpose, topic: &TopicDescription) {
        let replicas = topic.replication_factor;
        if replicas <= 1 {
            self.warn(
                purpose,
                "is on one broker only (replication factor 1)".into(),
                "the loss of that broker's disk loses its records, and with them the knowledge of which \
                 orders were paid",
                THREE_REPLICAS.into(),
            );
        }
        let in_sync_min = topic.number("min.insync.replicas").unwrap_or(1);
        let in_sync_min = usize::try_from(in_sync_min).unwrap_or(0);
        let what = format!("has min.insync.replicas={in_sync_min} and {replicas} replicas");
        let repair = match replicas {
            0..=2 => THREE_REPLICAS.into(),
            _ => self.alter(purpose, "min.insync.replicas=2"),
        };
        if in_sync_min > replicas {
            // Measured on Kafka 4.1: with one replica and min.insync.replicas=3 a record is acknowledged.
            self.warn(
                purpose,
                what,
                "newer brokers reduce it to the number of replicas, so that it promises more safety than \
                 there is; older ones accept no record at all",
                repair,
            );
        } else if replicas > 1 && in_sync_min == replicas {
            self.warn(
                purpose,
                what,
                "no record can be written to it while one broker is down or restarts",
                repair,
            );
        } else if replicas > 1 && in_sync_min < 2 {
            self.warn(
                purpose,
                what,
                "a record may be acknowledged by one broker alone, and lost with its disk: which orders were \
                 admitted or paid is then unknown",
                repair,
            );
        }
        if replicas > 1 && topic.config("unclean.leader.election.enable") == Some("true") {
            let what = "has unclean.leader.election.enable=true".to_owned();
            let why = "after an outage a broker that lacks acknowledged records may become leader: they are \
                       lost without a trace, and an order may be lost or paid twice";
            let repair = self.alter(purpose, "unclean.leader.election.enable=false");
            match purpose {
                Purpose::Orders
                | Purpose::Pending
                | Purpose::Changelog
                | Purpose::Control
                | Purpose::Operations => {
                    self.refuse(purpose, what, why, repair);
                }
                Purpose::OrderDeadLetters
                | Purpose::Processed
                | Purpose::CallDeadLetters
                | Purpose::Parked => {
                    self.warn(purpose, what, why, repair);
                }
            }
        }
    }
}

/// Returns the `min.insync.replicas` of a new topic, with which it stays writable while one broker is down.
pub(in crate::topics) const fn creatable_in_sync_min(replicas: usize) -> usize {
    if replicas >= 3 { 2 } else { 1 }
}
