//! One caller: a real delivery state machine, in a shell that performs actions as the program does.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pipeline::delivery::{
    Action, Assignment, Call, CallId, CommitResult, DeferralContext, DeferralLimits, Delivery, Event,
    FinalState, Gauges, HaltReason, History, Limits, LoadedNotes, Lost, NotSent, Pending, Policy, Response,
    ResponseClass, ResponseClassifier, StatusClass, Statuses, Verify, WaitReason,
};
use pipeline::ledger::{Rejection, Terminal};
use rand::RngExt as _;
use records::{CallNote, Offset, OffsetSet, Partition, TopicId};

use crate::delivery::api::{self, PROCESSING_MAX, TIMEOUT, TRANSPORT_MAX, status};
use crate::delivery::checks::{CallPosition, Outcome, ViolationKind};
use crate::delivery::group::{GroupEvent, PendingCommit};
use crate::delivery::outage::{self, BreakerView};
use crate::delivery::simulation::{Mutation, OutboxRecord, Setup, Simulation};
use crate::delivery::transactions::{Deferral, State};

pub(crate) const LIMITS: Limits = Limits {
    calls_in_flight_max: 3,
    intents_ahead_max: 4,
    calls_open_max: 5,
    bytes_open_max: 900,
    ownership_lease: Duration::from_millis(500),
    commit_interval: Duration::from_millis(5),
    commit_max: Duration::from_millis(250),
    drain_timeout: Duration::from_millis(600),
    ambiguous_attempts_max: NonZeroU32::new(AMBIGUOUS_ATTEMPTS_MAX),
    deferral: DeferralLimits {
        window_max: 9,
        defer_after: Some(Duration::from_millis(120)),
        abandon_after: None,
    },
};
pub(crate) const AMBIGUOUS_ATTEMPTS_MAX: u32 = 2;
const LOOKUPS_MAX: u32 = 6;
const ABANDON_AFTER: Duration = Duration::from_secs(3);
/// Size that each call counts with, in bytes.
pub(crate) const BYTES: usize = 100;

/// Time until which requests of one assignment may be sent; `None`: none may be sent.
type Lease = Rc<Cell<Option<Instant>>>;

pub(crate) struct Caller {
    pub(crate) process: u64,
    delivery: Delivery<CallPosition>,
    pub(crate) member: u64,
    /// Consumer: accepted partitions, with the next offset once started, and `true` if paused.
    consumer: BTreeMap<Partition, Option<(Offset, bool)>>,
    pub(crate) group_events: VecDeque<GroupEvent>,
    pub(crate) steps: Vec<(Instant, Step)>,
    pub(crate) commit: Option<PendingCommit>,
    /// Deferral that the caller waits for.
    pub(crate) deferral: Option<u64>,
    leases: BTreeMap<Partition, Lease>,
    lease_until: Option<Instant>,
    pub(crate) asleep_until: Option<Instant>,
    pub(crate) stopping: bool,
    finished: bool,
    pub(crate) breaker_view: BreakerView,
    /// Last commit of each partition, for the mutation that sends it again.
    pub(crate) last_commits: BTreeMap<Partition, (Offset, String)>,
}

/// Step that is due at some time.
#[derive(Clone)]
pub(crate) enum Step {
    Load(Assignment, Partition),
    /// The connection is ready for the request.
    SendRequest(CallId, Lease),
    ReceiveResponse(CallId, Response),
    LookUp(CallId),
    ReceiveLookup(CallId, Response),
    WaitElapsed(CallId),
    /// An outcome is written to Kafka, or not, and acknowledged, or not.
    Publish(CallId, Arc<FinalState>, bool, Option<bool>),
    Commit,
    /// Copies and notes of a deferral arrive at Kafka.
    Defer(Deferral),
    /// The request to commit a deferral arrives.
    CommitDeferral(Deferral),
}

fn classifier() -> ResponseClassifier {
    ResponseClassifier::new([
        (Statuses::Hundred(2), StatusClass::Accepted),
        (Statuses::Hundred(4), StatusClass::Rejected),
        (Statuses::Exactly(429), StatusClass::Retry),
    ])
    .expect("a table")
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn position(call: CallId) -> CallPosition {
    (call.partition, call.offset)
}

impl Caller {
    pub(crate) fn new(process: u64, member: u64, setup: &Setup) -> Self {
        let mut limits = LIMITS;
        limits.deferral.abandon_after = setup.abandons.then_some(ABANDON_AFTER);
        if setup.outage_only.is_some() {
            // Without faults, Kafka responds in time.
            limits.commit_max = ms(10_000);
            // With so few open calls, ten minutes of probes would park them all.
            limits.ambiguous_attempts_max = None;
        }
        if setup.mutation == Some(Mutation::NoAmbiguousLimit) {
            limits.ambiguous_attempts_max = None;
        }
        let verify = Verify {
            transport_timeout: match setup.mutation {
                Some(Mutation::NoQuiescence | Mutation::NoTransportTimeout) => Duration::ZERO,
                _ => TRANSPORT_MAX,
            },
            api_processing_max: match setup.mutation {
                Some(Mutation::NoQuiescence) => Duration::ZERO,
                _ => PROCESSING_MAX,
            },
            lookups_max: LOOKUPS_MAX,
            abandon_after: Duration::from_secs(60),
            classifier: ResponseClassifier::new([
                (Statuses::Exactly(200), StatusClass::Accepted),
                (Statuses::Exactly(404), StatusClass::Rejected),
            ])
            .expect("a table"),
        };
        let delivery = Delivery::new(limits, classifier(), verify);
        Self {
            process,
            delivery: match setup.flow_control {
                Some(flow_control) => delivery.with_flow_control(flow_control),
                None => delivery,
            },
            member,
            consumer: BTreeMap::new(),
            group_events: VecDeque::new(),
            steps: Vec::new(),
            commit: None,
            deferral: None,
            leases: BTreeMap::new(),
            lease_until: None,
            asleep_until: None,
            stopping: false,
            finished: false,
            breaker_view: BreakerView::default(),
            last_commits: BTreeMap::new(),
        }
    }

    pub(crate) fn gauges(&self) -> Gauges {
        self.delivery.gauges()
    }

    /// Returns the time of the next step.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let times = self.steps.iter().map(|(at, _)| *at);
        let next = times.chain(self.delivery.wake_at(now)).min();
        match (self.asleep_until, next) {
            (Some(until), next) => Some(next.map_or(until, |next| next.max(until))),
            (None, next) => next,
        }
    }

    /// Returns the outcomes on their way to Kafka.
    pub(crate) fn publications(&self) -> impl Iterator<Item = (CallPosition, Arc<FinalState>)> + '_ {
        self.steps.iter().filter_map(|(_, step)| match step {
            Step::Publish(call, state, true, _) => Some((position(*call), Arc::clone(state))),
            _ => None,
        })
    }

    pub(crate) fn is_committing(&self) -> bool {
        self.commit.is_some() || self.deferral.is_some()
    }

    /// Describes the calls that are not final.
    pub(crate) fn open(&self) -> Vec<String> {
        let describe = |(id, call): (CallId, &Call<CallPosition>)| {
            let (process, position, state) = (self.process, position(id), call.state().0);
            format!("{process}: {position:?} {}", state.as_str())
        };
        self.delivery.calls().map(describe).collect()
    }

    /// Returns `true` if the caller still works on this deferral.
    pub(crate) fn has_deferral(&self, number: u64) -> bool {
        self.steps.iter().any(|(_, step)| match step {
            Step::Defer(deferral) | Step::CommitDeferral(deferral) => deferral.number() == number,
            _ => false,
        })
    }

    fn withhold(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            if let Some(lease) = self.leases.remove(partition) {
                lease.set(None);
            }
        }
    }
}

impl Simulation {
    pub(crate) fn soon(&mut self, max_ms: u64) -> Instant {
        self.now + Duration::from_micros(self.random.random_range(0..max_ms * 1_000))
    }

    /// Runs a step of a caller. Returns `false` if there is none.
    pub(crate) fn caller_turn(&mut self, at: usize) -> bool {
        let now = self.now;
        let caller = &mut self.callers[at];
        match caller.asleep_until {
            Some(until) if now < until => return false,
            Some(_) | None => caller.asleep_until = None,
        }
        if caller.finished {
            let caller = self.callers.remove(at);
            self.group.members.remove(&caller.member);
            self.start_caller();
            return true;
        }
        if caller.delivery.wake_at(now).is_some_and(|wake| wake <= now) && self.random.random_ratio(1, 2) {
            self.handle(at, Event::Tick);
            return true;
        }
        let caller = &self.callers[at];
        let ready: Vec<usize> = (0..caller.steps.len())
            .filter(|index| caller.steps[*index].0 <= now)
            .collect();
        let started: Vec<Partition> = caller
            .consumer
            .iter()
            .filter(|(_, state)| matches!(state, Some((_, false))))
            .map(|(partition, _)| *partition)
            .collect();
        let group_events = usize::from(!caller.group_events.is_empty());
        let choices = ready.len() + started.len() + group_events;
        if choices == 0 {
            return false;
        }
        let choice = self.random.random_range(0..choices);
        if let Some(index) = ready.get(choice) {
            let (_, step) = self.callers[at].steps.swap_remove(*index);
            self.run_step(at, step);
        } else if let Some(partition) = started.get(choice - ready.len()) {
            return self.fetch(at, *partition) || choices > started.len();
        } else if let Some(group_event) = self.callers[at].group_events.pop_front() {
            self.handle_group_event(at, group_event);
        }
        true
    }

    fn fetch(&mut self, at: usize, partition: Partition) -> bool {
        let Some(Some((next, _))) = self.callers[at].consumer.get(&partition) else {
            return false;
        };
        let until = (Partition(partition.0 + 1), Offset(0));
        let Some((position, record)) = self.log.range((partition, *next)..until).next() else {
            return self.reach_end(at, partition, *next);
        };
        if self.setup.mutation == Some(Mutation::EndOfLogCounts) {
            let next = self.log_end[&partition];
            self.handle(at, Event::ReachedEnd { partition, next });
            return true;
        }
        match record.transaction.map(|_| self.state(record.transaction)) {
            Some(State::Open) => return false,
            Some(State::Aborted) => {
                let next_at = position.1.next();
                if let Some(Some((next, _))) = self.callers[at].consumer.get_mut(&partition) {
                    *next = next_at;
                }
                return true;
            }
            Some(State::Committed { .. }) | None => {}
        }
        let is_forgetful = self.setup.mutation == Some(Mutation::AmbiguityForgotten);
        let is_uncounted = self.setup.mutation == Some(Mutation::AmbiguousAttemptsForgotten);
        let deferral_context = record.deferral_context.map(|before| DeferralContext {
            origin: record.origin.1,
            attempts: before.attempts,
            attempts_ambiguous: match is_uncounted {
                true => 0,
                false => before.attempts_ambiguous,
            },
            lookups: before.lookups,
            ambiguity: before.ambiguity.filter(|_| !is_forgetful),
            seen_before: self.now.saturating_duration_since(before.first_seen_at),
        });
        let is_of_other_group = record.is_of_other_group;
        let next_at = position.1.next();
        let pending = Pending {
            partition,
            offset: position.1,
            key: Some(record.key.clone()),
            bytes: BYTES,
            policy: record.policy,
            is_of_other_group: is_of_other_group && self.setup.mutation != Some(Mutation::OtherCopiesCalled),
            deferral_context,
            payload: *position,
        };
        if let Some(Some((next, _))) = self.callers[at].consumer.get_mut(&partition) {
            *next = next_at;
        }
        if deferral_context.is_some() && !is_of_other_group {
            self.count("copies read");
        }
        self.handle(at, Event::Pending(pending));
        true
    }

    /// Reports that all records of a partition are read, if transaction markers lie behind the last one.
    fn reach_end(&mut self, at: usize, partition: Partition, next: Offset) -> bool {
        let end = self.log_end.get(&partition).copied().unwrap_or(next);
        if next >= end {
            return false;
        }
        if let Some(Some((next, _))) = self.callers[at].consumer.get_mut(&partition) {
            *next = end;
        }
        self.count("ends reached");
        self.handle(at, Event::ReachedEnd { partition, next: end });
        true
    }

    fn handle_group_event(&mut self, at: usize, group_event: GroupEvent) {
        let process = self.callers[at].process;
        self.trace(|| format!("{process} gets {group_event:?}"));
        match group_event {
            GroupEvent::Assigned(partitions) => self.handle(at, Event::Assigned(partitions)),
            GroupEvent::Revoked(partitions) => self.handle(at, Event::Revoked(partitions)),
            GroupEvent::Lost => {
                let lost = self.callers[at].consumer.keys().copied().collect();
                self.checks.interruptions.push((process, self.now));
                self.handle(at, Event::Lost(lost));
            }
        }
    }

    fn run_step(&mut self, at: usize, step: Step) {
        match step {
            Step::Load(assignment, partition)
                if self.is_unstable(partition)
                    && self.setup.mutation != Some(Mutation::UnstableNotesRead) =>
            {
                let again_at = self.soon(20);
                self.callers[at]
                    .steps
                    .push((again_at, Step::Load(assignment, partition)));
            }
            Step::Load(assignment, partition) => {
                let loaded = self.loaded(partition);
                self.note_inherited(at, assignment, partition);
                self.handle(
                    at,
                    Event::NotesLoaded {
                        assignment,
                        partition,
                        loaded,
                    },
                );
            }
            Step::SendRequest(call, lease) => self.send_request(at, call, &lease),
            Step::ReceiveResponse(call, response) => {
                let process = self.callers[at].process;
                let order = self.origin(position(call));
                let sent_at = self.checks.in_flight.remove(&(process, order));
                if let Response::Status(http) = &response
                    && (http.status == 200 || http.status == 422 && !self.may_keep_rejection(at, call))
                {
                    let definite = self.checks.definite.entry(order).or_default();
                    definite.extend(sent_at.map(|at| (process, at, position(call))));
                }
                self.trace(|| {
                    format!(
                        "{process} gets the response for {:?}: {response:?}",
                        position(call)
                    )
                });
                self.count_response(at, call, &response);
                let response = outage::mutated(response, &self.setup);
                let response = self.callers[at].delivery.classify(response);
                if response.class() == ResponseClass::Ambiguous {
                    self.checks.ambiguous_response(order, (process, call.assignment));
                }
                self.handle(at, Event::ResponseReceived { call, response });
            }
            Step::LookUp(call) if self.hangs(at, call) => {
                self.count("hanging look-ups");
                let response = Response::Lost(Lost::TimedOut);
                self.callers[at]
                    .steps
                    .push((self.now + TIMEOUT, Step::ReceiveLookup(call, response)));
            }
            Step::LookUp(call) => {
                let response = match self.is_api_down() || self.faults && self.random.random_ratio(1, 4) {
                    true => status(503, None),
                    false => self.api.look_up(self.origin(position(call))),
                };
                let response_at = self.soon(40);
                self.callers[at]
                    .steps
                    .push((response_at, Step::ReceiveLookup(call, response)));
            }
            Step::ReceiveLookup(call, response) => {
                self.trace(|| format!("looked up {:?}: {response:?}", position(call)));
                self.count_lookup(at, &response);
                let response = match (self.setup.mutation, response) {
                    // An inconclusive response of an API that responds.
                    (Some(Mutation::HangIgnored), Response::Lost(_)) => status(500, None),
                    (_, response) => response,
                };
                let response = self.callers[at].delivery.classify_look_up(response);
                self.handle(at, Event::LookedUp { call, response });
            }
            Step::WaitElapsed(call) => self.handle(at, Event::WaitElapsed(call)),
            Step::Publish(call, state, is_written, acknowledged) => {
                if is_written {
                    self.write_outcome(position(call), &state);
                }
                if let Some(acknowledged) = acknowledged {
                    self.handle(at, Event::Published { call, acknowledged });
                }
            }
            Step::Commit => self.finish_commit(at),
            Step::Defer(deferral) => self.begin_deferral(at, deferral),
            Step::CommitDeferral(deferral) => self.end_deferral(at, &deferral),
        }
    }

    /// Returns `true` if the look-up of a call hangs in the API, with an earlier request.
    fn hangs(&mut self, at: usize, call: CallId) -> bool {
        let order = (self.origin(position(call)), self.callers[at].process);
        self.api.hangs(&mut self.random, order, self.now)
    }

    /// Takes in the intents that a caller reads with the notes of a partition.
    fn note_inherited(&mut self, at: usize, assignment: Assignment, partition: Partition) {
        let committed = self.group.committed.get(&partition);
        let note = committed.map(|(offset, note)| CallNote::decode(*offset, note).expect("a note"));
        let intents = note.map(|note| note.intents).unwrap_or_default();
        let process = self.callers[at].process;
        self.checks
            .inherited
            .insert((process, partition), (assignment, intents));
    }

    fn loaded(&self, partition: Partition) -> LoadedNotes {
        let committed = self.group.committed.get(&partition).cloned();
        let metadata = committed.as_ref().map_or(String::new(), |(offset, note)| {
            if self.setup.mutation != Some(Mutation::NoCompletions) {
                return note.clone();
            }
            let mut note = CallNote::decode(*offset, note).expect("a note");
            note.finals = OffsetSet::new();
            note.encode(*offset).expect("a shorter note")
        });
        // The outbox of each seed is filled; with this mutation it looks empty to a group without offsets.
        let looks_empty = committed.is_none() && self.setup.mutation == Some(Mutation::LostOffsetsIgnored);
        LoadedNotes {
            committed: committed.map(|(offset, _)| offset),
            metadata,
            // The simulation's brokers lose no records.
            epoch_end: None,
            outbox: TopicId::new("outbox"),
            log_start: Offset(0),
            log_end: if looks_empty {
                Offset(0)
            } else {
                self.log_end[&partition]
            },
        }
    }

    /// Sends a request, or withholds it at the last moment.
    fn send_request(&mut self, at: usize, call: CallId, lease: &Lease) {
        let (now, position, process) = (self.now, position(call), self.callers[at].process);
        let is_leased = lease.get().is_some_and(|until| now < until);
        if !is_leased && self.setup.mutation != Some(Mutation::NoOwnershipLease) {
            self.count("requests withheld");
            let response = Response::NotSent(NotSent::Withheld);
            self.count_response(at, call, &response);
            let response = self.callers[at].delivery.classify(response);
            self.handle(at, Event::ResponseReceived { call, response });
            return;
        }
        self.trace(|| format!("{process} sends a request for {position:?}"));
        let member = self.group.members.get(&self.callers[at].member);
        if !member.is_some_and(|member| member.owned.contains_key(&position.0)) {
            self.checks.violation(ViolationKind::SentByNonOwner, || {
                format!("{position:?} by {process}")
            });
        }
        let down = self.is_api_down().then(|| self.response_during_outage(process));
        let is_refused = matches!(down, Some(Response::NotSent(_)));
        if is_refused || self.faults && self.random.random_ratio(1, 25) {
            let response = Response::NotSent(NotSent::NoConnection);
            let response_at = self.soon(20);
            self.callers[at]
                .steps
                .push((response_at, Step::ReceiveResponse(call, response)));
            return;
        }
        let (order, policy) = (self.origin(position), self.log[&position].policy);
        self.checks.sent(process, position, order, policy, now);
        if policy == Policy::Retry && self.setup.outage_only.is_none() {
            self.checks
                .within_ambiguous_limit(order, (process, call.assignment));
        }
        // A breaker that is open for rejections needs a call that is accepted. In the end there may be none but
        // rejected orders, so these are accepted then.
        let kind = (self.faults, self.faults || !self.has_rejection_limit());
        let of_seed = (self.setup.seed, self.setup.abandons);
        let mut plan = match self.setup.outage_only {
            None => self.api.plan_request(&mut self.random, order, now, kind, of_seed),
            Some(_) => api::plan_request(&mut self.random, order, now, kind),
        };
        if let Some(response) = down {
            // The API may have processed the order nevertheless.
            let is_rejected = response.status() == Some(outage::REJECTS_ALL);
            plan.processed_at = plan.processed_at.filter(|_| self.faults && !is_rejected);
            plan.response = response;
        }
        if let (Some(_), Response::Lost(_), Policy::Verify) = (plan.processed_at, &plan.response, policy)
            && self.random.random_ratio(1, 4)
        {
            self.count("hangs");
            self.api.hang(order);
            plan.processed_at = None;
        }
        if let Some(processed_at) = plan.processed_at {
            self.api.accept(order, processed_at);
            if processed_at > plan.response_at {
                self.count("processed after the response");
            }
        }
        if let Response::Lost(_) = plan.response {
            self.checks.ambiguous.insert(order);
        }
        if let Response::Status(http) = &plan.response
            && http.status >= 500
        {
            self.checks.ambiguous.insert(order);
        }
        self.callers[at]
            .steps
            .push((plan.response_at, Step::ReceiveResponse(call, plan.response)));
    }

    pub(crate) fn write_outcome(&mut self, position: CallPosition, state: &FinalState) {
        let policy = self.log[&position].policy;
        self.trace(|| format!("outcome of {position:?}: {state:?}"));
        let (order, abandons) = (self.origin(position), self.setup.abandons);
        let terminal = match state {
            FinalState::Accepted(_) | FinalState::Found(_) => Terminal::Accepted,
            FinalState::Rejected(_) | FinalState::Abandoned(_) | FinalState::NotACall => {
                Terminal::DeadLetter(Rejection::Definite)
            }
            FinalState::Parked(_) => Terminal::Parked,
        };
        self.terminals.push((position, terminal));
        match self
            .checks
            .record_outcome(order, state, policy, abandons, self.now)
        {
            Outcome::Parked if policy == Policy::Retry && !abandons => self.count("parked at the limit"),
            Outcome::Parked => self.count("parked"),
            Outcome::Found => self.count("found by look-up"),
            Outcome::Abandoned => self.count("abandoned"),
            Outcome::Accepted | Outcome::Rejected => {}
        }
    }

    fn finish_commit(&mut self, at: usize) {
        let Some(mut commit) = self.callers[at].commit.take() else {
            return;
        };
        let mut is_repeated = false;
        match commit.result {
            CommitResult::Committed => {
                if !self.accept_commit(&commit) {
                    commit.result = CommitResult::Fenced;
                }
            }
            // The commit was accepted, or is still on the network and may be accepted at any later time; or
            // both, if a client repeats it after it has lost its connection.
            CommitResult::Unknown => match self.random.random_range(0..3) {
                0 => drop(self.accept_commit(&commit)),
                1 => self.group.late.push(commit.clone()),
                _ => {
                    self.count("repeated commits");
                    is_repeated = self.accept_commit(&commit);
                    self.group.late.push(commit.clone());
                }
            },
            CommitResult::Rejected | CommitResult::Fenced => {}
        }
        match self.setup.mutation {
            // Reported already.
            Some(Mutation::IntentNotAwaited) => {}
            Some(Mutation::UnknownCommitIgnored) if commit.result == CommitResult::Unknown => {
                self.handle(at, Event::Committed(CommitResult::Rejected));
            }
            Some(Mutation::RepeatedCommitTrusted) if is_repeated => {
                self.handle(at, Event::Committed(CommitResult::Committed));
            }
            _ => {
                if matches!(commit.result, CommitResult::Unknown | CommitResult::Fenced) {
                    let process = self.callers[at].process;
                    self.checks.interruptions.push((process, self.now));
                }
                self.handle(at, Event::Committed(commit.result));
            }
        }
    }

    pub(crate) fn handle(&mut self, at: usize, event: Event<CallPosition>) {
        let actions = self.callers[at].delivery.on(event, self.now);
        for action in actions {
            self.perform(at, action);
        }
        self.check_limits(at);
    }

    fn perform(&mut self, at: usize, action: Action<CallPosition>) {
        let now = self.now;
        match action {
            Action::Load {
                assignment,
                partitions,
            } => {
                let lease_until = self.callers[at].lease_until;
                for partition in partitions {
                    let load_at = self.soon(20);
                    let caller = &mut self.callers[at];
                    caller.consumer.insert(partition, None);
                    caller.leases.insert(partition, Rc::new(Cell::new(lease_until)));
                    caller.steps.push((load_at, Step::Load(assignment, partition)));
                }
            }
            Action::Start {
                partition, offset, ..
            } => {
                self.callers[at].consumer.insert(partition, Some((offset, false)));
            }
            Action::Halt {
                why: HaltReason::NoOffset { .. },
                ..
            } if self.group.is_lost => self.group.is_operator_called = true,
            Action::Halt { partition, why } => {
                self.checks.violation(ViolationKind::InvalidAction, || {
                    format!("{partition} is halted: {why}")
                });
            }
            Action::Pause(partitions) => self.pause(at, &partitions, true),
            Action::Resume(partitions) => self.pause(at, &partitions, false),
            Action::ExtendLease(until) => {
                let caller = &mut self.callers[at];
                caller.lease_until = Some(until);
                caller.leases.values().for_each(|lease| lease.set(Some(until)));
            }
            Action::Skip(call) => self.skip(position(call)),
            Action::Withhold(partitions) => {
                // The partitions are lost, or not drained in time, or the membership is over.
                let process = self.callers[at].process;
                self.checks.interruptions.push((process, now));
                self.callers[at].withhold(&partitions);
            }
            Action::Send { call, payload, .. } => {
                self.count_request(at, call);
                self.send(at, call, *payload);
            }
            Action::LookUp { call, .. } => {
                self.count("lookups");
                self.count_request(at, call);
                let ask_at = self.soon(20);
                self.callers[at].steps.push((ask_at, Step::LookUp(call)));
            }
            Action::Wait {
                call, what, at_least, ..
            } => {
                let jitter = match what {
                    WaitReason::Quiescence => Duration::ZERO,
                    WaitReason::Attempt | WaitReason::Publication | WaitReason::LookUp => {
                        ms(self.random.random_range(0..60))
                    }
                };
                self.callers[at]
                    .steps
                    .push((now + at_least + jitter, Step::WaitElapsed(call)));
            }
            Action::Publish {
                call,
                final_state: state,
                history,
                ..
            } => {
                self.check_dead_letter(at, call, &state, history);
                self.publish(at, call, state);
            }
            Action::Commit(commits) => {
                let content = commits.into_iter().map(|c| (c.partition, c.offset, c.note));
                self.commit(at, content.collect());
            }
            Action::Defer { copies, commits } => {
                let content = commits.into_iter().map(|c| (c.partition, c.offset, c.note));
                self.defer(at, copies, content.collect());
            }
            Action::Release {
                partitions,
                abandoned,
            } => self.release(at, &partitions, &abandoned),
            Action::Outage(outage) => self.outage(at, &outage),
            Action::OutageOver => self.outage_over(at),
            Action::Rejoin(_) => self.rejoin(at),
            Action::Finish => self.callers[at].finished = true,
        }
    }

    fn send(&mut self, at: usize, call: CallId, position: CallPosition) {
        self.check_order(at, call, position);
        let caller = &self.callers[at];
        let is_request =
            |(_, step): &&(Instant, Step)| matches!(step, Step::ReceiveResponse(..) | Step::SendRequest(..));
        if caller.steps.iter().filter(is_request).count() >= LIMITS.calls_in_flight_max {
            self.checks.violation(ViolationKind::LimitExceeded, || {
                format!("{position:?} exceeds the limit")
            });
        }
        let lease = caller.leases.get(&call.partition).cloned().unwrap_or_default();
        let sends_at = self.soon(15);
        self.callers[at]
            .steps
            .push((sends_at, Step::SendRequest(call, lease)));
    }

    /// Checks the order of calls: each earlier call of the key is final, or another owner has deferred it to
    /// a later position.
    fn check_order(&mut self, at: usize, call: CallId, position: CallPosition) {
        let Some(OutboxRecord { key, origin, .. }) = self.log.get(&position) else {
            return;
        };
        let of_partition = (position.0, Offset(0))..(Partition(position.0.0 + 1), Offset(0));
        let of_key =
            |(_, record): &(&CallPosition, &OutboxRecord)| record.key == *key && record.origin < *origin;
        let visible = self
            .log
            .range(of_partition)
            .filter(|(_, record)| self.is_visible(record) && !record.is_of_other_group);
        // Last position of each chain.
        let earlier: BTreeMap<CallPosition, CallPosition> = visible
            .filter(of_key)
            .map(|(at, record)| (record.origin, *at))
            .collect();
        let owner = (self.callers[at].process, call.assignment);
        for (order, last) in earlier {
            let is_excused = last > position && self.checks.deferred_by.get(&order) != Some(&owner);
            if !self.checks.outcomes.contains_key(&order) && !is_excused {
                self.checks.violation(ViolationKind::OutOfOrder, || {
                    format!("{position:?} before {order:?}, now {last:?}")
                });
            }
        }
    }

    /// Checks what a dead letter tells of requests that may have been processed.
    fn check_dead_letter(&mut self, at: usize, call: CallId, state: &FinalState, history: History) {
        if !matches!(state, FinalState::Rejected(_)) {
            return;
        }
        let (caller, position) = (&self.callers[at], position(call));
        let of_caller = caller.delivery.calls().find(|(id, _)| *id == call);
        let told = match (self.setup.mutation, of_caller) {
            (Some(Mutation::OwnRequestsOnly), Some((_, call))) => *call.history(),
            _ => history,
        };
        // Under `verify` a look-up has told of an earlier request, and under `park` there is no dead letter beside one.
        let must_tell =
            self.checks.has_inherited(caller.process, call) && self.log[&position].policy == Policy::Retry;
        let may_tell = !self.setup.moves_only || self.checks.ambiguous.contains(&self.origin(position));
        if must_tell {
            self.count("dead letters after an intent");
        }
        let is_told = told.attempts_ambiguous > 0;
        if (must_tell && !is_told) || (is_told && !may_tell) {
            self.checks.violation(ViolationKind::WrongAmbiguity, || {
                format!("{position:?}: {told:?}")
            });
        }
    }

    fn publish(&mut self, at: usize, call: CallId, state: Arc<FinalState>) {
        self.count_dead_letter(at, position(call), &state);
        let written_at = self.soon(25);
        if self.setup.mutation == Some(Mutation::OutcomeNotAcknowledged) {
            let step = Step::Publish(call, state, true, None);
            self.callers[at].steps.push((written_at, step));
            self.callers[at]
                .steps
                .push((self.now, Step::Publish(call, unwritten(), false, Some(true))));
            return;
        }
        let (is_written, acknowledged) = match self.random.random_range(0..40) {
            0 if self.faults => (false, false),
            1 if self.faults => (true, false),
            _ => (true, true),
        };
        let step = Step::Publish(call, state, is_written, Some(acknowledged));
        self.callers[at].steps.push((written_at, step));
    }

    fn commit(&mut self, at: usize, content: Vec<(Partition, Offset, String)>) {
        let caller = &self.callers[at];
        let is_not_awaited = self.setup.mutation == Some(Mutation::IntentNotAwaited);
        if caller.is_committing() && !is_not_awaited {
            self.checks
                .violation(ViolationKind::InvalidCommit, || "two commits in flight".into());
        }
        for (partition, ..) in &content {
            if !caller.consumer.contains_key(partition) {
                self.checks.violation(ViolationKind::InvalidCommit, || {
                    format!("{partition} is committed after its release")
                });
            }
        }
        let has_faults = self.faults && !self.setup.moves_only;
        let result = match self.random.random_range(0..100) {
            0..3 if has_faults => CommitResult::Unknown,
            3..30
                if self
                    .setup
                    .mutation
                    .is_some_and(Mutation::is_about_unknown_commits) =>
            {
                CommitResult::Unknown
            }
            3..7 if self.faults => CommitResult::Rejected,
            _ => CommitResult::Committed,
        };
        let process = caller.process;
        self.trace(|| format!("{process} commits {content:?}: {result:?}"));
        let is_silent = has_faults && self.random.random_ratio(1, 80);
        let processed_at = self.soon(30);
        let caller = &mut self.callers[at];
        for (partition, offset, note) in &content {
            caller.last_commits.insert(*partition, (*offset, note.clone()));
        }
        let commit = PendingCommit {
            member: caller.member,
            content,
            result,
        };
        if is_not_awaited {
            // Commits are accepted in their order nevertheless.
            if let Some(overtaken) = caller.commit.replace(commit) {
                self.accept_commit(&overtaken);
            }
            let caller = &mut self.callers[at];
            caller.steps.retain(|(_, step)| !matches!(step, Step::Commit));
            caller.steps.push((processed_at, Step::Commit));
            self.handle(at, Event::Committed(CommitResult::Committed));
            return;
        }
        caller.commit = Some(commit);
        // Sometimes there is no response at all.
        if !is_silent {
            caller.steps.push((processed_at, Step::Commit));
        }
    }

    fn release(&mut self, at: usize, partitions: &[Partition], abandoned: &[(Partition, Offset)]) {
        let caller = &mut self.callers[at];
        caller.withhold(partitions);
        let (member, process) = (caller.member, caller.process);
        if !abandoned.is_empty() {
            self.checks.interruptions.push((process, self.now));
        }
        if caller.is_committing() && self.setup.mutation != Some(Mutation::IntentNotAwaited) {
            self.checks.violation(ViolationKind::InvalidCommit, || {
                format!("{partitions:?} are released while a commit is in flight")
            });
        }
        for partition in partitions {
            if caller.consumer.remove(partition).is_none() {
                self.checks.violation(ViolationKind::InvalidAction, || {
                    format!("{partition} is released twice")
                });
            }
            let last = caller.last_commits.remove(partition);
            if let (Some(Mutation::CommitAfterRevocation), Some((offset, note))) = (self.setup.mutation, last)
            {
                let content = vec![(*partition, offset, note)];
                let result = CommitResult::Committed;
                self.group.late.push(PendingCommit {
                    member,
                    content,
                    result,
                });
            }
        }
        match self.group.members.get_mut(&member) {
            Some(member) => partitions.iter().for_each(|partition| {
                member.owned.remove(partition);
            }),
            // Evicted, with the event not handled yet.
            None if caller
                .group_events
                .iter()
                .any(|group_event| matches!(group_event, GroupEvent::Lost)) => {}
            // librdkafka joins again by itself once the lost partitions are released.
            None => caller.member = self.group.join(process, self.now),
        }
    }

    fn rejoin(&mut self, at: usize) {
        self.count("rejoins");
        let caller = &mut self.callers[at];
        let process = caller.process;
        self.checks.interruptions.push((process, self.now));
        let all: Vec<Partition> = caller.leases.keys().copied().collect();
        caller.withhold(&all);
        caller.lease_until = None;
        caller.consumer.clear();
        caller.group_events.clear();
        caller.last_commits.clear();
        caller.steps.retain(|(_, step)| match step {
            Step::Load(..) | Step::Commit => false,
            Step::SendRequest(..)
            | Step::ReceiveResponse(..)
            | Step::LookUp(_)
            | Step::ReceiveLookup(..)
            | Step::WaitElapsed(_)
            | Step::Defer(_)
            | Step::CommitDeferral(_)
            | Step::Publish(..) => true,
        });
        self.group.late.extend(caller.commit.take());
        caller.deferral = None;
        self.group.members.remove(&caller.member);
        caller.member = self.group.join(process, self.now);
    }

    fn pause(&mut self, at: usize, partitions: &[Partition], is_paused: bool) {
        for partition in partitions {
            match self.callers[at].consumer.get_mut(partition) {
                Some(Some((_, paused))) => *paused = is_paused,
                Some(None) | None => self.checks.violation(ViolationKind::InvalidAction, || {
                    format!("{partition} is paused or resumed before its start")
                }),
            }
        }
    }
}

/// Returns a placeholder for an outcome that is not written.
fn unwritten() -> Arc<FinalState> {
    Arc::new(FinalState::NotACall)
}
