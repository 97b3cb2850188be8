//! Resubmission of an order's dead letter: a record on `payment-orders.dead-letters` by which an operator has written
//! the order back to the orders topic.
//!
//! Written and read by the command line, in one transaction with the order. Its key and partition are those of the
//! dead letter, and its header [`RESUBMITS`] names it. A dead letter may have such a header of its order's producer,
//! and always has [`SOURCE`](super::SOURCE), which a resubmission lacks.
//!
//! Version rule: JSON with a version. A resubmission of another version, or with an unknown field, is an error: a
//! dead letter whose resubmission is not understood must not be resubmitted again.

use serde::{Deserialize, Serialize};

use crate::{Timestamp, versioned};

/// Name of the header: position of the resubmitted dead letter, as `topic/partition@offset`.
pub const RESUBMITS: &str = "outbox-resubmits";

const VERSION: u8 = 1;

/// Resubmission of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resubmission {
    version: u8,
    /// Time of the decision, in milliseconds since 1970 UTC.
    pub at: Timestamp,
    /// Person who decided, as `user@host`.
    pub by: String,
    /// Reason, as that person gave it.
    pub reason: String,
}

/// Value that is not a resubmission of the supported version.
#[derive(Debug, thiserror::Error)]
pub enum InvalidResubmission {
    /// The value is not the JSON of a resubmission.
    #[error("it is not a resubmission: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A later version of the program wrote the value.
    #[error("it has version {0}; this program supports version {VERSION} only")]
    UnknownVersion(u8),
}

impl Resubmission {
    /// Creates a resubmission.
    #[must_use]
    pub const fn new(at: Timestamp, by: String, reason: String) -> Self {
        Self {
            version: VERSION,
            at,
            by,
            reason,
        }
    }

    /// Returns the record's value.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a resubmission is text and numbers, which JSON can hold")
    }

    /// Parses a record's value.
    ///
    /// # Errors
    /// The value is not a resubmission, or has another version.
    pub fn parse(value: &[u8]) -> Result<Self, InvalidResubmission> {
        versioned::parse(value, VERSION, InvalidResubmission::UnknownVersion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resubmission_round_trips_and_others_are_refused() {
        let resubmission = Resubmission::new(
            Timestamp(1_790_000_000_000),
            "ann@ops-1".into(),
            "the schema is corrected".into(),
        );
        let json = String::from_utf8(resubmission.to_json()).expect("text");
        let expected =
            r#"{"version":1,"at":1790000000000,"by":"ann@ops-1","reason":"the schema is corrected"}"#;
        assert_eq!(json, expected);
        assert_eq!(
            Resubmission::parse(json.as_bytes()).expect("a resubmission"),
            resubmission
        );
        assert!(matches!(
            Resubmission::parse(br#"{"version":2,"to":"elsewhere"}"#),
            Err(InvalidResubmission::UnknownVersion(2))
        ));
        let unknown = json.replace("\"by\"", "\"until\":1,\"by\"");
        for other in ["", "{}", &unknown] {
            assert!(
                matches!(
                    Resubmission::parse(other.as_bytes()),
                    Err(InvalidResubmission::Malformed(_))
                ),
                "{other}"
            );
        }
    }
}
