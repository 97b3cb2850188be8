//! The headers of a record, read once.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{BorrowedMessage, Headers as _, Message};

/// The headers of a record, in their order. librdkafka parses them anew each time it is asked.
#[derive(Debug, Default)]
pub struct Headers<'a> {
    /// Names and values; without those whose name cannot be read.
    pub readable: Vec<(&'a str, Option<&'a [u8]>)>,
    /// The number of the first header whose name is not UTF-8, from 1.
    pub unreadable: Option<usize>,
}

impl<'a> Headers<'a> {
    /// Reads the headers of a record.
    #[must_use]
    pub fn of(record: &'a BorrowedMessage<'_>) -> Self {
        let mut found = Self::default();
        let Some(headers) = record.headers() else {
            return found;
        };
        found.readable.reserve(headers.count());
        for at in 0..headers.count() {
            // rust-rdkafka panics on a name that is not UTF-8. Some clients write raw bytes there, and one such
            // record must not end the process again and again.
            match catch_unwind(AssertUnwindSafe(|| headers.get(at))) {
                Ok(header) => found.readable.push((header.key, header.value)),
                Err(_) => found.unreadable = found.unreadable.or(Some(at + 1)),
            }
        }
        found
    }
}
