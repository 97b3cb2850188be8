//! The identity of a store: the changelog partition whose state it holds.

use records::Partition;

/// Changelog partition whose state a store holds. A store with another identity is rebuilt, not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the changelog topic.
    pub changelog: String,
    /// Partition of the changelog.
    pub partition: Partition,
    /// Number of partitions of the topic.
    // With another number, keys are hashed to other partitions.
    pub partitions: usize,
}

/// Layout of the file, with which the text of an identity begins: a store of another layout is rebuilt as well.
pub(crate) const LAYOUT: &str = "v3";

impl Identity {
    /// Returns the text that is written to the file.
    #[must_use]
    pub fn text(&self) -> String {
        let Self {
            changelog,
            partition,
            partitions,
        } = self;
        format!("{LAYOUT} {changelog}/{partition} of {partitions}")
    }
}
