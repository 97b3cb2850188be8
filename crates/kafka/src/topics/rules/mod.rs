//! Rules for topics. Each finding says what is wrong, why it matters, and which command repairs it.

mod changelog;
mod durability;
mod layout;
mod retention;
mod sizes;
mod transactions;

pub(super) use self::durability::creatable_in_sync_min;
use super::{ExistingTopics, Finding, Purpose, Requirements, Severity, TopicDescription};

/// The rules, and their findings so far.
pub(super) struct Rules<'a> {
    required: &'a Requirements<'a>,
    existing: &'a ExistingTopics,
    findings: Vec<Finding>,
}

impl<'a> Rules<'a> {
    pub(super) fn new(required: &'a Requirements<'a>, existing: &'a ExistingTopics) -> Self {
        Self {
            required,
            existing,
            findings: Vec::new(),
        }
    }

    /// Applies all rules to the topics of the role.
    pub(super) fn findings(mut self) -> Vec<Finding> {
        self.each_topic_once();
        for purpose in self.required.role.purposes() {
            let Some(topic) = self.described(purpose) else {
                self.missing(purpose);
                continue;
            };
            self.partitions(purpose, topic);
            self.cleanup(purpose, topic);
            self.changelog(purpose, topic);
            self.retention(purpose, topic);
            self.offsets(purpose, topic);
            self.outcomes(purpose, topic);
            self.replication(purpose, topic);
            self.sizes(purpose, topic);
            self.timestamps(purpose, topic);
            self.transactions(purpose);
        }
        self.findings
    }

    /// Returns a topic as it is, if the role uses it and it exists.
    fn described(&self, purpose: Purpose) -> Option<&'a TopicDescription> {
        // The caller asks nothing of the topics before the outbox, and may have no permission to describe
        // them.
        let is_used = self.required.role.purposes().contains(&purpose);
        is_used.then(|| self.existing.get(purpose.name(self.required.topics)))?
    }

    /// Returns the command that changes a setting of a topic.
    fn alter(&self, purpose: Purpose, config: &str) -> String {
        format!(
            "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {} \
             --add-config {config}",
            self.required.bootstrap_servers,
            purpose.name(self.required.topics)
        )
    }

    fn refuse(&mut self, purpose: Purpose, what: String, why: &str, repair: String) {
        self.add(Severity::Refuse, purpose, what, why, repair);
    }

    fn warn(&mut self, purpose: Purpose, what: String, why: &str, repair: String) {
        self.add(Severity::Warn, purpose, what, why, repair);
    }

    fn add(&mut self, severity: Severity, purpose: Purpose, what: String, why: &str, repair: String) {
        let topic = purpose.name(self.required.topics).to_owned();
        self.findings.push(Finding {
            severity,
            topic,
            what,
            why: why.to_owned(),
            repair,
        });
    }
}

impl TopicDescription {
    /// Returns the value of a setting.
    fn config(&self, name: &str) -> Option<&str> {
        self.configs.get(name).map(String::as_str)
    }

    /// Returns the value of a numeric setting.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.config(name)?.parse().ok()
    }
}
