//! Intake: takes calls in, and pauses partitions that have enough.

use std::time::Instant;

use records::{Offset, Partition};

use super::Delivery;
use crate::delivery::call::Pending;
use crate::delivery::event::Action;
use crate::delivery::partition::{IntakeChange, Taken};

impl<P> Delivery<P> {
    pub(super) fn pending(&mut self, pending: Pending<P>, now: Instant) {
        match self.partitions.take(pending, self.limits.ownership_lease, now) {
            Some((id, Taken::First)) => self.first_of_key(id, now),
            // It is not skipped: each record below the commit position has its final state.
            Some((id, Taken::NotACall)) => self.publish(id),
            Some((id, Taken::OfOtherGroup)) => self.actions.push(Action::Skip(id)),
            Some((_, Taken::BlockedByKey)) | None => {}
        }
    }

    pub(super) fn reached_end(&mut self, partition: Partition, next: Offset) {
        if let Some(owned) = self.partitions.get_mut(partition) {
            owned.reached_end(next);
        }
    }

    /// Pauses the intake of partitions that are full, and resumes it when half is free.
    pub(super) fn update_intake(&mut self) {
        let bytes = self.partitions.bytes_level(&self.limits);
        let is_breaker_open = self.flow.is_breaker_open();
        let (mut to_pause, mut to_resume) = (Vec::new(), Vec::new());
        for (partition, owned) in self.partitions.iter_mut() {
            // Draining partitions are paused for good, and the others were never started.
            if !owned.is_active() {
                continue;
            }
            match owned.update_intake(&self.limits, bytes, is_breaker_open) {
                Some(IntakeChange::Pause) => to_pause.push(partition),
                Some(IntakeChange::Resume) => to_resume.push(partition),
                None => {}
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
