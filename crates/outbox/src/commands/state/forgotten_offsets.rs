//! Which keys the validators have forgotten, so that they are not missing.

use std::collections::BTreeMap;

use anyhow::Context;
use kafka::changelog::{ChangelogReader, ReadError};
use kafka::group_offsets::GroupOffsets;
use kafka::topic_ids::TopicIdentity;
use kafka::{ClientError, KafkaSettings};
use records::entry::SEEN_AGAIN;
use records::{Bounds, Entry, Offset, Partition, TopicId, Topics, TopicsNote};

use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT};

/// Changelog offsets below which keys are forgotten, by the notes of the validators' committed offsets.
pub(super) struct ForgottenOffsets {
    below: BTreeMap<Partition, Offset>,
}

/// First key that is not forgotten.
#[derive(Clone, Copy)]
pub(super) struct First {
    /// Offset of its record in the changelog.
    pub(super) offset: Offset,
    /// Offset of its order. Orders before it are forgotten.
    pub(super) source: Offset,
}

impl ForgottenOffsets {
    /// Reads the notes of the group whose settings these are.
    ///
    /// # Errors
    /// The coordinator cannot be reached, or a note cannot be read.
    pub(super) fn read(
        settings: &KafkaSettings,
        topics: &Topics,
        partitions: &[Partition],
        changelog: &TopicIdentity,
    ) -> anyhow::Result<Self> {
        let offsets = GroupOffsets::open(settings, CLIENT_ID)?;
        let id = TopicId::new(&changelog.id);
        let mut below = BTreeMap::new();
        for committed in offsets.committed(&topics.orders, partitions, REQUEST_TIMEOUT)? {
            let of = committed.partition;
            let note = TopicsNote::decode(&committed.metadata)
                .with_context(|| format!("the metadata of the committed offset of {}/{of}", topics.orders))?;
            // At the offsets of another changelog lie other keys.
            let forgotten = note
                .filter(|note| note.changelog.is_some() && note.changelog == id)
                .and_then(|note| note.forgotten);
            below.extend(forgotten.map(|forgotten| (of, forgotten.below)));
        }
        Ok(Self { below })
    }

    /// Looks for the first key of a changelog partition that is not forgotten; `None` if none is forgotten, or records were
    /// deleted beyond those that are.
    ///
    /// # Errors
    /// The changelog cannot be read.
    pub(super) fn first(
        &self,
        reader: &ChangelogReader,
        changelog: &str,
        partition: Partition,
        bounds: Bounds,
    ) -> anyhow::Result<Option<First>> {
        let below = self.below.get(&partition).copied().unwrap_or(Offset(0));
        if below == Offset(0) || bounds.start > below {
            return Ok(None);
        }
        let mut first = None;
        // The error ends the read at the first record.
        struct Found;
        let from = Bounds {
            start: below,
            end: bounds.end,
        };
        let read = reader.read_other(changelog, partition, from, |record| {
            // One that is recorded again is of an earlier order.
            let is_again = record.headers.last(SEEN_AGAIN).is_some();
            let entry = record.value.map(Entry::decode).transpose().unwrap_or_default();
            match entry.filter(|_| !is_again) {
                Some(entry) => {
                    first = Some(First {
                        offset: record.offset,
                        source: entry.source,
                    });
                    Err(Found)
                }
                None => Ok(()),
            }
        });
        match read {
            Ok(()) | Err(ReadError::Sink(Found) | ReadError::Cancelled) => Ok(first),
            Err(ReadError::Client(error)) => Err(ClientError::into(error)),
        }
    }
}
