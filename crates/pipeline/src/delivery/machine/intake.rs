//! Calls are taken in, and partitions are paused while there are enough.

use std::time::Instant;

use crate::delivery::event::{Action, CallId, Pending};
use crate::delivery::machine::Delivery;
use crate::delivery::partition::{Phase, Taken};

impl<P> Delivery<P> {
    pub(super) fn pending(&mut self, pending: Pending<P>, now: Instant) {
        let (partition, offset, bytes) = (pending.partition, pending.offset, pending.bytes);
        let Some(held) = self.held.get_mut(&partition) else {
            return;
        };
        let call = CallId {
            assignment: held.assignment,
            partition,
            offset,
        };
        let taken = held.take(pending, self.limits.ownership_lease, now);
        if taken == Taken::Nothing {
            return;
        }
        self.bytes_open += bytes;
        match taken {
            Taken::Nothing | Taken::Behind => {}
            Taken::Ready => self.first_of_key(call, now),
            Taken::Publish => self.publish(call),
        }
    }

    /// Stops and starts intake, with room between the two, because a pause drops what was fetched ahead.
    pub(super) fn steer_intake(&mut self) {
        let limits = &self.limits;
        let is_open = self.pace.is_open();
        let is_full = self.bytes_open >= limits.bytes_open_max;
        let is_half_empty = self.bytes_open <= limits.bytes_open_max / 2;
        let (mut to_pause, mut to_resume) = (Vec::new(), Vec::new());
        for (partition, held) in self
            .held
            .iter_mut()
            .filter(|(_, held)| held.phase == Phase::Active)
        {
            let window_max = limits.deferral.window_max;
            let is_held_full =
                held.calls_open() >= limits.calls_open_max || held.span() >= window_max || !held.has_room();
            let is_held_half_empty = held.calls_open() <= limits.calls_open_max / 2
                && held.span() <= window_max / 2
                && held.has_room();
            if is_full || is_held_full {
                held.is_full = true;
            } else if is_half_empty && is_held_half_empty {
                held.is_full = false;
            }
            // While the API is ill nothing is taken in but what the next probe may need: were it only calls that fail
            // by their own fault, one that was never tried would show it.
            let has_enough = held.is_full || (is_open && held.has_untried());
            if !held.is_paused && has_enough {
                held.is_paused = true;
                to_pause.push(*partition);
            } else if held.is_paused && !has_enough {
                held.is_paused = false;
                to_resume.push(*partition);
            }
        }
        if !to_pause.is_empty() {
            self.actions.push(Action::Pause(to_pause));
        }
        if !to_resume.is_empty() {
            self.actions.push(Action::Resume(to_resume));
        }
    }
}
