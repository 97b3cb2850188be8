//! Detection of a topic that was deleted and created again while it is read.
//!
//! librdkafka then continues in the new topic, at the offset that it had reached in the old one, and does not
//! report that to its caller: the records before that offset would be skipped. It logs the new id in its
//! debug log for `metadata` before it delivers any record of the new topic, and the consumer serves the log
//! before it returns a record. So the detection precedes each new record.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Debug context that logs the ids: some lines each time the metadata is fetched.
pub(super) const DEBUG_CONTEXT: &str = "metadata";

/// Topic whose id is watched.
pub(super) struct TopicRecreation {
    topic: String,
    id: Mutex<Option<String>>,
    is_recreated: AtomicBool,
}

impl TopicRecreation {
    /// Starts without an id: the first one that is logged belongs to the topic as it is now.
    pub(super) fn of(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            id: Mutex::default(),
            is_recreated: AtomicBool::new(false),
        }
    }

    /// Reads a line of librdkafka's log.
    pub(super) fn observe_log(&self, facility: &str, line: &str) {
        let Some(id) = new_id(facility, line, &self.topic) else {
            return;
        };
        let mut known = self.id.lock().unwrap_or_else(PoisonError::into_inner);
        // Compared with our own copy: librdkafka forgets the id while the topic is missing.
        if known.as_deref().is_some_and(|before| before != id) {
            self.is_recreated.store(true, Ordering::Release);
        }
        *known = Some(id.to_owned());
    }

    /// Returns the id that was logged last; `None` if the brokers do not report ids.
    pub(super) fn id(&self) -> Option<String> {
        self.id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns `true` if the topic was recreated since the last call.
    pub(super) fn take(&self) -> bool {
        // Read first, because this is asked for each record, and a swap costs more than a read.
        self.is_recreated.load(Ordering::Acquire) && self.is_recreated.swap(false, Ordering::AcqRel)
    }
}

/// Returns the id in a line such as `[thrd:main]: Topic payment-orders changed id from AAAAAAAAAAAAAAAAAAAAAA
/// to qzWZZ0AiS2+KyFasPsl03Q`, which is logged for a topic's first id too.
fn new_id<'a>(facility: &str, line: &'a str, topic: &str) -> Option<&'a str> {
    if facility != "METADATA" {
        return None;
    }
    let (before, ids) = line.split_once(" changed id from ")?;
    let (_, name) = before.rsplit_once("Topic ")?;
    let (_, id) = ids.split_once(" to ")?;
    (name == topic).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_topic_id_is_a_recreation() {
        let recreation = TopicRecreation::of("orders");
        let observe = |topic: &str, from: &str, to: &str| {
            let line = format!("[thrd:main]: Topic {topic} changed id from {from} to {to}");
            recreation.observe_log("METADATA", &line);
            recreation.take()
        };
        assert!(
            !observe("orders", "AAAAAAAAAAAAAAAAAAAAAA", "one"),
            "its first id"
        );
        assert!(!observe("old.orders", "one", "two"), "another topic");
        assert!(
            !observe("orders", "AAAAAAAAAAAAAAAAAAAAAA", "one"),
            "the same id again"
        );
        assert!(observe("orders", "one", "two"));
        assert!(
            observe("orders", "AAAAAAAAAAAAAAAAAAAAAA", "three"),
            "librdkafka had forgotten the id"
        );
        assert!(!recreation.take(), "reported once");
        assert_eq!(recreation.id().as_deref(), Some("three"));
    }
}
