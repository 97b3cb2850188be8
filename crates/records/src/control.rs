//! The switch of a callers' group: the value on the control topic, by which an operator pauses and resumes the
//! calls.
//!
//! Written by the command line, and followed by every caller. The record key is the consumer group of the callers;
//! the topic is compacted, so that it keeps the latest switch of each group. A group without a record is running.
//!
//! Version rule: JSON with a version. A switch of another version, or with an unknown field, is an error: a
//! caller that does not understand it sends nothing.

use serde::{Deserialize, Serialize};

use crate::{Timestamp, versioned};

const VERSION: u8 = 1;

/// Switch of a callers' group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    version: u8,
    /// Position of the switch.
    pub calls: Calls,
    /// Time of the change, in milliseconds since 1970 UTC.
    pub at: Timestamp,
    /// Person who changed it, as `user@host`.
    pub by: String,
    /// Reason, as that person gave it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// Position of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Calls {
    /// Calls are made.
    Running,
    /// No call is made.
    Paused,
}

/// Value that is not a switch of the supported version.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSwitch {
    /// The value is not the JSON of a switch.
    #[error("it is not a switch: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A later version of the program wrote the value.
    #[error("it has version {0}; this program supports version {VERSION} only")]
    UnknownVersion(u8),
}

impl Switch {
    /// Creates a switch.
    #[must_use]
    pub const fn new(calls: Calls, at: Timestamp, by: String, reason: Option<String>) -> Self {
        Self {
            version: VERSION,
            calls,
            at,
            by,
            reason,
        }
    }

    /// Returns the record's value.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a switch is text and numbers, which JSON can hold")
    }

    /// Parses a record's value.
    ///
    /// # Errors
    /// The value is not a switch, or has another version.
    pub fn parse(value: &[u8]) -> Result<Self, InvalidSwitch> {
        versioned::parse(value, VERSION, InvalidSwitch::UnknownVersion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switch_round_trips_and_others_are_refused() {
        let switch = Switch::new(
            Calls::Paused,
            Timestamp(1_790_000_000_000),
            "ann@ops-1".into(),
            Some("provider maintenance".into()),
        );
        let json = String::from_utf8(switch.to_json()).expect("text");
        assert_eq!(
            json,
            r#"{"version":1,"calls":"paused","at":1790000000000,"by":"ann@ops-1","reason":"provider maintenance"}"#
        );
        assert_eq!(Switch::parse(json.as_bytes()).expect("a switch"), switch);
        assert!(matches!(
            Switch::parse(br#"{"version":2,"calls":"drained"}"#),
            Err(InvalidSwitch::UnknownVersion(2))
        ));
        for other in [
            "",
            "{}",
            r#"{"version":1,"calls":"paused","at":1,"by":"a","until":2}"#,
        ] {
            assert!(
                matches!(Switch::parse(other.as_bytes()), Err(InvalidSwitch::Malformed(_))),
                "{other}"
            );
        }
    }
}
