//! The names of the topics, and what each is for.

use serde::{Deserialize, Serialize};

/// The names of all topics of one pipeline. Each program uses those that it reads or writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topics {
    /// Orders as they arrive.
    pub orders: String,
    /// The outbox: each admitted order, exactly once.
    pub pending: String,
    /// The compacted topic that each store can be rebuilt from.
    pub changelog: String,
    /// What is no valid order, with the reason.
    pub order_dead_letters: String,
    /// Outcomes of accepted calls.
    pub processed: String,
    /// Calls that the API rejected, with its answer.
    pub call_dead_letters: String,
    /// Calls of which nobody can know whether they were processed, with their evidence.
    pub parked: String,
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
        }
    }
}
