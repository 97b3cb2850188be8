//! Rules for the existence of topics and their partition counts.

use super::Rules;
use crate::topics::{Purpose, TopicDescription};

impl Rules<'_> {
    /// Refuses a topic that is configured for two purposes.
    pub(super) fn each_topic_once(&mut self) {
        for (at, purpose) in Purpose::ALL.into_iter().enumerate() {
            let name = purpose.name(self.required.topics);
            if let Some(other) = Purpose::ALL[..at]
                .iter()
                .find(|other| other.name(self.required.topics) == name)
            {
                self.refuse(
                    purpose,
                    format!("is configured for two purposes, {other:?} and {purpose:?}"),
                    "a program would read its own records, or those of another program, as its input",
                    "give each setting in [topics] a name of its own".into(),
                );
            }
        }
    }

    /// Refuses a missing topic.
    pub(super) fn missing(&mut self, purpose: Purpose) {
        self.refuse(
            purpose,
            "does not exist, or this user may not describe it".into(),
            "a broker that creates topics automatically would give it a partition count and a cleanup policy \
             that break the guarantees",
            "outbox --config FILE topics create".into(),
        );
    }

    /// Refuses partition counts that move keys to other partitions.
    pub(super) fn partitions(&mut self, purpose: Purpose, topic: &TopicDescription) {
        if purpose.has_one_partition() && topic.partitions != 1 {
            let setting = match purpose {
                Purpose::Operations => "topics.operations",
                _ => "topics.control",
            };
            self.refuse(
                purpose,
                format!("has {} partitions", topic.partitions),
                "its records are read in their order, and only from its first partition",
                format!(
                    "Kafka cannot remove partitions: name a new topic in [topics] as {setting}, and create it \
                     with outbox --config FILE topics create"
                ),
            );
        }
        let must_equal_orders = matches!(purpose, Purpose::Pending | Purpose::Changelog);
        if let Some(orders) = self.described(Purpose::Orders)
            && must_equal_orders
            && topic.partitions != orders.partitions
        {
            let (has, should) = (topic.partitions, orders.partitions);
            let name = purpose.name(self.required.topics);
            let repair = if has < should {
                format!(
                    "stop the producers and the programs: kafka-topics.sh --bootstrap-server {} --alter --topic \
                     {name} --partitions {should}. If an order was admitted before, its key may have another \
                     partition now: then move the keys with outbox state repartition",
                    self.required.bootstrap_servers
                )
            } else {
                format!(
                    "Kafka cannot remove partitions: name a new topic with {should} partitions in \
                     [topics], before the first order is admitted"
                )
            };
            self.refuse(
                purpose,
                format!(
                    "has {has} partitions, and the orders topic {} has {should}",
                    self.required.topics.orders
                ),
                "each record is written to the partition of its order, where its key is looked up and its \
                 store is rebuilt from",
                repair,
            );
        }
    }
}
