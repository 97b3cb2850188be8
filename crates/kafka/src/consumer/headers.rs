//! The headers of a consumed record, parsed once.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{BorrowedMessage, Headers as _, Message};

/// Headers of a record, in their order.
// librdkafka parses the headers again for each look-up, so that they are copied out once.
#[derive(Debug, Default)]
pub struct Headers<'a> {
    /// Names and values, without headers whose name is not UTF-8.
    pub readable: Vec<(&'a str, Option<&'a [u8]>)>,
    /// Number of the first header whose name is not UTF-8, counted from 1.
    pub unreadable: Option<usize>,
}

impl<'a> Headers<'a> {
    /// Parses the headers of a record.
    #[must_use]
    pub fn of(record: &'a BorrowedMessage<'_>) -> Self {
        let mut parsed = Self::default();
        let Some(headers) = record.headers() else {
            return parsed;
        };
        parsed.readable.reserve(headers.count());
        for index in 0..headers.count() {
            // rust-rdkafka panics on a name that is not UTF-8. Some clients write raw bytes there, and one
            // such record must not crash the process each time it is read.
            match catch_unwind(AssertUnwindSafe(|| headers.get(index))) {
                Ok(header) => parsed.readable.push((header.key, header.value)),
                Err(_) => parsed.unreadable = parsed.unreadable.or(Some(index + 1)),
            }
        }
        parsed
    }

    /// Returns the value of the last header with this name. The inner `None` is a header without a value.
    #[must_use]
    pub fn last(&self, name: &str) -> Option<Option<&'a [u8]>> {
        records::header::last(&self.readable, name)
    }
}
