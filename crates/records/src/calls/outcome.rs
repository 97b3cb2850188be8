//! Outcome of an accepted call: the value of a record on `payments-processed`. The record key is the
//! idempotency key.
//!
//! Written by the caller, read by the consumers of outcomes and by the command line. A record has the header
//! [`CALL`](crate::call_dead_letter::CALL), too.
//!
//! Version rule: JSON with a version. A reader refuses another version and ignores fields that it does not
//! know, so a field can be added without a new version.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

const VERSION: u8 = 1;

/// Outcome of a call that the API accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    version: u8,
    /// Order id.
    pub order_id: String,
    /// Idempotency key of the order.
    pub idempotency_key: String,
    /// Position of the pending call, as `topic/partition@offset`.
    pub call: String,
    /// Position of the call's first record, as `topic/partition@offset`, if it was deferred since.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub continues: Option<String>,
    /// Consumer group of the callers whose call it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
    /// HTTP status of the API's response; 0 if an operator settled the call.
    pub status: u16,
    /// Response body, truncated; bytes that are not UTF-8 are replaced.
    pub response: String,
    /// `true` if the response body was longer, or was not received completely.
    pub response_truncated: bool,
    /// Transaction id that the API assigned, if the settings name its field in the response.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub transaction_id: Option<String>,
    /// `true` if a look-up found the order processed, and no request had an accepting response.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub found_by_look_up: bool,
    /// Person who settled the parked call as accepted, as `user@host`; `None` if the API's response says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub settled_by: Option<String>,
    /// Reason that this person gave.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub settled_because: Option<String>,
    /// Number of requests sent.
    pub attempts: u32,
    /// Number of these requests with an unknown outcome: unless it is 0, the API may have processed the order
    /// more than once.
    pub attempts_ambiguous: u32,
    /// Time of admission to the outbox, in milliseconds since 1970 UTC, if the record has it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub admitted_at: Option<Timestamp>,
    /// Time of the first request, in milliseconds since 1970 UTC.
    pub first_attempt_at: Timestamp,
    /// Time of the response, in milliseconds since 1970 UTC.
    pub responded_at: Timestamp,
}

/// Value that is not an outcome of the supported version.
#[derive(Debug, thiserror::Error)]
pub enum InvalidOutcome {
    /// The bytes are not the JSON of an outcome.
    #[error("the value is not an outcome: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A later version of the program may have written it.
    #[error("the outcome has version {0}; this program supports version {VERSION} only")]
    UnknownVersion(u8),
}

impl Outcome {
    /// Version that this program writes.
    pub const VERSION: u8 = VERSION;

    /// Creates an outcome without response, attempts and times.
    #[must_use]
    pub fn new(order_id: String, idempotency_key: String, call: String) -> Self {
        Self {
            version: VERSION,
            order_id,
            idempotency_key,
            call,
            continues: None,
            group: None,
            status: 0,
            response: String::new(),
            response_truncated: false,
            transaction_id: None,
            found_by_look_up: false,
            settled_by: None,
            settled_because: None,
            attempts: 0,
            attempts_ambiguous: 0,
            admitted_at: None,
            first_attempt_at: Timestamp(0),
            responded_at: Timestamp(0),
        }
    }

    /// Returns the outcome as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an outcome is text and numbers, which JSON can hold")
    }

    /// Parses an outcome.
    ///
    /// # Errors
    /// The bytes are not an outcome, or have another version.
    pub fn parse(value: &[u8]) -> Result<Self, InvalidOutcome> {
        // Unknown fields are ignored, so that the caller can be upgraded before the readers.
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
    fn outcome_round_trips() {
        let mut outcome = Outcome::new("o-1".into(), "k-1".into(), "pending-api-calls/3@17".into());
        outcome.group = Some("api-caller".into());
        outcome.status = 201;
        outcome.response = "{\"transaction_id\":\"t-\\\"9\"}\u{fffd}".into();
        outcome.attempts = 2;
        outcome.attempts_ambiguous = 1;
        outcome.admitted_at = Some(Timestamp(1_790_000_000_123));
        outcome.responded_at = Timestamp(1_790_000_000_456);
        let json = outcome.to_json();
        assert_eq!(Outcome::parse(&json).expect("an outcome"), outcome);
        assert!(String::from_utf8_lossy(&json).starts_with(r#"{"version":1,"order_id":"o-1","#));
    }

    #[test]
    fn other_version_is_refused() {
        let json =
            String::from_utf8(Outcome::new("o".into(), "k".into(), "c/0@0".into()).to_json()).expect("UTF-8");
        let later = json.replace("\"version\":1", "\"version\":2");
        assert!(matches!(
            Outcome::parse(later.as_bytes()),
            Err(InvalidOutcome::UnknownVersion(2))
        ));
        assert!(matches!(Outcome::parse(b"{}"), Err(InvalidOutcome::Malformed(_))));
    }
}
