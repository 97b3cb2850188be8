//! Partitions that leave: revoked ones drain first, lost ones do not.

use std::time::Instant;

use records::Partition;

use super::Delivery;
use crate::delivery::call::{CallState, FinalState};
use crate::delivery::event::{Action, CallId, Rejoin};
use crate::delivery::partition::Phase;
use crate::delivery::response::{ClassifiedResponse, Response, ResponseClass};
use crate::delivery::schedule::{Known, KnownResult};

impl<P> Delivery<P> {
    pub(super) fn revoked(&mut self, partitions: Vec<Partition>, now: Instant) {
        self.drain(&partitions);
        self.drains.revoke(partitions, now + self.limits.drain_timeout);
    }

    pub(super) fn lost(&mut self, partitions: Vec<Partition>, now: Instant) {
        // First of all: another caller may own them already.
        self.actions.push(Action::Withhold(partitions.clone()));
        self.lease.end();
        // The commit in flight was sent by the membership that is over, so it proves nothing of the next one.
        self.commits.void_proof();
        for partition in &partitions {
            self.forget_partition(*partition);
        }
        self.drains.lose(partitions, now);
    }

    pub(super) fn shut_down(&mut self, now: Instant) {
        // A repeated stop does not extend the deadline.
        if self.drains.is_shutting_down() {
            return;
        }
        let partitions: Vec<Partition> = self.partitions.numbers().collect();
        self.drain(&partitions);
        self.drains.shut_down(now + self.limits.drain_timeout);
    }

    /// Stops intake, and releases what is not in flight.
    fn drain(&mut self, partitions: &[Partition]) {
        let mut to_pause = Vec::new();
        for partition in partitions {
            let Some(owned) = self.partitions.get_mut(*partition) else {
                continue;
            };
            match owned.phase() {
                Phase::Active => {
                    if owned.stop_intake() {
                        to_pause.push(*partition);
                    }
                    self.partitions.drain(*partition);
                }
                // Nothing was started.
                Phase::Loading | Phase::Halted => self.partitions.remove(*partition),
                Phase::Draining => {}
            }
        }
        if !to_pause.is_empty() {
            self.actions.push(Action::Pause(to_pause));
        }
        self.forget_released();
    }

    /// Removes released calls from the queues.
    fn forget_released(&mut self) {
        // Left there they would take the slots of others: the number of intents ahead counts the calls that
        // are ready.
        let partitions = &self.partitions;
        self.queues.retain(|id| partitions.is_active(id));
        self.look_ups.retain_waiting(|id| partitions.is_active(id));
    }

    /// Releases calls that have not finished in time; the next owner decides on them by its policy.
    pub(super) fn expire_drains(&mut self, now: Instant) {
        let mut overdue = self.drains.take_overdue(now, self.partitions.numbers());
        overdue.retain(|partition| self.partitions.get(*partition).is_some());
        if overdue.is_empty() {
            return;
        }
        // What is known of these calls stays useful: the partition may come back to this process.
        for partition in &overdue {
            self.remember_results(*partition);
            self.partitions.release_overdue(*partition);
        }
        self.actions.push(Action::Withhold(overdue));
    }

    /// Releases revoked partitions that are drained, or whose time is over.
    pub(super) fn release_drained(&mut self, now: Instant) {
        // Never while a commit is in flight: librdkafka may send it again under the next generation, in which
        // the partition is another caller's.
        while self.commits.is_idle() {
            let partitions = &self.partitions;
            let is_drained = |partition, is_over| {
                let owned = partitions.get(partition);
                owned.is_none_or(|owned| is_over || owned.is_drained())
            };
            let drained = self.drains.take_drained(self.limits.commit_max, now, is_drained);
            let Some(released) = drained else {
                return;
            };
            for partition in &released {
                self.forget_partition(*partition);
            }
            let abandoned = self.requests.in_flight_of(&released);
            self.actions.push(Action::Release {
                partitions: released,
                abandoned,
            });
        }
    }

    pub(super) fn finish_if_drained(&mut self, now: Instant) {
        if !self.drains.is_shutting_down() {
            return;
        }
        let is_drained = self.commits.is_idle()
            && !self.drains.has_revocations()
            && self.partitions.iter().all(|(_, owned)| owned.is_drained());
        if self.drains.finish(self.limits.commit_max, now, is_drained) {
            self.actions.push(Action::Finish);
        }
    }

    /// Ends the membership, and joins the group again unless this is a shutdown.
    pub(super) fn rejoin(&mut self, why: Rejoin) {
        let partitions: Vec<Partition> = self.partitions.numbers().collect();
        for partition in &partitions {
            self.forget_partition(*partition);
        }
        self.actions.push(Action::Withhold(partitions));
        self.queues.clear();
        self.intents.clear();
        self.look_ups.clear_waiting();
        self.deferrals.clear();
        self.drains.clear_revocations();
        self.commits.reset();
        self.lease.end();
        // A shutdown leaves the group anyway.
        if !self.drains.is_shutting_down() {
            self.actions.push(Action::Rejoin(why));
        }
    }

    /// Drops a partition that is not ours any longer.
    fn forget_partition(&mut self, partition: Partition) {
        self.remember_results(partition);
        self.partitions.remove(partition);
        self.forget_released();
    }

    /// Remembers the results of a partition's calls that are not committed, should it come back to this
    /// process.
    fn remember_results(&mut self, partition: Partition) {
        let Some(owned) = self.partitions.get_mut(partition) else {
            return;
        };
        let assignment = owned.assignment();
        let id = |offset| CallId {
            assignment,
            partition,
            offset,
        };
        for (offset, call) in owned.calls() {
            let (CallState::Publishing(final_state) | CallState::Unpublished(final_state)) = call.state().0
            else {
                continue;
            };
            let (class, http) = match &**final_state {
                FinalState::Accepted(http) => (ResponseClass::Accepted, http),
                FinalState::Rejected(http) => (ResponseClass::Rejected, http),
                // Not kept: the next assignment decides on these again.
                FinalState::Found(_)
                | FinalState::Abandoned(_)
                | FinalState::Parked(_)
                | FinalState::NotACall => continue,
            };
            let response = ClassifiedResponse::from_parts(class, Response::Status(http.clone()));
            let result = KnownResult::Response(response, *call.history());
            let key = call.key().cloned();
            self.requests.remember(id(offset), Known { key, result });
        }
        for (offset, key) in owned.take_uncommitted_finals() {
            let result = KnownResult::Final;
            self.requests.remember(id(offset), Known { key, result });
        }
    }
}
