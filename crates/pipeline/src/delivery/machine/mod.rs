//! The state of the delivery, and the order in which things follow from an event.

mod assign;
mod backpressure;
mod commit;
mod defer;
mod dispatch;
mod gauges;
mod in_flight;
mod intake;
mod resolve_ambiguous;
mod retry_limits;
mod revoke;
mod write_ahead;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use records::Partition;

use crate::delivery::call::Call;
use crate::delivery::call::Verify;
use crate::delivery::event::{Action, Assignment, CallId, Event, Rejoin};
use crate::delivery::flow::FlowControl;
use crate::delivery::limits::Limits;
use crate::delivery::partition::OwnedPartition;
use crate::delivery::partition::Ownership;
use crate::delivery::response::ResponseClassifier;

pub use gauges::Gauges;

use in_flight::Requests;

/// All partitions in our hands, and everything that is decided about them.
#[derive(Debug)]
pub struct Delivery<P> {
    pub(super) limits: Limits,
    pub(super) classes: ResponseClassifier,
    pub(super) verify: Verify,
    pub(super) held: BTreeMap<Partition, OwnedPartition<P>>,
    pub(super) assignments: u64,
    /// Calls that may be sent, in order. Some may be gone since.
    pub(super) ready: VecDeque<CallId>,
    /// Calls whose beginning has to be noted before they may be sent, in order. Some may be gone since.
    pub(super) awaiting_intent: VecDeque<CallId>,
    /// Calls whose beginning goes with the commit in flight, or with the next one.
    pub(super) beginning: Vec<CallId>,
    /// So many places came free while the last commit was in flight.
    pub(super) freed_by_commit: usize,
    pub(super) ended_since_commit: usize,
    /// Calls that the API is to be asked for, in order. Some may be gone since.
    pub(super) lookups: VecDeque<CallId>,
    /// Look-ups under way, with the times when they began.
    pub(super) lookups_under_way: BTreeMap<CallId, Instant>,
    /// Calls that are to be deferred, in order. Some may be gone since.
    pub(super) deferral: VecDeque<CallId>,
    /// When the next deferral may be made, and whether the last commit was one.
    pub(super) defer_next: Option<Instant>,
    pub(super) has_deferred_last: bool,
    /// When the API last answered clearly.
    pub(super) others_succeeded_at: Option<Instant>,
    /// The requests of this process, also those of partitions that are gone: the API works on them.
    pub(super) requests: Requests,
    pub(super) bytes_open: usize,
    pub(super) pace: FlowControl,
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
    /// The calls that are deferred with it.
    pub(super) deferred: Vec<CallId>,
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

impl<P> Delivery<P> {
    /// Without partitions, and at no particular pace ([`Delivery::with_flow_control`]).
    #[must_use]
    pub fn new(limits: Limits, classes: ResponseClassifier, verify: Verify) -> Self {
        Self {
            limits,
            classes,
            verify,
            held: BTreeMap::new(),
            assignments: 0,
            ready: VecDeque::new(),
            awaiting_intent: VecDeque::new(),
            beginning: Vec::new(),
            freed_by_commit: 0,
            ended_since_commit: 0,
            lookups: VecDeque::new(),
            lookups_under_way: BTreeMap::new(),
            deferral: VecDeque::new(),
            defer_next: None,
            has_deferred_last: false,
            others_succeeded_at: None,
            requests: Requests::default(),
            bytes_open: 0,
            pace: FlowControl::unlimited(limits.calls_in_flight_max),
            ownership: Ownership::new(limits.ownership_lease),
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
                self.notes_loaded(assignment, partition, loaded, now);
            }
            Event::Pending(pending) => self.pending(pending, now),
            Event::ResponseReceived { call, report } => self.answered(call, report, now),
            Event::LookedUp { call, report } => self.looked_up(call, report, now),
            Event::WaitElapsed(call) => self.wait_over(call, now),
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

    /// Everything that follows from what is known now.
    fn settle(&mut self, now: Instant) {
        self.end_late_commit(now);
        self.end_late_drains(now);
        self.send_ready(now);
        self.look_up_ready(now);
        self.defer_if_due(now);
        self.commit_if_due(now);
        self.give_up_drained(now);
        self.finish_if_drained(now);
        self.steer_intake();
    }

    /// When [`Event::Tick`] is wanted, if nothing else happens before.
    #[must_use]
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        let commit = match &self.in_flight {
            Some(commit) => Some(commit.sent_at + self.limits.commit_max),
            None => self.commit_at(now).into_iter().chain(self.defer_at(now)).min(),
        };
        let leaving = self
            .leaving
            .iter()
            .map(|leaving| self.deadline(leaving.until, leaving.is_drained));
        let stop = self.stop.iter().filter(|stop| !stop.is_finished);
        let stop = stop.map(|stop| self.deadline(stop.until, stop.is_drained));
        leaving.chain(stop).chain(commit).chain(self.pace_at(now)).min()
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

    /// How the API is asked for orders.
    #[must_use]
    pub fn verify(&self) -> &Verify {
        &self.verify
    }

    /// What each report means.
    #[must_use]
    pub fn classes(&self) -> &ResponseClassifier {
        &self.classes
    }
}
