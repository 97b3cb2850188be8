//! Calls are made and come to their ends: sent, answered, tried again, published, finished.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::Report;
use super::call::{History, Next, Stage};
use super::event::{Action, CallId, Waits};
use super::held::{Phase, held_as};
use super::machine::Delivery;
use super::requests::{Known, What};

impl<P> Delivery<P> {
    /// Whether a call is ours and waits for the report of its request.
    #[must_use]
    pub fn awaits(&self, id: CallId) -> bool {
        let held = self.held.get(&id.partition);
        held.is_some_and(|held| held.is_calling(id.offset))
    }

    pub(super) fn send_ready(&mut self, now: Instant) {
        while self.requests.count() < self.limits.calls_in_flight_max && self.ownership.may_send(now) {
            let Some(id) = self.ready.pop_front() else {
                return;
            };
            let Some(held) = held_as(&mut self.held, id).filter(|held| held.phase == Phase::Active) else {
                continue;
            };
            let Some(call) = held.call(id.offset).filter(|call| call.stage == Stage::Ready) else {
                continue;
            };
            call.begin(now);
            if self.requests.is_under_way(id) {
                // An earlier assignment has asked already; its report will do.
                continue;
            }
            match self.requests.take_known(id, call.key.as_ref()) {
                Some(What::Reported(report, before)) => {
                    call.resume(before);
                    self.take_report(id, report, now);
                    continue;
                }
                Some(What::Ended) => {
                    self.finish(id, now);
                    continue;
                }
                None => {}
            }
            let (attempt, repeats) = (call.history.attempts, call.doubt);
            let payload = Arc::clone(&call.payload);
            let key = call.key.clone();
            held.begun();
            self.requests.begin(id, key);
            self.actions.push(Action::Send {
                call: id,
                attempt,
                repeats,
                payload,
            });
        }
    }

    pub(super) fn has_ready(&self) -> bool {
        // Those of partitions that are gone or draining are skipped only when they are next in line.
        self.ready.iter().any(|id| {
            self.held
                .get(&id.partition)
                .is_some_and(|held| held.assignment == id.assignment && held.phase == Phase::Active)
        })
    }

    pub(super) fn answered(&mut self, id: CallId, report: Report, now: Instant) {
        let Some(key) = self.requests.end(id) else {
            return;
        };
        // Not by the assignment: the call may be ours again by another one.
        match self.held.get_mut(&id.partition) {
            Some(held) if held.is_calling(id.offset) => {
                let assignment = held.assignment;
                self.take_report(CallId { assignment, ..id }, report, now);
            }
            _ => {
                let what = What::Reported(report, History::default());
                self.requests.keep(id, Known { key, what });
            }
        }
    }

    /// The report of a call that is ours and waits for it.
    fn take_report(&mut self, id: CallId, report: Report, now: Instant) {
        let Some(held) = held_as(&mut self.held, id) else {
            return;
        };
        let is_draining = held.phase == Phase::Draining;
        let Some(call) = held.call(id.offset) else {
            return;
        };
        let next = call.answered(report, &self.classes, now);
        let tries = call.history.attempts;
        match next {
            Next::Publish(_) => self.publish(id),
            // There is no time for another attempt; the next owner makes it.
            Next::Wait(_) | Next::Ready if is_draining => self.bytes_held -= held.let_go(id.offset),
            Next::Wait(at_least) => {
                self.actions.push(Action::Wait {
                    call: id,
                    what: Waits::Attempt,
                    tries,
                    at_least,
                });
            }
            Next::Ready => self.ready.push_front(id),
        }
    }

    pub(super) fn wait_over(&mut self, id: CallId, now: Instant) {
        let Some(call) = held_as(&mut self.held, id).and_then(|held| held.call(id.offset)) else {
            return;
        };
        match &call.stage {
            Stage::Waiting => {
                call.enter(Stage::Ready, now);
                // Before those that were never tried, so that the watermark moves.
                self.ready.push_front(id);
            }
            Stage::Unpublished(ending) => {
                let ending = Arc::clone(ending);
                call.enter(Stage::Publishing(ending), now);
                self.publish(id);
            }
            Stage::Behind | Stage::Ready | Stage::Calling | Stage::Publishing(_) => {}
        }
    }

    pub(super) fn publish(&mut self, id: CallId) {
        let Some(call) = held_as(&mut self.held, id).and_then(|held| held.call(id.offset)) else {
            return;
        };
        if let Stage::Publishing(ending) = &call.stage {
            self.actions.push(Action::Publish {
                call: id,
                ending: Arc::clone(ending),
                history: call.history,
                payload: Arc::clone(&call.payload),
            });
        }
    }

    pub(super) fn published(&mut self, id: CallId, acknowledged: bool, now: Instant) {
        let Some(held) = held_as(&mut self.held, id) else {
            return;
        };
        let Some(call) = held.call(id.offset) else {
            return;
        };
        let Stage::Publishing(ending) = &call.stage else {
            return;
        };
        if acknowledged {
            self.finish(id, now);
        } else {
            let ending = Arc::clone(ending);
            call.publications_failed += 1;
            let tries = call.publications_failed;
            call.enter(Stage::Unpublished(ending), now);
            let (what, at_least) = (Waits::Publication, Duration::ZERO);
            self.actions.push(Action::Wait {
                call: id,
                what,
                tries,
                at_least,
            });
        }
    }

    fn finish(&mut self, id: CallId, now: Instant) {
        let finished = held_as(&mut self.held, id).and_then(|held| held.finish(id.offset, now));
        if let Some((bytes, next)) = finished {
            self.bytes_held -= bytes;
            self.ready.extend(next.map(|offset| CallId { offset, ..id }));
        }
    }
}
