//! The validators' note: the topics that an offset was committed with, in the metadata of that offset.
//!
//! Written with each transaction, and compared at each assignment. It is what is left of the topics' ids and
//! partition count once the state directories are lost.
//!
//! ASCII text, `1:PARTITIONS:ORDERS:PENDING:CHANGELOG`: the partition count of the orders topic and the
//! changelog, and the ids of the topics, each empty if the brokers did not report it.
//!
//! Version rule: a note of another version, or one that is malformed, is an error and never a missing note.

use super::topic_id::TopicId;

const PREFIX: &str = "1:";

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
}

/// Text that is not a note of the supported version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopicsNote {
    /// A later version of the program, or another program, wrote the text.
    #[error(
        "it begins with {0:?}, which is not a note of version 1: a later version of the validator, or another \
         program, has committed it"
    )]
    UnknownVersion(String),
    /// The note is truncated or corrupt.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
}

impl TopicsNote {
    /// Returns the note as text: at most 91 bytes, of the 4096 that a broker accepts by default.
    #[must_use]
    pub fn encode(&self) -> String {
        let id = |id: &Option<TopicId>| id.as_ref().map_or(String::new(), ToString::to_string);
        let Self {
            partitions,
            orders,
            pending,
            changelog,
        } = self;
        let (orders, pending, changelog) = (id(orders), id(pending), id(changelog));
        format!("{PREFIX}{partitions}:{orders}:{pending}:{changelog}")
    }

    /// Parses a note. Empty text is no note: an earlier version committed the offset, or an operator set it.
    ///
    /// # Errors
    /// The text is not a note of version 1.
    pub fn decode(text: &str) -> Result<Option<Self>, InvalidTopicsNote> {
        if text.is_empty() {
            return Ok(None);
        }
        let parts = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| InvalidTopicsNote::UnknownVersion(text.chars().take(16).collect()))?;
        let parts: Vec<&str> = parts.split(':').collect();
        let &[partitions, orders, pending, changelog] = parts.as_slice() else {
            return Err(InvalidTopicsNote::Malformed("it has not four parts"));
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
        }))
    }
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
        }
    }

    #[test]
    fn encoding_is_stable() {
        let id = "qzWZZ0AiS2-KyFasPsl03Q";
        let text = note(12, [id, "p", ""]).encode();
        assert_eq!(text, format!("1:12:{id}:p:"));
        assert!(note(usize::MAX, [id; 3]).encode().len() <= 91);
    }

    #[test]
    fn unreadable_note_is_never_a_missing_note() {
        assert_eq!(TopicsNote::decode(""), Ok(None));
        for later in ["2:6:o:p:c", "consumed by the nightly job", "\u{fffd}"] {
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
        ) {
            let [orders, pending, changelog] = &ids;
            let note = note(partitions, [orders, pending, changelog]);
            let text = note.encode();
            prop_assert!(text.is_ascii());
            prop_assert_eq!(TopicsNote::decode(&text), Ok(Some(note)));
        }
    }
}
