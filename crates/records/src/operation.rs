//! Operation: the value of a record on the operations topic, by which an operator's command says who has changed
//! what, when and why.
//!
//! Written and read by the command line. A command that changes something in a transaction writes its record in the
//! same one; any other writes it before it changes anything, so that no change is without a record. The events of a
//! [`Replay`] are the memory of that replay: a run continues from them. The record key is the plan of the replay;
//! other records have none. The topic has one partition, which gives the operations their order.
//!
//! Version rule: JSON with a version. An operation of another version, or with an unknown field, is an error: it may
//! be the one that cancelled a replay.

use serde::{Deserialize, Serialize};

use crate::{Offset, Partition, Timestamp, versioned};

/// Header of a copy on the outbox that a replay has appended: the plan of the replay.
pub const REPLAY: &str = "outbox-replay";

const VERSION: u8 = 1;

/// Operation of a person on the pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    version: u8,
    /// Time of the operation, in milliseconds since 1970 UTC.
    pub at: Timestamp,
    /// Person, as `user@host`.
    pub by: String,
    /// Command, such as `parked settle`.
    pub command: String,
    /// What it changed, in words.
    pub what: String,
    /// Reason, as that person gave it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Event of a replay, if it is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replay: Option<Replay>,
}

/// Event of a replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// Id of the plan.
    pub plan: String,
    /// What happened.
    pub event: Event,
}

/// What happened to a replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// Calls of one partition that the plan has; a long plan has several such records for a partition.
    Calls {
        /// Partition of the outbox.
        partition: Partition,
        /// Runs of offsets, each as its first offset and the one after its last.
        runs: Vec<(Offset, Offset)>,
    },
    /// The plan is complete.
    Planned(Planned),
    /// The first run has begun.
    Begun {
        /// Number of calls whose outcomes are awaited before the others follow; 0 for none.
        canary: u64,
        /// Time of it: no outcome of the replay is older.
        at: Timestamp,
    },
    /// A transaction has appended copies; this record is part of it.
    Appended {
        /// By partition, the offset up to which the calls of the plan are dealt with.
        until: Vec<(Partition, Offset)>,
        /// Number of copies.
        appended: u64,
        /// Number of calls that were left out, because their state has changed since they were planned.
        left_out: u64,
    },
    /// Each call of the canary was accepted.
    CanaryPassed,
    /// A call of the canary was not accepted.
    CanaryFailed,
    /// An operator has paused the replay.
    Paused,
    /// An operator has resumed the replay.
    Resumed,
    /// An operator has cancelled the replay for good.
    Cancelled,
    /// Each call of the plan is dealt with.
    Finished,
}

/// A complete plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// Consumer group of the callers that make the calls.
    pub group: String,
    /// Id of the outbox, to notice that it was created again; `None` if the brokers report none.
    pub outbox: Option<String>,
    /// Number of calls.
    pub calls: u64,
    /// Number of those that may be charged again: they were accepted, or may have been processed.
    pub again: u64,
    /// Whether callers were to look up a call that may have been processed before they send it, so that `again` has
    /// none of those.
    // Written only if it is so: earlier versions, which do not heed it, refuse the plan then.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub looks_up: bool,
    /// States that were selected, by their names.
    pub states: Vec<String>,
}

/// Value that is not an operation of the supported version.
#[derive(Debug, thiserror::Error)]
pub enum InvalidOperation {
    /// The value is not the JSON of an operation.
    #[error("it is not an operation: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A later version of the program wrote the value.
    #[error("it has version {0}; this program supports version {VERSION} only")]
    UnknownVersion(u8),
}

impl Operation {
    /// Creates an operation without a reason that is no event of a replay.
    #[must_use]
    pub const fn new(at: Timestamp, by: String, command: String, what: String) -> Self {
        Self {
            version: VERSION,
            at,
            by,
            command,
            what,
            reason: None,
            replay: None,
        }
    }

    /// Returns the record's value.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an operation is text and numbers, which JSON can hold")
    }

    /// Parses a record's value.
    ///
    /// # Errors
    /// The value is not an operation, or has another version.
    pub fn parse(value: &[u8]) -> Result<Self, InvalidOperation> {
        versioned::parse(value, VERSION, InvalidOperation::UnknownVersion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(event: Option<Event>) -> Operation {
        let by = "ann@ops-1".into();
        let mut operation = Operation::new(
            Timestamp(1_790_000_000_000),
            by,
            "replay run".into(),
            "words".into(),
        );
        operation.replay = event.map(|event| Replay {
            plan: "k7qm".into(),
            event,
        });
        operation
    }

    #[test]
    fn operation_round_trips_and_others_are_refused() {
        let events = [
            Event::Calls {
                partition: Partition(3),
                runs: vec![(Offset(4), Offset(9))],
            },
            Event::Planned(Planned {
                group: "api-caller".into(),
                outbox: None,
                calls: 5,
                again: 0,
                looks_up: false,
                states: vec!["rejected".into()],
            }),
            Event::Planned(Planned {
                group: "api-caller".into(),
                outbox: None,
                calls: 5,
                again: 0,
                looks_up: true,
                states: vec!["ambiguous".into()],
            }),
            Event::Begun {
                canary: 5,
                at: Timestamp(1_790_000_000_000),
            },
            Event::Appended {
                until: vec![(Partition(3), Offset(9))],
                appended: 4,
                left_out: 1,
            },
            Event::CanaryPassed,
            Event::Cancelled,
        ];
        for written in events.into_iter().map(Some).chain([None]).map(operation) {
            let json = written.to_json();
            assert_eq!(Operation::parse(&json).expect("an operation"), written);
        }
        let json = String::from_utf8(operation(Some(Event::Paused)).to_json()).expect("text");
        let expected = r#"{"version":1,"at":1790000000000,"by":"ann@ops-1","command":"replay run","what":"words","replay":{"plan":"k7qm","event":{"kind":"paused"}}}"#;
        assert_eq!(json, expected);
        assert!(matches!(
            Operation::parse(br#"{"version":2,"undone":true}"#),
            Err(InvalidOperation::UnknownVersion(2))
        ));
        for other in [
            String::new(),
            "{}".into(),
            json.replace("paused", "undone"),
            json.replace("\"by\"", "\"undoes\":1,\"by\""),
        ] {
            assert!(
                matches!(
                    Operation::parse(other.as_bytes()),
                    Err(InvalidOperation::Malformed(_))
                ),
                "{other}"
            );
        }
    }
}
