//! Checkers: compare the topics and the API's record with the guarantees, and list the violations.
//!
//! Pure functions, except for `findings`, which reads what they need. A checker that cannot fail proves
//! nothing, so a unit test breaks each rule and expects the violation.

pub mod aborted;
pub mod at_most_once;
pub mod atomicity;
pub mod chains;
pub mod expected;
pub mod explain;
pub mod findings;
pub mod order_fingerprint;
pub mod stage_one;
pub mod stage_two;
pub mod stores;

use std::fmt;

/// Guarantees that the checkers cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guarantee {
    /// Each valid idempotency key is in the outbox exactly once.
    G1,
    /// No order is lost.
    G2,
    /// The changelog, and each store, equals the outbox.
    G3,
    /// Each pending call ends in exactly one final state.
    G4,
    /// The API is called at least once, and again only if the last request was surely not processed or is
    /// ambiguous.
    G5,
    /// Under `park` the API processes each order at most once.
    G6,
    /// Under `verify` the API processes each order at most once.
    G7,
}

/// Observable kind of a violation, in the terms of transactional consistency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// Order below the committed offset without a verdict.
    Lost,
    /// Order with two verdicts.
    Duplicated,
    /// Record that differs from its order, or has none.
    Wrong,
    /// Record or store entry derived from an aborted record, or a read of a record that was never committed.
    AbortedRead,
    /// Outbox, changelog and committed offset, which one transaction writes, disagree.
    Torn,
    /// Store with an entry that its changelog lacks, or without one that it has.
    StoreDivergence,
    /// Pending call without exactly one final state, or sent again without a reason.
    Call,
}

/// A broken guarantee, with the record that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The guarantee that is broken.
    pub guarantee: Guarantee,
    /// Kind of the violation.
    pub anomaly: Anomaly,
    /// Description with key, topic, partition and offset.
    pub finding: String,
}

impl Guarantee {
    /// All of them, in their order.
    pub const ALL: [Self; 7] = [
        Self::G1,
        Self::G2,
        Self::G3,
        Self::G4,
        Self::G5,
        Self::G6,
        Self::G7,
    ];

    /// Returns the guarantee in one sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::G1 => "each valid order is in the outbox exactly once",
            Self::G2 => "no order is lost: each is pending, a duplicate, or a dead letter with its reason",
            Self::G3 => "the changelog, from which stores are rebuilt, equals the outbox",
            Self::G4 => "each pending call ends in exactly one final state",
            Self::G5 => {
                "the API is called again only if it did not process the call or its outcome is unknown"
            }
            Self::G6 => "under park, the API processes each order at most once",
            Self::G7 => "under verify, the API processes each order at most once",
        }
    }
}

impl Anomaly {
    /// Anomalies of stage one.
    pub const STAGE_ONE: [Self; 6] = [
        Self::Lost,
        Self::Duplicated,
        Self::Wrong,
        Self::AbortedRead,
        Self::Torn,
        Self::StoreDivergence,
    ];

    /// Returns the anomaly as a table row.
    #[must_use]
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::Lost => "lost order: no verdict",
            Self::Duplicated => "duplicated order: two verdicts",
            Self::Wrong => "wrong record: differs from its order, or has none",
            Self::AbortedRead => "aborted read: derived from an aborted record",
            Self::Torn => "torn transaction: outbox, changelog and offset disagree",
            Self::StoreDivergence => "store differs from its changelog",
            Self::Call => "call without exactly one final state",
        }
    }
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.guarantee, self.finding)
    }
}

/// Returns the first 20 violations, one per line, and the number of the others.
#[must_use]
pub fn listed(violations: &[Violation]) -> String {
    // One cause may lead to thousands of violations; the first ones show it.
    const SHOWN_MAX: usize = 20;
    let mut lines: Vec<String> = violations
        .iter()
        .take(SHOWN_MAX)
        .map(ToString::to_string)
        .collect();
    if violations.len() > SHOWN_MAX {
        lines.push(format!("... and {} more", violations.len() - SHOWN_MAX));
    }
    lines.join("\n")
}
