//! What each topic must be like, so that the guarantees hold: checked before a program starts, and by the
//! operator's `topics verify`.
//!
//! Nothing here talks to Kafka; [`crate::admin`] describes the topics.

use std::collections::BTreeMap;
use std::fmt;

use records::Topics;
use serde::Serialize;

pub mod creation;
mod rules;

/// Room that a copied record needs beyond the original: the headers that the validator and the caller add,
/// with the last answer's text.
pub const HEADERS_BYTES: u64 = 64 * 1024;

/// What a topic is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Orders as they arrive.
    Orders,
    /// The outbox.
    Pending,
    /// What each store can be rebuilt from.
    Changelog,
    /// What is no valid order.
    OrderDeadLetters,
    /// Outcomes of accepted calls.
    Processed,
    /// Calls that the API rejected.
    CallDeadLetters,
    /// Calls that wait for a person's decision.
    Parked,
}

/// Who uses the topics, and therefore which ones must be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Stage one: from the orders to the outbox.
    Validator,
    /// Stage two: from the outbox to the outcomes.
    Caller,
    /// A person, for whom all must be right.
    Operator,
}

/// A topic as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Described {
    /// The id that Kafka gave it when it was created; `None` if the brokers tell none.
    pub id: Option<String>,
    /// How many partitions it has.
    pub partitions: usize,
    /// On how many brokers the partition with the fewest replicas lies.
    pub replication_factor: usize,
    /// All its settings, the broker's defaults included.
    pub configs: BTreeMap<String, String>,
}

/// Those of the topics that exist, by name.
pub type Existing = BTreeMap<String, Described>;

/// What is asked of the topics, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Required<'a> {
    /// The topics' names.
    pub topics: &'a Topics,
    /// Who asks.
    pub role: Role,
    /// How many partitions the stores remember that the orders topic had; `None` if there are none yet.
    pub partitions_remembered: Option<usize>,
    /// Where the brokers are; it stands in the commands that repair.
    pub bootstrap_servers: &'a str,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A guarantee does not hold: the programs do not start.
    Refuse,
    /// It works, until something else goes wrong too.
    Warn,
}

/// Something about a topic that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The topic's name.
    pub topic: String,
    /// What is wrong.
    pub what: String,
    /// What may happen because of it.
    pub why: String,
    /// How to put it right.
    pub repair: String,
}

/// Holds the topics against what is required; the worst findings first, and none if all is well.
#[must_use]
pub fn verify(required: &Required<'_>, existing: &Existing) -> Vec<Finding> {
    let mut findings = rules::Rules::new(required, existing).findings();
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// Whether a program must not start.
#[must_use]
pub fn is_refused(findings: &[Finding]) -> bool {
    findings
        .iter()
        .any(|finding| finding.severity == Severity::Refuse)
}

impl Purpose {
    /// In the order in which an order passes them.
    pub const ALL: [Self; 7] = [
        Self::Orders,
        Self::Pending,
        Self::Changelog,
        Self::OrderDeadLetters,
        Self::Processed,
        Self::CallDeadLetters,
        Self::Parked,
    ];

    /// The topic's name.
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
        }
    }

    /// The topic that this one's records are copies of; they must fit.
    const fn copied_from(self) -> Option<Self> {
        match self {
            Self::Pending | Self::OrderDeadLetters => Some(Self::Orders),
            Self::Processed | Self::CallDeadLetters | Self::Parked => Some(Self::Pending),
            Self::Orders | Self::Changelog => None,
        }
    }
}

impl Role {
    /// The topics that must be right.
    #[must_use]
    pub fn purposes(self) -> Vec<Purpose> {
        use Purpose::{CallDeadLetters, Changelog, OrderDeadLetters, Orders, Parked, Pending, Processed};
        match self {
            Self::Validator => vec![Orders, Pending, Changelog, OrderDeadLetters],
            Self::Caller => vec![Pending, Processed, CallDeadLetters, Parked],
            Self::Operator => Purpose::ALL.to_vec(),
        }
    }

    /// Their names.
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
