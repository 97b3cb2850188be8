//! The outcome of an accepted call, as it stands on `payments-processed`. Its record key is the
//! idempotency key.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

const VERSION: u8 = 1;

/// What became of a call that the API accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    version: u8,
    /// The order's id.
    pub order_id: String,
    /// What makes two orders the same order.
    pub idempotency_key: String,
    /// Where the pending call lies, as `topic/partition@offset`.
    pub call: String,
    /// Where the call lay first, if it was deferred since, as `topic/partition@offset`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub continues: Option<String>,
    /// The HTTP status of the API's answer.
    pub status: u16,
    /// The answer's body, capped; what is not UTF-8 in it is replaced.
    pub answer: String,
    /// Whether the answer's body was longer, or broke off.
    pub answer_cut: bool,
    /// The API's own id of the transaction, if the settings say where it stands in the answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub transaction_id: Option<String>,
    /// Whether no answer to a request says so, but that to a later question for the order.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub found_by_look_up: bool,
    /// How many requests were made.
    pub attempts: u32,
    /// How many of them may have been processed although no answer said so: if this is not 0, the API may
    /// have processed the order more than once.
    pub attempts_ambiguous: u32,
    /// When the order was admitted to the outbox, if its record says so; milliseconds since 1970 UTC.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub admitted_at: Option<Timestamp>,
    /// When the first request was made, in milliseconds since 1970 UTC.
    pub first_attempt_at: Timestamp,
    /// When the answer came, in milliseconds since 1970 UTC.
    pub answered_at: Timestamp,
}

/// Bytes that are no outcome of a version that this program knows.
#[derive(Debug, thiserror::Error)]
pub enum InvalidOutcome {
    /// The bytes are not the JSON of an outcome.
    #[error("the value is no outcome: {0}")]
    NotAnOutcome(#[from] serde_json::Error),
    /// A later version of the program may have written it.
    #[error("the outcome has version {0}; this program knows version {VERSION} only")]
    UnknownVersion(u8),
}

impl Outcome {
    /// The version that this program writes.
    pub const VERSION: u8 = VERSION;

    /// An outcome without answer, attempts and times, to be filled in.
    #[must_use]
    pub fn new(order_id: String, idempotency_key: String, call: String) -> Self {
        Self {
            version: VERSION,
            order_id,
            idempotency_key,
            call,
            continues: None,
            status: 0,
            answer: String::new(),
            answer_cut: false,
            transaction_id: None,
            found_by_look_up: false,
            attempts: 0,
            attempts_ambiguous: 0,
            admitted_at: None,
            first_attempt_at: Timestamp(0),
            answered_at: Timestamp(0),
        }
    }

    /// The outcome as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an outcome is text and numbers, which JSON can hold")
    }

    /// Reads an outcome back.
    ///
    /// # Errors
    /// The bytes are no outcome, or one of another version.
    pub fn parse(value: &[u8]) -> Result<Self, InvalidOutcome> {
        let outcome: Self = serde_json::from_slice(value)?;
        match outcome.version {
            VERSION => Ok(outcome),
            version => Err(InvalidOutcome::UnknownVersion(version)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_read_back_as_it_was_written() {
        let mut outcome = Outcome::new("o-1".into(), "k-1".into(), "pending-api-calls/3@17".into());
        outcome.status = 201;
        outcome.answer = "{\"transaction_id\":\"t-\\\"9\"}\u{fffd}".into();
        outcome.attempts = 2;
        outcome.attempts_ambiguous = 1;
        outcome.admitted_at = Some(Timestamp(1_790_000_000_123));
        outcome.answered_at = Timestamp(1_790_000_000_456);
        let json = outcome.to_json();
        assert_eq!(Outcome::parse(&json).expect("an outcome"), outcome);
        assert!(String::from_utf8_lossy(&json).starts_with(r#"{"version":1,"order_id":"o-1","#));
    }

    #[test]
    fn another_version_is_refused() {
        let json =
            String::from_utf8(Outcome::new("o".into(), "k".into(), "c/0@0".into()).to_json()).expect("UTF-8");
        let later = json.replace("\"version\":1", "\"version\":2");
        assert!(matches!(
            Outcome::parse(later.as_bytes()),
            Err(InvalidOutcome::UnknownVersion(2))
        ));
        assert!(matches!(
            Outcome::parse(b"{}"),
            Err(InvalidOutcome::NotAnOutcome(_))
        ));
    }
}
