//! Rules for the changelog: keys are removed by the validators that have forgotten them, and by nothing else.

use super::Rules;
use crate::topics::{CHANGELOG_CONFIGS, Purpose, Severity, TopicDescription};

impl Rules<'_> {
    /// Refuses a changelog that loses keys, or from which a validator cannot remove those that it has forgotten.
    pub(super) fn changelog(&mut self, purpose: Purpose, topic: &TopicDescription) {
        if purpose != Purpose::Changelog {
            return;
        }
        let policy = topic.config("cleanup.policy").unwrap_or("delete");
        let has = |name| policy.split(',').any(|part| part.trim() == name);
        let (compact, delete) = (has("compact"), has("delete"));
        if !compact {
            self.refuse(
                purpose,
                format!("has cleanup.policy={policy}"),
                "Kafka does not compact it, and may delete its records by age: a store that is rebuilt from the rest does \
                 not know the older orders, and they would be paid twice",
                self.alter_changelog(),
            );
        }
        // A negative number is no limit.
        let limit = ["retention.ms", "retention.bytes"]
            .into_iter()
            .find_map(|name| Some((name, topic.number(name).filter(|limit| *limit >= 0)?)));
        if let Some((name, limit)) = limit.filter(|_| compact && delete) {
            self.refuse(
                purpose,
                format!("has cleanup.policy={policy} and {name}={limit}"),
                "a broker also deletes keys, by its own clock or by their size: a rebuilt store would not know these \
                 orders, and they would be paid twice",
                self.alter_changelog(),
            );
        }
        if compact && !delete && self.required.forgets_keys != Some(false) {
            let severity = self.if_forgetting();
            self.add(
                severity,
                purpose,
                format!("has cleanup.policy={policy}"),
                "a validator with store.retention cannot delete the keys that it has forgotten, so that it does not start \
                 (with store.retention = \"off\" this policy is right)",
                self.alter_changelog(),
            );
        }
        self.recorded_times(topic);
    }

    /// Finds settings by which a broker does not keep the times at which keys are recorded.
    fn recorded_times(&mut self, topic: &TopicDescription) {
        let severity = self.if_forgetting();
        if let Some(by_broker) = topic
            .config("message.timestamp.type")
            .filter(|by| *by == "LogAppendTime")
        {
            self.add(
                severity,
                Purpose::Changelog,
                format!("has message.timestamp.type={by_broker}"),
                "the time of a record is then that of the broker's clock: a wrong one would have keys forgotten whose orders \
                 can come again",
                self.alter_changelog(),
            );
        }
        let limits = [
            "message.timestamp.before.max.ms",
            "message.timestamp.after.max.ms",
        ];
        let limit = limits
            .into_iter()
            .find_map(|name| Some((name, topic.number(name).filter(|limit| *limit != i64::MAX)?)));
        if let Some((name, limit)) = limit {
            self.add(
                severity,
                Purpose::Changelog,
                format!("refuses records by their time ({name}={limit})"),
                "the entry of an order has the order's time: if a broker refuses it, the transaction is repeated for ever, \
                 and its partition stands still",
                self.alter_changelog(),
            );
        }
    }

    fn if_forgetting(&self) -> Severity {
        match self.required.forgets_keys {
            Some(true) => Severity::Refuse,
            Some(false) | None => Severity::Warn,
        }
    }

    /// Returns the command that sets all that the changelog needs.
    // At once: with `delete` in the policy and the limit still there, a broker would delete keys.
    fn alter_changelog(&self) -> String {
        let configs = CHANGELOG_CONFIGS.map(|(name, value)| match value.contains(',') {
            true => format!("{name}=[{value}]"),
            false => format!("{name}={value}"),
        });
        self.alter(Purpose::Changelog, &format!("'{}'", configs.join(",")))
    }
}
