//! Partitions go: those that are wanted elsewhere drain first, those that are lost do not.

use std::time::Instant;

use records::Partition;

use super::in_flight::{Known, What};
use crate::delivery::call::{CallState, FinalState};
use crate::delivery::event::{Action, CallId, Rejoin};
use crate::delivery::machine::{Delivery, Leaving, Stopping};
use crate::delivery::partition::Phase;
use crate::delivery::response::Response;

impl<P> Delivery<P> {
    pub(super) fn revoked(&mut self, partitions: Vec<Partition>, now: Instant) {
        self.drain(&partitions);
        self.leaving.push(Leaving {
            partitions,
            until: now + self.limits.drain_timeout,
            is_drained: false,
        });
    }

    pub(super) fn lost(&mut self, partitions: Vec<Partition>, now: Instant) {
        self.actions.push(Action::Withhold(partitions.clone()));
        self.ownership.forget();
        if let Some(commit) = &mut self.in_flight {
            commit.proves = false;
        }
        for partition in &partitions {
            self.drop_held(*partition);
        }
        for leaving in &mut self.leaving {
            leaving
                .partitions
                .retain(|partition| !partitions.contains(partition));
        }
        self.leaving.retain(|leaving| !leaving.partitions.is_empty());
        self.leaving.push(Leaving {
            partitions,
            until: now,
            is_drained: false,
        });
    }

    pub(super) fn stop(&mut self, now: Instant) {
        if self.stop.is_some() {
            return;
        }
        let partitions: Vec<Partition> = self.held.keys().copied().collect();
        self.drain(&partitions);
        self.stop = Some(Stopping {
            until: now + self.limits.drain_timeout,
            is_drained: false,
            is_finished: false,
        });
    }

    /// Takes no more calls of these partitions, and lets go what is not in flight.
    fn drain(&mut self, partitions: &[Partition]) {
        let mut to_pause = Vec::new();
        for partition in partitions {
            let Some(held) = self.held.get_mut(partition) else {
                continue;
            };
            match held.phase {
                Phase::Active => {
                    self.bytes_open -= held.drain();
                    if !held.is_paused {
                        held.is_paused = true;
                        to_pause.push(*partition);
                    }
                }
                Phase::Loading | Phase::Refused => {
                    self.held.remove(partition);
                }
                Phase::Draining => {}
            }
        }
        if !to_pause.is_empty() {
            self.actions.push(Action::Pause(to_pause));
        }
        self.forget_gone();
    }

    /// Calls that were let go wait for nothing any more. Left where they waited, they would take the places of others.
    pub(super) fn forget_gone(&mut self) {
        let held = &self.held;
        let is_active = |id: &CallId| {
            held.get(&id.partition)
                .is_some_and(|held| held.assignment == id.assignment && held.phase == Phase::Active)
        };
        self.ready.retain(is_active);
        self.awaiting_intent.retain(is_active);
        self.lookups.retain(is_active);
    }

    pub(super) fn deadline(&self, until: Instant, is_drained: bool) -> Instant {
        match is_drained {
            false => until,
            true => until + self.limits.commit_max,
        }
    }

    /// Calls that have not finished in time are let go; what they came to is the next owner's question.
    pub(super) fn end_late_drains(&mut self, now: Instant) {
        let mut late = Vec::new();
        for leaving in &mut self.leaving {
            if now >= leaving.until && !leaving.is_drained {
                leaving.is_drained = true;
                late.extend(leaving.partitions.iter().copied());
            }
        }
        if let Some(stop) = &mut self.stop
            && now >= stop.until
            && !stop.is_drained
        {
            stop.is_drained = true;
            late.extend(self.held.keys().copied());
        }
        late.retain(|partition| self.held.contains_key(partition));
        if late.is_empty() {
            return;
        }
        for partition in &late {
            self.keep_known(*partition);
            if let Some(held) = self.held.get_mut(partition) {
                self.bytes_open -= held.let_go_late();
            }
        }
        self.actions.push(Action::Withhold(late));
    }

    pub(super) fn give_up_drained(&mut self, now: Instant) {
        // A commit that is sent once more by librdkafka would carry the next generation, in which the
        // partition is another caller's.
        while self.in_flight.is_none() {
            let is_drained = |leaving: &Leaving| {
                let is_late = now >= leaving.until + self.limits.commit_max;
                leaving
                    .partitions
                    .iter()
                    .all(|partition| match self.held.get(partition) {
                        Some(held) => is_late || (held.calls_open() == 0 && !held.is_dirty()),
                        None => true,
                    })
            };
            let Some(at) = self.leaving.iter().position(is_drained) else {
                return;
            };
            let partitions = self.leaving.remove(at).partitions;
            partitions.iter().for_each(|partition| self.drop_held(*partition));
            let abandoned = self.requests.of(&partitions);
            self.actions.push(Action::Release {
                partitions,
                abandoned,
            });
        }
    }

    pub(super) fn finish_if_drained(&mut self, now: Instant) {
        let Some(stop) = &mut self.stop else {
            return;
        };
        let is_late = now >= stop.until + self.limits.commit_max;
        let is_drained = self.in_flight.is_none()
            && self.leaving.is_empty()
            && self
                .held
                .values()
                .all(|held| held.calls_open() == 0 && !held.is_dirty());
        if (is_drained || is_late) && !stop.is_finished {
            stop.is_finished = true;
            self.actions.push(Action::Finish);
        }
    }

    /// The membership is over, by the group's decision or by ours.
    pub(super) fn rejoin(&mut self, why: Rejoin) {
        let partitions: Vec<Partition> = self.held.keys().copied().collect();
        partitions.iter().for_each(|partition| self.drop_held(*partition));
        self.actions.push(Action::Withhold(partitions));
        self.ready.clear();
        self.awaiting_intent.clear();
        self.beginning.clear();
        self.lookups.clear();
        self.deferral.clear();
        self.leaving.clear();
        self.in_flight = None;
        self.commit_after = None;
        self.commit_again = None;
        self.ownership.forget();
        // Who ends does not come back.
        if self.stop.is_none() {
            self.actions.push(Action::Rejoin(why));
        }
    }

    /// A partition is not ours any longer.
    fn drop_held(&mut self, partition: Partition) {
        self.keep_known(partition);
        if let Some(mut held) = self.held.remove(&partition) {
            self.bytes_open -= held.let_all_go();
        }
        self.forget_gone();
    }

    /// What is known of calls that are let go is kept for the partition's return.
    fn keep_known(&mut self, partition: Partition) {
        let Some(held) = self.held.get_mut(&partition) else {
            return;
        };
        let assignment = held.assignment;
        let id = |offset| CallId {
            assignment,
            partition,
            offset,
        };
        for (offset, call) in held.calls() {
            if let CallState::Publishing(ending) | CallState::Unpublished(ending) = &call.state
                && let FinalState::Accepted(reply) | FinalState::Rejected(reply) = &**ending
            {
                let what = What::Reported(Response::Status(reply.clone()), call.history);
                let key = call.key.clone();
                self.requests.keep(id(offset), Known { key, what });
            }
        }
        for (offset, key) in held.take_ended() {
            let what = What::Ended;
            self.requests.keep(id(offset), Known { key, what });
        }
    }
}
