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

impl Identity {
    /// Returns the text that is written to the file.
    #[must_use]
    pub fn text(&self) -> String {
        // The version is that of the file's layout: a store of another layout is rebuilt as well.
        format!("v2 {}/{} of {}", self.changelog, self.partition, self.partitions)
    }
}
