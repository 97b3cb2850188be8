//! The state of the delivery, and the order in which things follow from an event.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use records::Partition;

use super::answer::{Classes, Report};
use super::call::{Call, Ending, Stage};
use super::event::{Action, Assignment, CallId, Commit, CommitResult, Event, Rejoin};
use super::held::{Held, Phase};
use super::limits::Limits;
use super::ownership::Ownership;
use super::requests::{Known, Requests, What};

/// How long a commit that was surely not taken waits to be made again: the group is in a rebalance.
const COMMIT_AGAIN: Duration = Duration::from_millis(100);

/// All partitions in our hands, and everything that is decided about them.
#[derive(Debug)]
pub struct Delivery<P> {
    pub(super) limits: Limits,
    pub(super) classes: Classes,
    pub(super) held: BTreeMap<Partition, Held<P>>,
    pub(super) assignments: u64,
    /// Calls that may be sent, in order. Some may be gone since.
    pub(super) ready: VecDeque<CallId>,
    /// The requests of this process, also those of partitions that are gone: the API works on them.
    pub(super) requests: Requests,
    pub(super) bytes_held: usize,
    pub(super) ownership: Ownership,
    pub(super) in_flight: Option<CommitInFlight>,
    /// When the interval since the last commit is over.
    pub(super) commit_after: Option<Instant>,
    /// When a commit that was not taken may be made again.
    pub(super) commit_again: Option<Instant>,
    pub(super) leaving: Vec<Leaving>,
    pub(super) stop: Option<Stopping>,
    pub(super) actions: Vec<Action<P>>,
}

#[derive(Debug)]
pub(super) struct CommitInFlight {
    pub(super) sent_at: Instant,
    pub(super) content: Vec<(Partition, Assignment, u64)>,
    /// Whether its acknowledgement proves anything; not, if partitions were lost meanwhile.
    pub(super) proves: bool,
}

/// Partitions on their way out, which the group waits for.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) partitions: Vec<Partition>,
    pub(super) until: Instant,
    pub(super) is_drained: bool,
}

#[derive(Debug)]
pub(super) struct Stopping {
    pub(super) until: Instant,
    pub(super) is_drained: bool,
    pub(super) is_finished: bool,
}

/// How much is held, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Partitions whose calls are made.
    pub partitions: usize,
    /// Partitions that are being loaded.
    pub partitions_loading: usize,
    /// Partitions that a person must look at.
    pub partitions_refused: usize,
    /// Partitions that are on their way out.
    pub partitions_draining: usize,
    /// Calls that are not final.
    pub calls_held: usize,
    /// Requests under way.
    pub calls_under_way: usize,
    /// Bytes of the calls that are not final.
    pub bytes_held: usize,
}

impl<P> Delivery<P> {
    /// Without partitions.
    #[must_use]
    pub fn new(limits: Limits, classes: Classes) -> Self {
        Self {
            limits,
            classes,
            held: BTreeMap::new(),
            assignments: 0,
            ready: VecDeque::new(),
            requests: Requests::default(),
            bytes_held: 0,
            ownership: Ownership::new(limits.ownership_max),
            in_flight: None,
            commit_after: None,
            commit_again: None,
            leaving: Vec::new(),
            stop: None,
            actions: Vec::new(),
        }
    }

    /// Takes in what happened, and says what is to be done, in this order.
    pub fn on(&mut self, event: Event<P>, now: Instant) -> Vec<Action<P>> {
        match event {
            Event::Assigned(partitions) => self.assigned(partitions),
            Event::NotesLoaded {
                assignment,
                partition,
                loaded,
            } => {
                self.notes_loaded(assignment, partition, loaded);
            }
            Event::Pending(pending) => self.pending(pending, now),
            Event::Answered { call, report } => self.answered(call, report, now),
            Event::WaitOver(call) => self.wait_over(call, now),
            Event::Published { call, acknowledged } => self.published(call, acknowledged, now),
            Event::Committed(result) => self.committed(result, now),
            Event::Revoked(partitions) => self.revoked(partitions, now),
            Event::Lost(partitions) => self.lost(partitions, now),
            Event::ClientLost => self.rejoin(Rejoin::ClientLost),
            Event::Stop => self.stop(now),
            Event::Tick => {}
        }
        self.settle(now);
        std::mem::take(&mut self.actions)
    }

    /// When [`Event::Tick`] is wanted, if nothing else happens before.
    #[must_use]
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        let commit = match &self.in_flight {
            Some(commit) => Some(commit.sent_at + self.limits.commit_max),
            None => self.commit_at(now),
        };
        let leaving = self
            .leaving
            .iter()
            .map(|leaving| self.deadline(leaving.until, leaving.is_drained));
        let stop = self.stop.iter().filter(|stop| !stop.is_finished);
        let stop = stop.map(|stop| self.deadline(stop.until, stop.is_drained));
        leaving.chain(stop).chain(commit).min()
    }

    /// The calls that are not final, for people: partition by partition, in their order.
    pub fn calls(&self) -> impl Iterator<Item = (CallId, &Call<P>)> {
        self.held.iter().flat_map(|(&partition, held)| {
            let assignment = held.assignment;
            held.calls().map(move |(offset, call)| {
                (
                    CallId {
                        assignment,
                        partition,
                        offset,
                    },
                    call,
                )
            })
        })
    }

    /// What each report means.
    #[must_use]
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// How much is held.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let in_phase = |phase| self.held.values().filter(|held| held.phase == phase).count();
        Gauges {
            partitions: in_phase(Phase::Active),
            partitions_loading: in_phase(Phase::Loading),
            partitions_refused: in_phase(Phase::Refused),
            partitions_draining: in_phase(Phase::Draining),
            calls_held: self.held.values().map(Held::calls_held).sum(),
            calls_under_way: self.requests.count(),
            bytes_held: self.bytes_held,
        }
    }

    fn committed(&mut self, result: CommitResult, now: Instant) {
        let Some(commit) = self.in_flight.take() else {
            return;
        };
        match result {
            CommitResult::Done => {
                for (partition, assignment, changes) in commit.content {
                    if let Some(held) = self.held.get_mut(&partition)
                        && held.assignment == assignment
                    {
                        held.committed(changes);
                    }
                }
                self.commit_after = Some(commit.sent_at + self.limits.commit_interval);
                if commit.proves {
                    self.ownership.prove(commit.sent_at);
                    self.actions.extend(self.ownership.until().map(Action::Permit));
                }
            }
            CommitResult::NotDone => self.commit_again = Some(now + COMMIT_AGAIN),
            // What was lost is known to be over.
            CommitResult::Fenced if self.held.is_empty() => {}
            CommitResult::Fenced => self.rejoin(Rejoin::Fenced),
            CommitResult::Unknown => self.rejoin(Rejoin::CommitUnknown),
        }
    }

    fn revoked(&mut self, partitions: Vec<Partition>, now: Instant) {
        self.drain(&partitions);
        self.leaving.push(Leaving {
            partitions,
            until: now + self.limits.drain_max,
            is_drained: false,
        });
    }

    fn lost(&mut self, partitions: Vec<Partition>, now: Instant) {
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

    fn stop(&mut self, now: Instant) {
        if self.stop.is_some() {
            return;
        }
        let partitions: Vec<Partition> = self.held.keys().copied().collect();
        self.drain(&partitions);
        self.stop = Some(Stopping {
            until: now + self.limits.drain_max,
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
                    self.bytes_held -= held.drain();
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
    }

    /// Everything that follows from what is known now.
    fn settle(&mut self, now: Instant) {
        self.end_late_commit(now);
        self.end_late_drains(now);
        self.send_ready(now);
        self.commit_if_due(now);
        self.give_up_drained(now);
        self.finish_if_drained(now);
        self.steer_intake();
    }

    fn end_late_commit(&mut self, now: Instant) {
        let is_late = |commit: &CommitInFlight| now >= commit.sent_at + self.limits.commit_max;
        if self.in_flight.as_ref().is_some_and(is_late) {
            self.rejoin(Rejoin::CommitLate);
        }
    }

    /// Calls that have not finished in time are let go; what they came to is the next owner's question.
    fn end_late_drains(&mut self, now: Instant) {
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
            if let Some(held) = self.held.get_mut(partition) {
                self.bytes_held -= held.let_all_go();
            }
        }
        self.actions.push(Action::Withhold(late));
    }

    fn commit_if_due(&mut self, now: Instant) {
        if self.in_flight.is_some() || self.commit_at(now).is_none_or(|at| now < at) {
            return;
        }
        let mut content: Vec<Partition> = self.with_news().collect();
        if content.is_empty() {
            // Proof is all that is wanted: the same offset once more.
            let active = self.held.iter().find(|(_, held)| held.phase == Phase::Active);
            content.extend(active.map(|(partition, _)| *partition));
        }
        let mut commits = Vec::new();
        let mut in_flight = CommitInFlight {
            sent_at: now,
            content: Vec::new(),
            proves: true,
        };
        for partition in content {
            let held = &self.held[&partition];
            if let Some((offset, note)) = held.to_commit() {
                in_flight
                    .content
                    .push((partition, held.assignment, held.changes()));
                commits.push(Commit {
                    partition,
                    offset,
                    note,
                });
            }
        }
        if !commits.is_empty() {
            self.in_flight = Some(in_flight);
            self.actions.push(Action::Commit(commits));
        }
    }

    /// When the next commit is due; `None` if there is nothing to tell and no proof wanted.
    fn commit_at(&self, now: Instant) -> Option<Instant> {
        let again = self.commit_again.unwrap_or(now);
        let after = self.commit_after.unwrap_or(now).max(again);
        // The group waits for the last commit of a partition that goes.
        let is_last = |held: &Held<P>| held.phase == Phase::Draining && held.calls_held() == 0;
        let is_hurried = self.with_news().any(|partition| is_last(&self.held[&partition]));
        let has_news = self.with_news().next().is_some();
        let news = has_news.then_some(if is_hurried { again } else { after });
        let wants_proof = self.requests.count() > 0 || self.has_ready();
        let is_active = |held: &Held<P>| held.phase == Phase::Active;
        let proof = (wants_proof && self.held.values().any(is_active))
            .then(|| self.ownership.renew_at().unwrap_or(now).max(after));
        news.into_iter().chain(proof).min()
    }

    fn with_news(&self) -> impl Iterator<Item = Partition> + '_ {
        self.held
            .iter()
            .filter(|(_, held)| match held.phase {
                Phase::Active | Phase::Draining => held.is_dirty(),
                Phase::Loading | Phase::Refused => false,
            })
            .map(|(partition, _)| *partition)
    }

    fn give_up_drained(&mut self, now: Instant) {
        // A commit that is sent once more by librdkafka would carry the next generation, in which the
        // partition is another caller's.
        while self.in_flight.is_none() {
            let is_drained = |leaving: &Leaving| {
                let is_late = now >= leaving.until + self.limits.commit_max;
                leaving
                    .partitions
                    .iter()
                    .all(|partition| match self.held.get(partition) {
                        Some(held) => is_late || (held.calls_held() == 0 && !held.is_dirty()),
                        None => true,
                    })
            };
            let Some(at) = self.leaving.iter().position(is_drained) else {
                return;
            };
            let partitions = self.leaving.remove(at).partitions;
            partitions.iter().for_each(|partition| self.drop_held(*partition));
            let abandoned = self.requests.of(&partitions);
            self.actions.push(Action::GiveUp {
                partitions,
                abandoned,
            });
        }
    }

    fn finish_if_drained(&mut self, now: Instant) {
        let Some(stop) = &mut self.stop else {
            return;
        };
        let is_late = now >= stop.until + self.limits.commit_max;
        let is_drained = self.in_flight.is_none()
            && self.leaving.is_empty()
            && self
                .held
                .values()
                .all(|held| held.calls_held() == 0 && !held.is_dirty());
        if (is_drained || is_late) && !stop.is_finished {
            stop.is_finished = true;
            self.actions.push(Action::Finish);
        }
    }

    /// The membership is over, by the group's decision or by ours.
    fn rejoin(&mut self, why: Rejoin) {
        let partitions: Vec<Partition> = self.held.keys().copied().collect();
        partitions.iter().for_each(|partition| self.drop_held(*partition));
        self.actions.push(Action::Withhold(partitions));
        self.ready.clear();
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

    /// A partition is not ours any longer. What is known of calls that did not end is kept for its return.
    fn drop_held(&mut self, partition: Partition) {
        let Some(mut held) = self.held.remove(&partition) else {
            return;
        };
        let assignment = held.assignment;
        let mut keep = |offset, key, what| {
            let id = CallId {
                assignment,
                partition,
                offset,
            };
            self.requests.keep(id, Known { key, what });
        };
        for (offset, call) in held.calls() {
            if let Stage::Publishing(ending) | Stage::Unpublished(ending) = &call.stage
                && let Ending::Accepted(reply) | Ending::Rejected(reply) = &**ending
            {
                let what = What::Reported(Report::Status(reply.clone()), call.history);
                keep(offset, call.key.clone(), what);
            }
        }
        for (offset, key) in held.take_ended() {
            keep(offset, key, What::Ended);
        }
        self.bytes_held -= held.let_all_go();
    }

    fn deadline(&self, until: Instant, is_drained: bool) -> Instant {
        match is_drained {
            false => until,
            true => until + self.limits.commit_max,
        }
    }
}
