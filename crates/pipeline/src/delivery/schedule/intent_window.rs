//! Number of intents that may be recorded ahead of the free slots.
//!
//! Calls wait for a commit, and one commit takes many of them. While it is in flight, calls are sent whose
//! intents went ahead; those that it records are sent during the next one. So as many intents go ahead as
//! slots come free in the time of two commits. No more do: if this process is killed, each call whose intent
//! is recorded and that was not sent is parked, or looked up, for nothing.

use crate::delivery::event::CallId;

/// Intents that go with a commit, and the rate at which slots come free.
#[derive(Debug, Default)]
pub(crate) struct IntentWindow {
    /// Calls whose intent goes with the commit in flight, or with the next one.
    recording: Vec<CallId>,
    /// Requests that ended since the last commit was sent.
    ended_since_commit: usize,
    /// Requests that ended while the last acknowledged commit was in flight.
    ended_during_commit: usize,
}

/// Room for requests, as the rest of the delivery sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    /// Free slots in flight.
    pub(crate) free: usize,
    /// Maximum number of intents ahead of them.
    pub(crate) ahead_max: usize,
    /// Requests that flow control lets go soon.
    pub(crate) flow: usize,
    /// Calls that already wait for a slot.
    pub(crate) ready: usize,
}

impl IntentWindow {
    pub(crate) fn is_recording(&self) -> bool {
        !self.recording.is_empty()
    }

    pub(crate) fn push(&mut self, id: CallId) {
        self.recording.push(id);
    }

    /// Takes the calls whose intents go with a commit.
    pub(crate) fn take(&mut self) -> Vec<CallId> {
        std::mem::take(&mut self.recording)
    }

    pub(crate) fn clear(&mut self) {
        self.recording.clear();
    }

    /// Counts a request that ended.
    pub(crate) fn request_ended(&mut self) {
        self.ended_since_commit += 1;
    }

    /// Restarts the count, because a commit is sent.
    pub(crate) fn commit_sent(&mut self) {
        // Only what ends while the commit is in flight measures how long calls wait for it.
        self.ended_since_commit = 0;
    }

    /// Measures the slots that came free while a commit was in flight.
    pub(crate) fn commit_acknowledged(&mut self) {
        self.ended_during_commit = self.ended_since_commit;
    }

    /// Number of further intents that may be recorded now.
    pub(crate) fn room(&self, slots: Slots) -> usize {
        // Two commits: what is recorded during one of them is sent during the next. At the start nothing is
        // measured yet, and nothing goes ahead.
        let ahead = (self.ended_during_commit * 2).min(slots.ahead_max);
        let room = (slots.free + ahead).min(slots.flow);
        // Calls that wait for a slot already, and those being recorded, will take theirs first.
        room.saturating_sub(slots.ready + self.recording.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: Slots = Slots {
        free: 2,
        ahead_max: 5,
        flow: usize::MAX,
        ready: 0,
    };

    fn window(ended: usize) -> IntentWindow {
        let mut window = IntentWindow::default();
        window.commit_sent();
        (0..ended).for_each(|_| window.request_ended());
        window.commit_acknowledged();
        window
    }

    #[test]
    fn twice_the_slots_freed_by_a_commit_go_ahead() {
        assert_eq!(window(0).room(SLOTS), 2);
        assert_eq!(window(2).room(SLOTS), 6);
        assert_eq!(window(9).room(SLOTS), 7, "no more than the limit");
    }

    #[test]
    fn waiting_calls_and_flow_control_take_room() {
        assert_eq!(window(2).room(Slots { ready: 4, ..SLOTS }), 2);
        assert_eq!(window(2).room(Slots { ready: 9, ..SLOTS }), 0);
        assert_eq!(window(2).room(Slots { flow: 1, ..SLOTS }), 1);
    }
}
