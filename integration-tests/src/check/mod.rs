//! The checkers: from what was read to the list of broken guarantees. Pure functions, no input or output.
//!
//! A checker that cannot fail proves nothing, so each rule has a test beside it that breaks the rule and
//! sees it found.

pub mod aborted;
pub mod at_most_once;
pub mod atomicity;
pub mod chains;
pub mod expected;
pub mod explain;
pub mod findings;
pub mod stage_one;
pub mod stage_two;
pub mod stores;

use std::fmt;

/// The guarantees of the design that are checked here.
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
    /// The API is called at least once, and again only when nobody can know.
    G5,
    /// Under `park` the API processes each order at most once.
    G6,
    /// Under `verify` it does, too.
    G7,
}

/// What a broken guarantee looks like from outside, in the words in which histories of databases are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// An order has no verdict, though it is said to be done with.
    Lost,
    /// An order has two.
    Duplicated,
    /// A record is not what it must be, or nobody has ordered it.
    Wrong,
    /// Something rests on what was aborted, or a reader saw what was never committed.
    AbortedRead,
    /// Outbox, changelog and offset, which one transaction writes, disagree.
    Torn,
    /// A store holds what its changelog has not, or lacks what it has.
    StoreDivergence,
    /// A pending call has not come to one final state, or was called without a reason.
    Call,
}

/// One broken guarantee, with the record that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which guarantee.
    pub guarantee: Guarantee,
    /// What it looks like.
    pub anomaly: Anomaly,
    /// What was found, and where.
    pub finding: String,
}

impl Guarantee {
    /// All that are checked in each run, whatever the policy.
    pub const ALL: [Self; 5] = [Self::G1, Self::G2, Self::G3, Self::G4, Self::G5];

    /// The guarantee in one sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::G1 => "each valid order is in the outbox exactly once",
            Self::G2 => "no order is lost: pending, a duplicate, or a dead letter with its reason",
            Self::G3 => "the changelog that stores are rebuilt from equals the outbox",
            Self::G4 => "each pending call ends in exactly one final state",
            Self::G5 => "the API is called again only when nobody can know",
            Self::G6 => "under park, the API processes each order at most once",
            Self::G7 => "under verify, the API processes each order at most once",
        }
    }
}

impl Anomaly {
    /// All that stage one can show.
    pub const STAGE_ONE: [Self; 6] = [
        Self::Lost,
        Self::Duplicated,
        Self::Wrong,
        Self::AbortedRead,
        Self::Torn,
        Self::StoreDivergence,
    ];

    /// The anomaly as a row of a table.
    #[must_use]
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::Lost => "lost: an order without a verdict",
            Self::Duplicated => "duplicated: an order with two",
            Self::Wrong => "wrong: a record unlike its order, or of no order",
            Self::AbortedRead => "aborted read: something rests on what was aborted",
            Self::Torn => "torn transaction: outbox, changelog and offset disagree",
            Self::StoreDivergence => "store unlike its changelog",
            Self::Call => "call without its one final state",
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

/// The first violations as lines of text; there may be thousands.
#[must_use]
pub fn listed(violations: &[Violation]) -> String {
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
