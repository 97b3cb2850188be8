//! The header that makes a record of the outbox the continuation of an earlier one: a deferred call.
//!
//! A call that is tried in vain for long is deferred: it is final at its place, and its copy (same key, same
//! bytes, same headers) lies at the outbox's tail with this header, in one transaction. Without it the copy
//! would be a second order. The header holds all that must outlive the move; above all, whether an earlier
//! request may have been processed. It is JSON, and read strictly: a copy whose header is not understood in
//! full is never called.
//!
//! One call is one chain: its first record, and then one record for each [`deferrals`](Continuation::deferrals)
//! from 1 on. Only the last is not final, so a replay takes one of them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Position, Timestamp};

/// The header's name.
pub const CONTINUES: &str = "outbox-continues";

const VERSION: u8 = 1;

/// What a deferred call brings along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Continuation {
    version: u8,
    /// The call that it continues: where it lay before it was deferred for the first time, as
    /// `topic/partition@offset`.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub call: Position,
    /// How often it was deferred, from 1.
    pub deferrals: u32,
    /// When a caller first read it, in milliseconds since 1970 UTC.
    pub first_seen_at: Timestamp,
    /// When its first request was made, in milliseconds since 1970 UTC; `None` if there was none, as where it
    /// was deferred behind an earlier call of its key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_attempt_at: Option<Timestamp>,
    /// How many requests were made.
    pub attempts: u32,
    /// How many of them may have been processed although no answer said so.
    pub attempts_ambiguous: u32,
    /// Look-ups in a row that told nothing.
    pub lookups: u32,
    /// Why nobody can know whether it was processed already; `None` if it was surely not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ambiguity: Option<Ambiguity>,
}

/// Why nobody can know whether a deferred call was processed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ambiguity {
    /// The response to one of its requests was ambiguous.
    AmbiguousResponse,
    /// An owner of the partition noted that it had begun, and did not note its end.
    Redelivered,
}

/// A header that is no continuation of a version that this program knows.
#[derive(Debug, thiserror::Error)]
pub enum InvalidContinuation {
    /// It is not the JSON of a continuation.
    #[error("the header {CONTINUES} is no continuation: {0}")]
    NotAContinuation(#[from] serde_json::Error),
    /// A later version of the program wrote it.
    #[error("the header {CONTINUES} has version {0}; this program knows version {VERSION} only")]
    UnknownVersion(u8),
}

impl Continuation {
    /// The first deferral of a call that was never tried, to be filled in.
    #[must_use]
    pub const fn new(call: Position, first_seen_at: Timestamp) -> Self {
        Self {
            version: VERSION,
            call,
            deferrals: 1,
            first_seen_at,
            first_attempt_at: None,
            attempts: 0,
            attempts_ambiguous: 0,
            lookups: 0,
            ambiguity: None,
        }
    }

    /// The header's value.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a continuation is text and numbers, which JSON can hold")
    }

    /// Reads the header's value back.
    ///
    /// # Errors
    /// It is no continuation, or one of another version.
    pub fn parse(value: &[u8]) -> Result<Self, InvalidContinuation> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u8,
        }
        match serde_json::from_slice(value)? {
            Versioned { version: VERSION } => Ok(serde_json::from_slice(value)?),
            Versioned { version } => Err(InvalidContinuation::UnknownVersion(version)),
        }
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
        Continuation::new(call, Timestamp(1_790_000_000_123))
    }

    #[test]
    fn a_continuation_is_read_back_as_it_was_written() {
        let mut tried = deferred();
        tried.deferrals = 2;
        tried.first_attempt_at = Some(Timestamp(1_790_000_000_456));
        tried.attempts = 40;
        tried.attempts_ambiguous = 1;
        tried.ambiguity = Some(Ambiguity::Redelivered);
        for written in [deferred(), tried] {
            let json = written.to_json();
            assert_eq!(Continuation::parse(&json).expect("a continuation"), written);
        }
        let json = deferred().to_json();
        let text = String::from_utf8_lossy(&json).into_owned();
        assert!(
            text.starts_with(r#"{"version":1,"call":"pending-api-calls/3@17","deferrals":1,"#),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_understood_is_never_a_fresh_call() {
        let json = String::from_utf8(deferred().to_json()).expect("UTF-8");
        let later = json.replace("\"version\":1", "\"version\":2,\"new\":[]");
        assert!(matches!(
            Continuation::parse(later.as_bytes()),
            Err(InvalidContinuation::UnknownVersion(2))
        ));
        for garbled in [
            String::new(),
            "{}".into(),
            json.replace("3@17", "3"),
            json.replace("\"lookups\":0", "\"lookups\":0,\"doubts\":1"),
            json.replace("\"lookups\":0", "\"lookups\":0,\"ambiguity\":\"other\""),
        ] {
            let found = Continuation::parse(garbled.as_bytes());
            assert!(
                matches!(found, Err(InvalidContinuation::NotAContinuation(_))),
                "{garbled}: {found:?}"
            );
        }
    }
}
