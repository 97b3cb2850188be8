//! Look-ups that wait, and those in flight.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::delivery::event::CallId;

/// Look-ups of ambiguous calls.
#[derive(Debug, Default)]
pub(crate) struct LookUps {
    /// Calls to be looked up. Entries may be stale: whoever takes one checks its state.
    waiting: VecDeque<CallId>,
    /// Look-ups in flight, with the time when each was sent.
    in_flight: BTreeMap<CallId, Instant>,
}

impl LookUps {
    pub(crate) fn push(&mut self, id: CallId) {
        self.waiting.push_back(id);
    }

    pub(crate) fn pop(&mut self) -> Option<CallId> {
        self.waiting.pop_front()
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(crate) fn has_free_slot(&self, in_flight_max: usize) -> bool {
        // As many slots as requests have, but apart from them: look-ups that hang hold up no calls.
        self.in_flight.len() < in_flight_max
    }

    /// Records a look-up that is sent.
    pub(crate) fn sent(&mut self, id: CallId, now: Instant) {
        self.in_flight.insert(id, now);
    }

    /// Ends a look-up. Returns when it was sent, or `None` if none was in flight.
    pub(crate) fn end(&mut self, id: CallId) -> Option<Instant> {
        self.in_flight.remove(&id)
    }

    pub(crate) fn retain_waiting(&mut self, keep: impl Fn(CallId) -> bool) {
        self.waiting.retain(|id| keep(*id));
    }

    /// Forgets the look-ups that wait.
    pub(crate) fn clear_waiting(&mut self) {
        // Look-ups in flight keep their slots until they end: the API still works on them.
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use records::{Offset, Partition};

    use super::*;
    use crate::delivery::event::Assignment;

    #[test]
    fn look_up_in_flight_keeps_its_slot_until_it_ends() {
        let id = CallId {
            assignment: Assignment(1),
            partition: Partition(0),
            offset: Offset(7),
        };
        let mut look_ups = LookUps::default();
        look_ups.push(id);
        assert_eq!(look_ups.pop(), Some(id));
        let sent_at = Instant::now();
        look_ups.sent(id, sent_at);
        look_ups.clear_waiting();
        assert!(!look_ups.has_free_slot(1));
        assert_eq!(look_ups.end(id), Some(sent_at));
        assert_eq!(look_ups.end(id), None);
        assert!(look_ups.has_free_slot(1));
    }
}
