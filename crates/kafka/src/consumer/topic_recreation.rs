//! Whether a consumer's topic was deleted and created again under it.
//!
//! librdkafka then reads on in the new topic, at the offset that it had reached in the old one, and says nothing of it
//! to its caller: what lies before that offset would be passed over. It tells of the new id in its debug log for
//! `metadata`, before it asks for the first record by it, and the log comes in one queue with the records. So each
//! record of the new topic comes after the word.

use std::sync::{Mutex, PoisonError};

/// The debug log that this is read from; some lines each time the metadata is fetched.
pub(crate) const DEBUG_CONTEXT: &str = "metadata";

/// What was heard of a topic's id.
pub(crate) struct Recreated {
    topic: String,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    id: Option<String>,
    is_another: bool,
}

impl Recreated {
    /// Of this topic nothing was heard yet.
    pub(crate) fn of(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            heard: Mutex::default(),
        }
    }

    /// Takes in a line of librdkafka's log.
    pub(crate) fn hear(&self, facility: &str, line: &str) {
        let Some(id) = new_id(facility, line, &self.topic) else {
            return;
        };
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_another |= heard.id.as_deref().is_some_and(|before| before != id);
        heard.id = Some(id.to_owned());
    }

    /// Whether it was created again since this was asked last.
    pub(crate) fn take(&self) -> bool {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut heard.is_another)
    }
}

/// The id in a line such as
/// `[thrd:main]: Topic payment-orders changed id from AAAAAAAAAAAAAAAAAAAAAA to qzWZZ0AiS2+KyFasPsl03Q`, which comes
/// for a topic's first id too.
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
    fn a_topic_with_another_id_was_created_again() {
        let recreated = Recreated::of("orders");
        let hear = |topic: &str, from: &str, to: &str| {
            let line = format!("[thrd:main]: Topic {topic} changed id from {from} to {to}");
            recreated.hear("METADATA", &line);
            recreated.take()
        };
        assert!(!hear("orders", "AAAAAAAAAAAAAAAAAAAAAA", "one"), "its first id");
        assert!(!hear("old.orders", "one", "two"), "another topic");
        assert!(!hear("orders", "AAAAAAAAAAAAAAAAAAAAAA", "one"), "the same again");
        assert!(hear("orders", "one", "two"));
        assert!(
            hear("orders", "AAAAAAAAAAAAAAAAAAAAAA", "three"),
            "forgotten meanwhile"
        );
        assert!(!recreated.take(), "it was told");
    }
}
