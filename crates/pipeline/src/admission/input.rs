//! A record of the orders topic, before validation.

use records::{Offset, Partition, Timestamp, header};

/// Record of the orders topic, borrowed from the consumer.
pub struct Input<'a> {
    /// Partition of the orders topic.
    pub partition: Partition,
    /// Offset within the partition.
    pub offset: Offset,
    /// Time of the record, by its producer or its broker; `None` if it has none.
    pub at: Option<Timestamp>,
    /// Record key, if the producer set one.
    pub key: Option<&'a [u8]>,
    /// Record value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers in record order, as name and value. A name may occur more than once.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// Position, counted from 1, of a header whose name is not UTF-8.
    pub unreadable_header: Option<usize>,
}

impl<'a> Input<'a> {
    /// Returns the value of the last header with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        header::last(self.headers, name)?
    }

    /// Returns the size of key, value and headers, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        header::record_bytes(self.key, self.value, self.headers)
    }
}
