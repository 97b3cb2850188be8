//! Header of a deferred call on `pending-api-calls`: the state that its copy continues with.
//!
//! Written and read by the caller. A call that keeps failing is deferred: in one transaction its copy (same
//! key, value and headers) is appended to the outbox with this header, and its record becomes final. The
//! header carries the state that must survive the move, above all whether an earlier request may have been
//! processed.
//!
//! One call is one chain: its first record, then one copy for each number of
//! [`deferrals`](Continuation::deferrals) from 1 on. Only the last record of a chain is not final.
//!
//! Each group of callers that reads the outbox has chains of its own: a copy names the group that it is for, and
//! callers of other groups skip it.
//!
//! Version rule: JSON with a version. A copy whose header has another version, an unknown field or a missing
//! one is never called.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Position, Timestamp, versioned};

/// Name of the header.
pub const CONTINUES: &str = "outbox-continues";

const VERSION: u8 = 1;

/// State of a deferred call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
// An unknown field may be one that says the call was processed, so it must not be ignored.
#[serde(deny_unknown_fields)]
pub struct Continuation {
    version: u8,
    /// Position of the call's first record, as `topic/partition@offset`.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub call: Position,
    /// Consumer group of the callers that the copy is for.
    pub group: String,
    /// Number of deferrals, 1 for the first copy.
    pub deferrals: u32,
    /// Time at which a caller first read the call, in milliseconds since 1970 UTC.
    pub first_seen_at: Timestamp,
    /// Time of the first request, in milliseconds since 1970 UTC; `None` if none was sent, as for a call that
    /// was deferred behind an earlier call of its key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_attempt_at: Option<Timestamp>,
    /// Number of requests sent.
    pub attempts: u32,
    /// Number of these requests with an unknown outcome.
    pub attempts_ambiguous: u32,
    /// Number of look-ups in a row without a definite result.
    pub lookups: u32,
    /// Ambiguity of the call; `None` if it was surely not processed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ambiguity: Option<Ambiguity>,
    /// `true` if an operator has asked by name for a call that was accepted to be made again. The copy is then a
    /// new call, whose outcome is its own.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub repeats: bool,
}

/// Cause for which a deferred call may have been processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ambiguity {
    /// A request had an ambiguous response.
    AmbiguousResponse,
    /// An earlier owner of the partition committed its intent, but no completion.
    Redelivered,
}

/// Header value that is not a continuation of the supported version.
#[derive(Debug, thiserror::Error)]
pub enum InvalidContinuation {
    /// The value is not the JSON of a continuation.
    #[error("the header {CONTINUES} is not a continuation: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A later version of the program wrote the value.
    #[error("the header {CONTINUES} has version {0}; this program supports version {VERSION} only")]
    UnknownVersion(u8),
}

impl Continuation {
    /// Creates the first deferral of a call without requests, for the callers of a group.
    #[must_use]
    pub const fn new(call: Position, group: String, first_seen_at: Timestamp) -> Self {
        Self {
            version: VERSION,
            call,
            group,
            deferrals: 1,
            first_seen_at,
            first_attempt_at: None,
            attempts: 0,
            attempts_ambiguous: 0,
            lookups: 0,
            ambiguity: None,
            repeats: false,
        }
    }

    /// Returns the first record of the call to which the copy at this position belongs.
    #[must_use]
    pub const fn first<'a>(&'a self, copy: &'a Position) -> &'a Position {
        if self.repeats { copy } else { &self.call }
    }

    /// Returns the header value.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a continuation is text and numbers, which JSON can hold")
    }

    /// Parses the header value.
    ///
    /// # Errors
    /// The value is not a continuation, or has another version.
    pub fn parse(value: &[u8]) -> Result<Self, InvalidContinuation> {
        versioned::parse(value, VERSION, InvalidContinuation::UnknownVersion)
    }
}

fn as_text<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(position)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Position, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deferred() -> Continuation {
        let call = "pending-api-calls/3@17".parse().expect("a position");
        Continuation::new(call, "api-caller".into(), Timestamp(1_790_000_000_123))
    }

    #[test]
    fn continuation_round_trips() {
        let mut attempted = deferred();
        attempted.deferrals = 2;
        attempted.first_attempt_at = Some(Timestamp(1_790_000_000_456));
        attempted.attempts = 40;
        attempted.attempts_ambiguous = 1;
        attempted.ambiguity = Some(Ambiguity::Redelivered);
        attempted.repeats = true;
        for written in [deferred(), attempted] {
            let json = written.to_json();
            assert_eq!(Continuation::parse(&json).expect("a continuation"), written);
        }
        let json = deferred().to_json();
        let text = String::from_utf8_lossy(&json).into_owned();
        assert!(
            text.starts_with(
                r#"{"version":1,"call":"pending-api-calls/3@17","group":"api-caller","deferrals":1,"#
            ),
            "{text}"
        );
    }

    #[test]
    fn repeated_call_is_a_call_of_its_own() {
        let copy = "pending-api-calls/3@90".parse().expect("a position");
        let mut continuation = deferred();
        assert_eq!(continuation.first(&copy), &continuation.call);
        continuation.repeats = true;
        assert_eq!(continuation.first(&copy), &copy);
    }

    #[test]
    fn unreadable_header_is_never_a_new_call() {
        let json = String::from_utf8(deferred().to_json()).expect("UTF-8");
        let later = json.replace("\"version\":1", "\"version\":2,\"new\":[]");
        assert!(matches!(
            Continuation::parse(later.as_bytes()),
            Err(InvalidContinuation::UnknownVersion(2))
        ));
        for malformed in [
            String::new(),
            "{}".into(),
            json.replace("3@17", "3"),
            json.replace("\"group\":\"api-caller\",", ""),
            json.replace("\"lookups\":0", "\"lookups\":0,\"unknown\":1"),
            json.replace("\"lookups\":0", "\"lookups\":0,\"ambiguity\":\"other\""),
        ] {
            let found = Continuation::parse(malformed.as_bytes());
            assert!(
                matches!(found, Err(InvalidContinuation::Malformed(_))),
                "{malformed}: {found:?}"
            );
        }
    }
}
