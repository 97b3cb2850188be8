//! Requirements on the topics, without which the guarantees do not hold. Each program verifies them before it
//! starts, and an operator by `topics verify`.
//!
//! Nothing here connects to Kafka; [`crate::admin`] describes the topics.

use std::collections::BTreeMap;
use std::fmt;

use records::Topics;
use serde::Serialize;

pub mod acls;
pub mod creation;
mod rules;

/// Size that a copied record needs beyond the original, in bytes: the headers that the validator and the
/// caller add, with the text of the last response.
pub const HEADERS_BYTES: u64 = 64 * 1024;

/// Settings of the changelog, by which nothing but a validator removes a key from it, and which take each record time.
// `delete` in the policy lets a validator delete what is forgotten (DeleteRecords). Without limits a broker deletes
// nothing itself: it would go by its own clock, or by the size. Each entry has its order's time, whatever that is.
pub const CHANGELOG_CONFIGS: [(&str, &str); 6] = [
    ("cleanup.policy", "compact,delete"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("message.timestamp.type", "CreateTime"),
    ("message.timestamp.before.max.ms", "9223372036854775807"),
    ("message.timestamp.after.max.ms", "9223372036854775807"),
];

/// Purpose of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Incoming orders, the input of stage one.
    Orders,
    /// Pending calls: the outbox between the stages.
    Pending,
    /// Admitted keys, from which stores are rebuilt.
    Changelog,
    /// Records that are not valid orders.
    OrderDeadLetters,
    /// Outcomes of accepted calls.
    Processed,
    /// Calls that the API rejected.
    CallDeadLetters,
    /// Ambiguous calls that wait for an operator.
    Parked,
    /// Switches by which an operator pauses and resumes the calls.
    Control,
    /// What operators have changed.
    Operations,
}

/// User of the topics, which decides the topics that are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Stage one, from the orders to the outbox.
    Validator,
    /// Stage two, from the outbox to the outcomes.
    Caller,
    /// An operator, for whom all topics are verified.
    Operator,
}

/// Description of an existing topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TopicDescription {
    /// Id that Kafka gave the topic when it was created; `None` if the brokers do not support ids.
    pub id: Option<String>,
    /// Number of partitions of the topic.
    pub partitions: usize,
    /// Number of replicas of the partition that has the fewest.
    pub replication_factor: usize,
    /// All settings, the broker's defaults included.
    pub configs: BTreeMap<String, String>,
}

/// Existing topics by name.
pub type ExistingTopics = BTreeMap<String, TopicDescription>;

/// Requirements that the topics are verified against.
#[derive(Clone, Copy, Debug)]
pub struct Requirements<'a> {
    /// Configured names of the topics.
    pub topics: &'a Topics,
    /// Role whose topics are verified.
    pub role: Role,
    /// Whether the validators forget keys (`store.retention`); `None` if unknown, as to an operator.
    pub forgets_keys: Option<bool>,
    /// Minutes for which the brokers keep the offsets of a group without members; `None` if unknown, or not
    /// to be verified.
    pub offsets_retention_minutes: Option<i64>,
    /// Brokers that do not verify transactions; empty if it is not known.
    pub unverified_brokers: &'a [UnverifiedBroker],
    /// Addresses of the brokers, for the commands that repair.
    pub bootstrap_servers: &'a str,
}

/// Verification by a broker that a record, or an offset, which it appends belongs to an open transaction
/// (`transaction.partition.verification.enable`, KIP-890).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionVerification {
    /// The broker verifies each transaction.
    Enabled,
    /// The setting is off.
    Disabled,
    /// The broker is too old: it has no such setting, or does not verify the offsets of a transaction.
    Unsupported,
    /// The broker does not report the setting.
    NotReported,
}

/// A broker that does not verify transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnverifiedBroker {
    /// Id of the broker.
    pub id: i32,
    /// It has the setting, which is off; otherwise it is too old.
    pub is_disabled: bool,
}

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A guarantee does not hold, so the programs do not start.
    Refuse,
    /// The guarantees hold until another failure occurs.
    Warn,
}

/// A defect of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Consequence for the programs.
    pub severity: Severity,
    /// Name of the topic.
    pub topic: String,
    /// Defect, as a predicate of the topic.
    pub what: String,
    /// Possible consequence for orders and calls.
    pub why: String,
    /// Command or instruction that repairs the defect.
    pub repair: String,
}

/// Verifies the existing topics, and returns the findings, most severe first.
#[must_use]
pub fn verify(required: &Requirements<'_>, existing: &ExistingTopics) -> Vec<Finding> {
    let mut findings = rules::Rules::new(required, existing).findings();
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// Returns `true` if a program must not start with these findings.
#[must_use]
pub fn is_refused(findings: &[Finding]) -> bool {
    findings
        .iter()
        .any(|finding| finding.severity == Severity::Refuse)
}

impl Purpose {
    /// All purposes, in the order in which an order passes the topics.
    pub const ALL: [Self; 9] = [
        Self::Orders,
        Self::Pending,
        Self::Changelog,
        Self::OrderDeadLetters,
        Self::Processed,
        Self::CallDeadLetters,
        Self::Parked,
        Self::Control,
        Self::Operations,
    ];

    /// Returns the configured name of the topic.
    #[must_use]
    pub fn name(self, topics: &Topics) -> &str {
        match self {
            Self::Orders => &topics.orders,
            Self::Pending => &topics.pending,
            Self::Changelog => &topics.changelog,
            Self::OrderDeadLetters => &topics.order_dead_letters,
            Self::Processed => &topics.processed,
            Self::CallDeadLetters => &topics.call_dead_letters,
            Self::Parked => &topics.parked,
            Self::Control => &topics.control,
            Self::Operations => &topics.operations,
        }
    }

    /// Returns whether the topic has one partition, because its records are few and are read in their order.
    const fn has_one_partition(self) -> bool {
        matches!(self, Self::Control | Self::Operations)
    }

    /// Returns the topic whose records are copied to this one, and must fit.
    const fn copied_from(self) -> Option<Self> {
        match self {
            Self::Pending | Self::OrderDeadLetters => Some(Self::Orders),
            Self::Processed | Self::CallDeadLetters | Self::Parked => Some(Self::Pending),
            Self::Orders | Self::Changelog | Self::Control | Self::Operations => None,
        }
    }
}

impl Role {
    /// Returns the purposes of the topics that this role uses.
    #[must_use]
    pub fn purposes(self) -> Vec<Purpose> {
        use Purpose::{
            CallDeadLetters, Changelog, Control, OrderDeadLetters, Orders, Parked, Pending, Processed,
        };
        match self {
            Self::Validator => vec![Orders, Pending, Changelog, OrderDeadLetters],
            Self::Caller => vec![Pending, Processed, CallDeadLetters, Parked, Control],
            Self::Operator => Purpose::ALL.to_vec(),
        }
    }

    /// Returns the names of the topics that this role uses.
    #[must_use]
    pub fn names(self, topics: &Topics) -> Vec<&str> {
        self.purposes()
            .into_iter()
            .map(|purpose| purpose.name(topics))
            .collect()
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuse => "refused",
            Self::Warn => "warning",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} {}\n  why:    {}\n  repair: {}",
            self.severity, self.topic, self.what, self.why, self.repair
        )
    }
}

#[cfg(test)]
mod tests;
