//! The validators' note: the topics that an offset was committed with, and what its partition has forgotten, in the
//! metadata of that offset.
//!
//! Written with each transaction, and compared at each assignment. It is what is left of the topics' ids and
//! partition count once the state directories are lost.
//!
//! ASCII text, `1:PARTITIONS:ORDERS:PENDING:CHANGELOG`: the partition count of the orders topic and the
//! changelog, and the ids of the topics, each empty if the brokers did not report it. Once keys of the partition were
//! forgotten, `2:PARTITIONS:ORDERS:PENDING:CHANGELOG:BELOW:BEFORE`, with the values of [`Forgotten`].
//!
//! Version rule: a note of another version, or one that is malformed, is an error and never a missing note. So a
//! program that knows nothing of forgotten keys, and would admit their orders again, does not go on.

use std::collections::BTreeMap;

use super::forgotten::Forgotten;
use super::topic_id::TopicId;
use crate::{Offset, Timestamp, Topics};

/// Prefix of a note of a partition that has forgotten nothing.
const PREFIX: &str = "1:";
/// Prefix of the note of a partition that has forgotten keys.
const PREFIX_FORGOTTEN: &str = "2:";

/// Topics that an offset was committed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicsNote {
    /// Number of partitions of the orders topic and of the changelog.
    pub partitions: usize,
    /// Id of the orders topic; `None` if the brokers did not report it. So for the others.
    pub orders: Option<TopicId>,
    /// Id of the outbox.
    pub pending: Option<TopicId>,
    /// Id of the changelog.
    pub changelog: Option<TopicId>,
    /// Keys that the partition of this offset has forgotten; `None` if it has all.
    pub forgotten: Option<Forgotten>,
}

/// Text that is not a note of the supported version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopicsNote {
    /// A later version of the program, or another program, wrote the text.
    #[error(
        "it begins with {0:?}, which is not a note of version 1 or 2: a later version of the validator, or another \
         program, has committed it"
    )]
    UnknownVersion(String),
    /// The note is truncated or corrupt.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
}

impl TopicsNote {
    /// Returns the note of these topics, with the ids of those that the brokers report, by name.
    #[must_use]
    pub fn of(topics: &Topics, partitions: usize, ids: &BTreeMap<String, String>) -> Self {
        let id = |topic: &String| ids.get(topic).and_then(|id| TopicId::new(id));
        Self {
            partitions,
            orders: id(&topics.orders),
            pending: id(&topics.pending),
            changelog: id(&topics.changelog),
            forgotten: None,
        }
    }

    /// Returns the note as text: at most 133 bytes, of the 4096 that a broker accepts by default.
    #[must_use]
    pub fn encode(&self) -> String {
        let id = |id: &Option<TopicId>| id.as_ref().map_or(String::new(), ToString::to_string);
        let Self {
            partitions,
            orders,
            pending,
            changelog,
            forgotten,
        } = self;
        let (orders, pending, changelog) = (id(orders), id(pending), id(changelog));
        let topics = format!("{partitions}:{orders}:{pending}:{changelog}");
        match forgotten {
            None => format!("{PREFIX}{topics}"),
            Some(Forgotten { below, before }) => {
                format!("{PREFIX_FORGOTTEN}{topics}:{}:{}", below.0, before.0)
            }
        }
    }

    /// Parses a note. Empty text is no note: an earlier version committed the offset, or an operator set it.
    ///
    /// # Errors
    /// The text is not a note of version 1 or 2.
    pub fn decode(text: &str) -> Result<Option<Self>, InvalidTopicsNote> {
        if text.is_empty() {
            return Ok(None);
        }
        let (parts, forgotten) = match (text.strip_prefix(PREFIX), text.strip_prefix(PREFIX_FORGOTTEN)) {
            (Some(parts), _) => (parts, None),
            (None, Some(parts)) => {
                let (parts, forgotten) = split_forgotten(parts).ok_or(InvalidTopicsNote::Malformed(
                    "it does not end with what was forgotten",
                ))?;
                (parts, Some(forgotten))
            }
            (None, None) => return Err(InvalidTopicsNote::UnknownVersion(text.chars().take(16).collect())),
        };
        let parts: Vec<&str> = parts.split(':').collect();
        let &[partitions, orders, pending, changelog] = parts.as_slice() else {
            return Err(InvalidTopicsNote::Malformed(
                "it has not four parts for the topics",
            ));
        };
        let partitions = partitions.parse().ok().filter(|partitions| *partitions > 0);
        let id = |text: &str| match TopicId::new(text) {
            None if !text.is_empty() => Err(InvalidTopicsNote::Malformed("a part is not a topic's id")),
            id => Ok(id),
        };
        Ok(Some(Self {
            partitions: partitions.ok_or(InvalidTopicsNote::Malformed("it has no partition count"))?,
            orders: id(orders)?,
            pending: id(pending)?,
            changelog: id(changelog)?,
            forgotten,
        }))
    }
}

/// Splits what was forgotten from the end of a note.
fn split_forgotten(parts: &str) -> Option<(&str, Forgotten)> {
    let (parts, before) = parts.rsplit_once(':')?;
    let (parts, below) = parts.rsplit_once(':')?;
    let below = below.parse().ok().filter(|below| *below >= 0)?;
    let before = before.parse().ok()?;
    Some((
        parts,
        Forgotten {
            below: Offset(below),
            before: Timestamp(before),
        },
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn note(partitions: usize, ids: [&str; 3]) -> TopicsNote {
        let [orders, pending, changelog] = ids.map(TopicId::new);
        TopicsNote {
            partitions,
            orders,
            pending,
            changelog,
            forgotten: None,
        }
    }

    fn forgotten(below: i64, before: i64) -> Forgotten {
        Forgotten {
            below: Offset(below),
            before: Timestamp(before),
        }
    }

    #[test]
    fn encoding_is_stable() {
        let id = "qzWZZ0AiS2-KyFasPsl03Q";
        let text = note(12, [id, "p", ""]).encode();
        assert_eq!(text, format!("1:12:{id}:p:"));
        let note = TopicsNote {
            forgotten: Some(forgotten(7, 1_790_000_000_000)),
            ..note(12, [id, "p", "c"])
        };
        assert_eq!(note.encode(), format!("2:12:{id}:p:c:7:1790000000000"));
        let longest = TopicsNote {
            forgotten: Some(forgotten(i64::MAX, i64::MIN)),
            ..self::note(usize::MAX, [id; 3])
        };
        assert!(longest.encode().len() <= 133, "{}", longest.encode().len());
    }

    #[test]
    fn unreadable_note_is_never_a_missing_note() {
        assert_eq!(TopicsNote::decode(""), Ok(None));
        for later in ["3:6:o:p:c", "consumed by the nightly job", "\u{fffd}"] {
            let error = TopicsNote::decode(later).expect_err(later);
            assert!(matches!(error, InvalidTopicsNote::UnknownVersion(_)), "{error}");
        }
        for malformed in [
            "1:",
            "1:6",
            "1:6:o:p",
            "1:6:o:p:c:d",
            "1:0:o:p:c",
            "1:x:o:p:c",
            "1:6:o o:p:c",
            "1:6:o:p:c:7:9",
            "2:6:o:p:c",
            "2:6:o:p:c:7",
            "2:6:o:p:c:-1:9",
            "2:6:o:p:c:7:x",
        ] {
            let error = TopicsNote::decode(malformed).expect_err(malformed);
            assert!(matches!(error, InvalidTopicsNote::Malformed(_)), "{error}");
        }
    }

    proptest! {
        #[test]
        fn note_round_trips(
            partitions in 1_usize..,
            ids in prop::array::uniform3("[A-Za-z0-9_-]{0,22}"),
            of_old in prop::option::of((0_i64.., any::<i64>())),
        ) {
            let [orders, pending, changelog] = &ids;
            let note = TopicsNote {
                forgotten: of_old.map(|(below, before)| forgotten(below, before)),
                ..note(partitions, [orders, pending, changelog])
            };
            let text = note.encode();
            prop_assert!(text.is_ascii());
            prop_assert_eq!(TopicsNote::decode(&text), Ok(Some(note)));
        }
    }
}
