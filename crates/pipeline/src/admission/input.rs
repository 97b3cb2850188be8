//! An input record, before anything is decided about it.

use records::{Offset, Partition, header};

/// A record of the orders topic, as far as the verdict asks for it.
pub struct Input<'a> {
    /// Its partition.
    pub partition: Partition,
    /// Its offset.
    pub offset: Offset,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers' names and values, in their order.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// The number of a header whose name is not UTF-8, from 1.
    pub unreadable_header: Option<usize>,
}

impl<'a> Input<'a> {
    /// The last header of a name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        header::last(self.headers, name)?
    }

    /// How much of a record this is: key, value and headers, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        // Two lengths of a few bytes come with each header.
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + length(*value) + 10);
        length(self.key) + length(self.value) + headers.sum::<usize>()
    }
}
