//! Settlement of a parked call: a record on `pending-api-calls.parked` by which an operator ends it.
//!
//! Written and read by the command line, in one transaction with what the settlement says: an outcome, a dead
//! letter, or a copy of the call on the outbox. Its key is the idempotency key, its partition that of the parked
//! record, and its header [`SETTLES`] names the call; [`GROUP`](crate::call_dead_letter::GROUP) names the group whose
//! call it is. A parked record has no header `SETTLES`.
//!
//! Version rule: JSON with a version. A settlement of another version, or with an unknown field, is an error: a
//! call whose settlement is not understood must not be settled again.

use serde::{Deserialize, Serialize};

use crate::{Timestamp, versioned};

/// Name of the header: position of the settled call, as `topic/partition@offset`.
pub const SETTLES: &str = "outbox-settles";
/// Header of an outcome or dead letter that an operator wrote: the person, as `user@host`.
pub const SETTLED_BY: &str = "outbox-settled-by";

const VERSION: u8 = 1;

/// Settlement of a parked call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settlement {
    version: u8,
    /// What the operator decided.
    pub decision: Decision,
    /// Time of the decision, in milliseconds since 1970 UTC.
    pub at: Timestamp,
    /// Person who decided, as `user@host`.
    pub by: String,
    /// Reason, as that person gave it.
    pub reason: String,
}

/// Decision on a parked call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// The API has processed the call: an outcome says so.
    Accepted,
    /// The API has not processed the call, and it is not made again: it is a dead letter.
    Rejected,
    /// The API has not processed the call, and it is made again: the outbox has a copy.
    SendAgain,
}

/// Value that is not a settlement of the supported version.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettlement {
    /// The value is not the JSON of a settlement.
    #[error("it is not a settlement: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A later version of the program wrote the value.
    #[error("it has version {0}; this program supports version {VERSION} only")]
    UnknownVersion(u8),
}

impl Settlement {
    /// Creates a settlement.
    #[must_use]
    pub const fn new(decision: Decision, at: Timestamp, by: String, reason: String) -> Self {
        Self {
            version: VERSION,
            decision,
            at,
            by,
            reason,
        }
    }

    /// Returns the record's value.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a settlement is text and numbers, which JSON can hold")
    }

    /// Parses a record's value.
    ///
    /// # Errors
    /// The value is not a settlement, or has another version.
    pub fn parse(value: &[u8]) -> Result<Self, InvalidSettlement> {
        versioned::parse(value, VERSION, InvalidSettlement::UnknownVersion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settlement_round_trips_and_others_are_refused() {
        let settlement = Settlement::new(
            Decision::SendAgain,
            Timestamp(1_790_000_000_000),
            "ann@ops-1".into(),
            "the provider has no such payment".into(),
        );
        let json = String::from_utf8(settlement.to_json()).expect("text");
        let expected = r#"{"version":1,"decision":"send-again","at":1790000000000,"by":"ann@ops-1","reason":"the provider has no such payment"}"#;
        assert_eq!(json, expected);
        assert_eq!(
            Settlement::parse(json.as_bytes()).expect("a settlement"),
            settlement
        );
        assert!(matches!(
            Settlement::parse(br#"{"version":2,"decision":"refunded"}"#),
            Err(InvalidSettlement::UnknownVersion(2))
        ));
        let unknown = json.replace("\"by\"", "\"until\":1,\"by\"");
        for other in ["", "{}", &unknown] {
            assert!(
                matches!(
                    Settlement::parse(other.as_bytes()),
                    Err(InvalidSettlement::Malformed(_))
                ),
                "{other}"
            );
        }
    }
}
