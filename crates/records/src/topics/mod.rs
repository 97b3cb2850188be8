//! Names of the topics, and what is remembered of them.

pub mod forgotten;
pub mod note;
pub mod topic_id;

use serde::{Deserialize, Serialize};

/// Topic names of one pipeline, a section of each program's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
// A misspelt name must be an error. Ignored, it would leave the default topic in use.
#[serde(deny_unknown_fields, default)]
pub struct Topics {
    /// Orders of the users' producers.
    pub orders: String,
    /// Outbox: each admitted order, exactly once.
    pub pending: String,
    /// Compacted topic from which each store can be rebuilt.
    pub changelog: String,
    /// Input records that were refused, with the reason.
    pub order_dead_letters: String,
    /// Outcomes of accepted calls.
    pub processed: String,
    /// Calls that the API rejected, with its response.
    pub call_dead_letters: String,
    /// Calls with an unknown outcome, with their evidence.
    pub parked: String,
    /// Switches of the callers' groups, by which an operator pauses and resumes the calls.
    pub control: String,
    /// What operators have changed: who, when, why, what. Replays are planned and continued from it.
    pub operations: String,
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            orders: "payment-orders".into(),
            pending: "pending-api-calls".into(),
            changelog: "idempotency-key-store-changelog".into(),
            order_dead_letters: "payment-orders.dead-letters".into(),
            processed: "payments-processed".into(),
            call_dead_letters: "pending-api-calls.dead-letters".into(),
            parked: "pending-api-calls.parked".into(),
            control: "pending-api-calls.control".into(),
            operations: "pending-api-calls.operations".into(),
        }
    }
}
