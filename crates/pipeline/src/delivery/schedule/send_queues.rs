//! Calls that wait to be sent.

use std::collections::VecDeque;

use crate::delivery::call::Policy;
use crate::delivery::event::CallId;

/// Calls that wait for a slot, or for their intent to be recorded, in their order. Entries may be stale:
/// whoever takes one checks the state of its call.
#[derive(Debug, Default)]
pub(crate) struct SendQueues {
    ready: VecDeque<CallId>,
    awaiting_intent: VecDeque<CallId>,
}

/// End of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Front,
    Back,
}

impl SendQueues {
    /// Adds a call that may be sent.
    pub(crate) fn push_ready(&mut self, id: CallId) {
        self.ready.push_back(id);
    }

    /// Adds a call to the queue that its policy asks for.
    pub(crate) fn push(&mut self, id: CallId, policy: Policy, end: End) {
        let queue = match policy.requires_intent() {
            true => &mut self.awaiting_intent,
            false => &mut self.ready,
        };
        match end {
            End::Front => queue.push_front(id),
            End::Back => queue.push_back(id),
        }
    }

    pub(crate) fn pop_ready(&mut self) -> Option<CallId> {
        self.ready.pop_front()
    }

    pub(crate) fn pop_awaiting_intent(&mut self) -> Option<CallId> {
        self.awaiting_intent.pop_front()
    }

    /// Calls that may be sent.
    pub(crate) fn ready(&self) -> impl ExactSizeIterator<Item = CallId> + '_ {
        self.ready.iter().copied()
    }

    pub(crate) fn awaiting_intent(&self) -> usize {
        self.awaiting_intent.len()
    }

    /// Moves calls that may be sent back to the front of those whose intent is to be recorded, in their
    /// order.
    pub(crate) fn take_back(&mut self, mut choose: impl FnMut(CallId) -> Recall) {
        let mut taken_back = Vec::new();
        self.ready.retain(|id| match choose(*id) {
            Recall::Keep => true,
            Recall::Forget => false,
            Recall::TakeBack => {
                taken_back.push(*id);
                false
            }
        });
        // From the last one on, so that the first one ends up in front.
        for id in taken_back.into_iter().rev() {
            self.awaiting_intent.push_front(id);
        }
    }

    // Entries of partitions that left are removed at once, because `ready` counts against the room for
    // intents. Other stale entries are few, and are skipped when they are next in line.
    pub(crate) fn retain(&mut self, keep: impl Fn(CallId) -> bool) {
        self.ready.retain(|id| keep(*id));
        self.awaiting_intent.retain(|id| keep(*id));
    }

    pub(crate) fn clear(&mut self) {
        self.ready.clear();
        self.awaiting_intent.clear();
    }
}

/// Decision on a call that may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recall {
    Keep,
    /// Drop the entry, which is stale.
    Forget,
    /// Have its intent recorded again later.
    TakeBack,
}

#[cfg(test)]
mod tests {
    use records::{Offset, Partition};

    use super::*;
    use crate::delivery::event::Assignment;

    fn id(offset: i64) -> CallId {
        CallId {
            assignment: Assignment(1),
            partition: Partition(0),
            offset: Offset(offset),
        }
    }

    #[test]
    fn calls_taken_back_keep_their_order() {
        let mut queues = SendQueues::default();
        (0..4).for_each(|offset| queues.push_ready(id(offset)));
        queues.push(id(9), Policy::Park, End::Back);
        queues.take_back(|id| match id.offset.0 {
            0 => Recall::Keep,
            1 => Recall::Forget,
            _ => Recall::TakeBack,
        });
        assert_eq!(queues.ready().collect::<Vec<_>>(), [id(0)]);
        let next: Vec<_> = std::iter::from_fn(|| queues.pop_awaiting_intent()).collect();
        assert_eq!(next, [id(2), id(3), id(9)]);
    }

    #[test]
    fn policy_chooses_the_queue() {
        let mut queues = SendQueues::default();
        queues.push(id(1), Policy::Retry, End::Back);
        queues.push(id(2), Policy::Retry, End::Front);
        queues.push(id(3), Policy::Verify, End::Back);
        assert_eq!(queues.pop_ready(), Some(id(2)));
        assert_eq!(queues.pop_awaiting_intent(), Some(id(3)));
        queues.clear();
        assert_eq!(queues.pop_ready(), None);
    }
}
