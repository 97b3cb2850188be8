//! Order of calls per idempotency key.

use std::collections::{HashMap, VecDeque};

use records::{IdempotencyKey, Offset};

/// Open calls of each idempotency key, in the order of the outbox. Only the first call of a key may be sent.
#[derive(Debug, Default)]
pub(super) struct KeyQueues {
    by_key: HashMap<IdempotencyKey, VecDeque<Offset>>,
}

impl KeyQueues {
    /// Appends a call. Returns `true` if it is the first of its key.
    pub(super) fn push(&mut self, key: &IdempotencyKey, offset: Offset) -> bool {
        let queue = self.by_key.entry(key.clone()).or_default();
        queue.push_back(offset);
        queue.len() == 1
    }

    /// Removes the first call of a key, which is final. Returns the next one.
    pub(super) fn pop(&mut self, key: &IdempotencyKey, finished: Offset) -> Option<Offset> {
        let queue = self.by_key.get_mut(key)?;
        debug_assert_eq!(
            queue.front(),
            Some(&finished),
            "a later call of a key was final first"
        );
        queue.pop_front();
        let next = queue.front().copied();
        if next.is_none() {
            // Keys are as many as orders, so an empty queue that stayed would leak memory.
            self.by_key.remove(key);
        }
        next
    }

    /// Returns `true` if a call is the first of its key.
    pub(super) fn is_first(&self, key: &IdempotencyKey, offset: Offset) -> bool {
        self.of(key).next() == Some(offset)
    }

    /// Open calls of one key, in their order.
    pub(super) fn of(&self, key: &IdempotencyKey) -> impl Iterator<Item = Offset> + '_ {
        self.by_key.get(key).into_iter().flatten().copied()
    }

    pub(super) fn clear(&mut self) {
        self.by_key.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_call_of_a_key_follows_the_finished_one() {
        let key = |text: &str| IdempotencyKey::new(text).expect("a key");
        let (a, b) = (key("a"), key("b"));
        let mut queues = KeyQueues::default();
        assert!(queues.push(&a, Offset(1)));
        assert!(queues.push(&b, Offset(2)));
        assert!(!queues.push(&a, Offset(3)));
        assert!(queues.is_first(&a, Offset(1)) && !queues.is_first(&a, Offset(3)));
        assert_eq!(queues.of(&a).collect::<Vec<_>>(), [Offset(1), Offset(3)]);
        assert_eq!(queues.pop(&a, Offset(1)), Some(Offset(3)));
        assert_eq!(queues.pop(&a, Offset(3)), None);
        assert!(queues.push(&a, Offset(4)), "the key is free again");
    }
}
