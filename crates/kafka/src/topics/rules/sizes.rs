//! The rule that a record fits where it is copied to.

use super::Rules;
use crate::topics::{HEADERS_BYTES, Purpose, TopicDescription};

impl Rules<'_> {
    /// Checks that copies, which have additional headers, fit into this topic.
    pub(super) fn sizes(&mut self, purpose: Purpose, topic: &TopicDescription) {
        let Some(source) = purpose.copied_from() else {
            return;
        };
        let size = |topic: &TopicDescription| {
            topic
                .number("max.message.bytes")
                .and_then(|n| u64::try_from(n).ok())
        };
        let Some((original, copy)) = self.described(source).and_then(size).zip(size(topic)) else {
            return;
        };
        if copy >= original + HEADERS_BYTES {
            return;
        }
        let what = format!(
            "accepts records of {copy} bytes (max.message.bytes), and {} accepts {original}",
            source.name(self.required.topics)
        );
        let repair = self.alter(
            purpose,
            &format!("max.message.bytes={}", original + HEADERS_BYTES),
        );
        // A smaller size halts a partition on an ordinary large record, an equal one only on a record that
        // leaves no room for the headers.
        if purpose == Purpose::Pending {
            self.warn(
                purpose,
                what,
                "an order that is too large for the outbox, with the added headers, becomes a dead letter \
                 and is not paid",
                repair,
            );
        } else if copy < original {
            self.refuse(
                purpose,
                what,
                "a large record can be written nowhere, and its partition halts",
                repair,
            );
        } else {
            self.warn(
                purpose,
                what,
                "the added headers may make a very large record larger than that; it can then be written \
                 nowhere, and its partition halts",
                repair,
            );
        }
    }
}
