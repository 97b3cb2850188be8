//! One caller: a real delivery, and around it what its program does.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pipeline::delivery::{
    Action, Assignment, Call, CallId, CommitResult, DeferralContext, DeferralLimits, Delivery, Event,
    FinalState, Gauges, Limits, LoadedNotes, NotSent, Pending, Response, ResponseClassifier, StatusClass,
    Statuses, Verify, WaitReason,
};
use rand::RngExt as _;
use records::{CallNote, Offset, OffsetSet, Partition};

use crate::api::{self, PROCESSING_MAX, status};
use crate::checks::{Broken, End, Place};
use crate::group::{CommitOnItsWay, Notice};
use crate::outage::{self, View};
use crate::transactions::{Deferral, State};
use crate::world::{Mutation, Pending as Log, Setup, World};

pub(crate) const LIMITS: Limits = Limits {
    calls_in_flight_max: 3,
    intents_ahead_max: 4,
    calls_open_max: 5,
    bytes_open_max: 900,
    ownership_lease: Duration::from_millis(500),
    commit_interval: Duration::from_millis(5),
    commit_max: Duration::from_millis(250),
    drain_timeout: Duration::from_millis(600),
    deferral: DeferralLimits {
        window_max: 9,
        defer_after: Some(Duration::from_millis(120)),
        abandon_after: None,
    },
};
const LOOKUPS_MAX: u32 = 6;
const GIVE_UP_AFTER: Duration = Duration::from_secs(3);
/// What each call is counted with.
pub(crate) const BYTES: usize = 100;

/// Until when requests of one assignment of a partition may leave; `None`: not at all.
type ExtendLease = Rc<Cell<Option<Instant>>>;

pub(crate) struct Caller {
    pub(crate) process: u64,
    delivery: Delivery<Place>,
    pub(crate) member: u64,
    /// Partitions as the consumer has them: accepted, with the next offset if started, and whether paused.
    consumer: BTreeMap<Partition, Option<(Offset, bool)>>,
    pub(crate) notices: VecDeque<Notice>,
    pub(crate) due: Vec<(Instant, Due)>,
    pub(crate) commit: Option<CommitOnItsWay>,
    /// The deferral that it waits for.
    pub(crate) deferral: Option<u64>,
    permits: BTreeMap<Partition, ExtendLease>,
    permitted_until: Option<Instant>,
    pub(crate) asleep_until: Option<Instant>,
    pub(crate) stopping: bool,
    finished: bool,
    pub(crate) view: View,
    /// The last commit of each partition: for the mutation that sends it once more.
    pub(crate) last_commits: BTreeMap<Partition, (Offset, String)>,
}

/// A step that may come next.
#[derive(Clone)]
pub(crate) enum Due {
    Load(Assignment, Partition),
    /// The connection asks for the request.
    Leave(CallId, ExtendLease),
    ResponseClass(CallId, Response),
    LookUp(CallId),
    LookedUp(CallId, Response),
    WaitOver(CallId),
    /// An end reaches Kafka, or not, and that is told, or not.
    Publish(CallId, Arc<FinalState>, bool, Option<bool>),
    Commit,
    /// A deferral's copies and notes reach Kafka.
    Defer(Deferral),
    /// The request to commit them does.
    EndDeferral(Deferral),
}

fn classes() -> ResponseClassifier {
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

pub(crate) fn place(call: CallId) -> Place {
    (call.partition, call.offset)
}

impl Caller {
    pub(crate) fn new(process: u64, member: u64, setup: &Setup) -> Self {
        let mut limits = LIMITS;
        limits.deferral.abandon_after = setup.gives_up.then_some(GIVE_UP_AFTER);
        if setup.outage_only.is_some() {
            // A world without faults has a Kafka that answers.
            limits.commit_max = ms(10_000);
        }
        let api_processing_max = match setup.mutation {
            Some(Mutation::LooksUpAtOnce) => Duration::ZERO,
            _ => PROCESSING_MAX,
        };
        let verify = Verify {
            api_processing_max,
            lookups_max: LOOKUPS_MAX,
            abandon_after: Duration::from_secs(60),
            classifier: ResponseClassifier::new([
                (Statuses::Exactly(200), StatusClass::Accepted),
                (Statuses::Exactly(404), StatusClass::Rejected),
            ])
            .expect("a table"),
        };
        let delivery = Delivery::new(limits, classes(), verify);
        Self {
            process,
            delivery: match setup.pace {
                Some(pace) => delivery.with_flow_control(pace),
                None => delivery,
            },
            member,
            consumer: BTreeMap::new(),
            notices: VecDeque::new(),
            due: Vec::new(),
            commit: None,
            deferral: None,
            permits: BTreeMap::new(),
            permitted_until: None,
            asleep_until: None,
            stopping: false,
            finished: false,
            view: View::default(),
            last_commits: BTreeMap::new(),
        }
    }

    pub(crate) fn gauges(&self) -> Gauges {
        self.delivery.gauges()
    }

    /// When something is due.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let due = self.due.iter().map(|(at, _)| *at);
        let next = due.chain(self.delivery.wake_at(now)).min();
        match (self.asleep_until, next) {
            (Some(until), next) => Some(next.map_or(until, |next| next.max(until))),
            (None, next) => next,
        }
    }

    /// Ends on their way to Kafka.
    pub(crate) fn publications(&self) -> impl Iterator<Item = (Place, Arc<FinalState>)> + '_ {
        self.due.iter().filter_map(|(_, due)| match due {
            Due::Publish(call, ending, true, _) => Some((place(*call), Arc::clone(ending))),
            _ => None,
        })
    }

    pub(crate) fn is_committing(&self) -> bool {
        self.commit.is_some() || self.deferral.is_some()
    }

    /// Its calls that are not final, for whoever has to find out why they are not.
    pub(crate) fn open(&self) -> Vec<String> {
        let tell = |(id, call): (CallId, &Call<Place>)| {
            let (process, place, stage) = (self.process, place(id), call.state().0);
            format!("{process}: {place:?} {}", stage.as_str())
        };
        self.delivery.calls().map(tell).collect()
    }

    /// Whether it is still at work on a deferral.
    pub(crate) fn has_deferral(&self, number: u64) -> bool {
        self.due.iter().any(|(_, due)| match due {
            Due::Defer(deferral) | Due::EndDeferral(deferral) => deferral.number() == number,
            _ => false,
        })
    }

    fn withhold(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            if let Some(permit) = self.permits.remove(partition) {
                permit.set(None);
            }
        }
    }
}

impl World {
    pub(crate) fn soon(&mut self, max_ms: u64) -> Instant {
        self.now + Duration::from_micros(self.random.random_range(0..max_ms * 1_000))
    }

    /// One step of one caller, if it has one to make.
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
            self.tell(at, Event::Tick);
            return true;
        }
        let caller = &self.callers[at];
        let ready: Vec<usize> = (0..caller.due.len())
            .filter(|index| caller.due[*index].0 <= now)
            .collect();
        let started: Vec<Partition> = caller
            .consumer
            .iter()
            .filter(|(_, state)| matches!(state, Some((_, false))))
            .map(|(partition, _)| *partition)
            .collect();
        let notices = usize::from(!caller.notices.is_empty());
        let choices = ready.len() + started.len() + notices;
        if choices == 0 {
            return false;
        }
        let choice = self.random.random_range(0..choices);
        if let Some(index) = ready.get(choice) {
            let (_, due) = self.callers[at].due.swap_remove(*index);
            self.happen(at, due);
        } else if let Some(partition) = started.get(choice - ready.len()) {
            return self.fetch(at, *partition) || choices > started.len();
        } else if let Some(notice) = self.callers[at].notices.pop_front() {
            self.hear(at, notice);
        }
        true
    }

    fn fetch(&mut self, at: usize, partition: Partition) -> bool {
        let Some(Some((next, _))) = self.callers[at].consumer.get(&partition) else {
            return false;
        };
        let until = (Partition(partition.0 + 1), Offset(0));
        let Some((place, record)) = self.log.range((partition, *next)..until).next() else {
            return false;
        };
        match record.transaction.map(|_| self.state(record.transaction)) {
            Some(State::Open) => return false,
            Some(State::Aborted) => {
                let next_at = place.1.next();
                if let Some(Some((next, _))) = self.callers[at].consumer.get_mut(&partition) {
                    *next = next_at;
                }
                return true;
            }
            Some(State::Committed { .. }) | None => {}
        }
        let is_forgetful = self.setup.mutation == Some(Mutation::DoubtForgotten);
        let continued = record.continued.map(|before| DeferralContext {
            origin: record.origin.1,
            attempts: before.attempts,
            attempts_ambiguous: before.attempts_ambiguous,
            lookups: before.lookups,
            ambiguity: before.ambiguity.filter(|_| !is_forgetful),
            seen_before: self.now.saturating_duration_since(before.first_seen_at),
        });
        let next_at = place.1.next();
        let pending = Pending {
            partition,
            offset: place.1,
            key: Some(record.key.clone()),
            bytes: BYTES,
            policy: record.policy,
            continued,
            payload: *place,
        };
        if let Some(Some((next, _))) = self.callers[at].consumer.get_mut(&partition) {
            *next = next_at;
        }
        if continued.is_some() {
            self.count("continued");
        }
        self.tell(at, Event::Pending(pending));
        true
    }

    fn hear(&mut self, at: usize, notice: Notice) {
        let process = self.callers[at].process;
        self.note(|| format!("{process} hears {notice:?}"));
        match notice {
            Notice::Assigned(partitions) => self.tell(at, Event::Assigned(partitions)),
            Notice::Revoked(partitions) => self.tell(at, Event::Revoked(partitions)),
            Notice::Lost => {
                let lost = self.callers[at].consumer.keys().copied().collect();
                self.checks.interruptions.push((process, self.now));
                self.tell(at, Event::Lost(lost));
            }
        }
    }

    fn happen(&mut self, at: usize, due: Due) {
        match due {
            Due::Load(assignment, partition)
                if self.is_unstable(partition) && self.setup.mutation != Some(Mutation::UnstableNotes) =>
            {
                let again_at = self.soon(20);
                self.callers[at]
                    .due
                    .push((again_at, Due::Load(assignment, partition)));
            }
            Due::Load(assignment, partition) => {
                let loaded = self.loaded(partition);
                self.tell(
                    at,
                    Event::NotesLoaded {
                        assignment,
                        partition,
                        loaded,
                    },
                );
            }
            Due::Leave(call, permit) => self.leave(at, call, &permit),
            Due::ResponseClass(call, report) => {
                let process = self.callers[at].process;
                let order = self.origin(place(call));
                let sent_at = self.checks.under_way.remove(&(process, order));
                if let Response::Status(reply) = &report
                    && matches!(reply.status, 200 | 422)
                {
                    let clear = self.checks.clear.entry(order).or_default();
                    clear.extend(sent_at.map(|at| (process, at, place(call))));
                }
                self.note(|| format!("{process} hears of {:?}: {report:?}", place(call)));
                self.hears(at, &report);
                let response = outage::mutated(report, &self.setup);
                let response = self.callers[at].delivery.classify(response);
                self.tell(at, Event::ResponseReceived { call, response });
            }
            Due::LookUp(call) => {
                let report = match self.is_down() || self.faults && self.random.random_ratio(1, 4) {
                    true => status(503, None),
                    false => self.api.look_up(self.origin(place(call))),
                };
                let answer_at = self.soon(40);
                self.callers[at]
                    .due
                    .push((answer_at, Due::LookedUp(call, report)));
            }
            Due::LookedUp(call, report) => {
                self.note(|| format!("looked up {:?}: {report:?}", place(call)));
                self.hears_of_look_up(at, &report);
                let response = self.callers[at].delivery.classify_look_up(report);
                self.tell(at, Event::LookedUp { call, response });
            }
            Due::WaitOver(call) => self.tell(at, Event::WaitElapsed(call)),
            Due::Publish(call, ending, is_written, told) => {
                if is_written {
                    self.write_end(place(call), &ending);
                }
                if let Some(acknowledged) = told {
                    self.tell(at, Event::Published { call, acknowledged });
                }
            }
            Due::Commit => self.commit_lands(at),
            Due::Defer(deferral) => self.take_deferral(at, deferral),
            Due::EndDeferral(deferral) => self.end_deferral(at, &deferral),
        }
    }

    fn loaded(&self, partition: Partition) -> LoadedNotes {
        let committed = self.group.committed.get(&partition).cloned();
        let metadata = committed.as_ref().map_or(String::new(), |(offset, note)| {
            if self.setup.mutation != Some(Mutation::NoFinals) {
                return note.clone();
            }
            let mut note = CallNote::decode(*offset, note).expect("a note");
            note.finals = OffsetSet::new();
            note.encode(*offset).expect("a shorter note")
        });
        LoadedNotes {
            committed: committed.map(|(offset, _)| offset),
            metadata,
            log_start: Offset(0),
            log_end: self.log_end[&partition],
        }
    }

    /// The last moment at which a request can be held back.
    fn leave(&mut self, at: usize, call: CallId, permit: &ExtendLease) {
        let (now, place, process) = (self.now, place(call), self.callers[at].process);
        let is_permitted = permit.get().is_some_and(|until| now < until);
        if !is_permitted && self.setup.mutation != Some(Mutation::NoDeadline) {
            self.count("withheld");
            let report = Response::NotSent(NotSent::Withheld);
            self.hears(at, &report);
            let response = self.callers[at].delivery.classify(report);
            self.tell(at, Event::ResponseReceived { call, response });
            return;
        }
        self.note(|| format!("a request for {place:?} leaves {process}"));
        let member = self.group.members.get(&self.callers[at].member);
        if !member.is_some_and(|member| member.owned.contains_key(&place.0)) {
            self.checks
                .broken(Broken::SentByNoOwner, || format!("{place:?} by {process}"));
        }
        let down = self.is_down().then(|| self.fate_while_down(process));
        let is_refused = matches!(down, Some(Response::NotSent(_)));
        if is_refused || self.faults && self.random.random_ratio(1, 25) {
            let report = Response::NotSent(NotSent::NoConnection);
            let answer_at = self.soon(20);
            self.callers[at]
                .due
                .push((answer_at, Due::ResponseClass(call, report)));
            return;
        }
        let (order, policy) = (self.origin(place), self.log[&place].policy);
        self.checks.sent(process, place, order, policy, now);
        let kind = (self.faults, self.setup.seed, self.setup.gives_up);
        let mut fate = match self.setup.outage_only {
            None => self.api.fate(&mut self.random, order, now, kind),
            Some(_) => api::fate(&mut self.random, order, now, false),
        };
        if let Some(report) = down {
            // It may have been taken all the same.
            fate.lands_at = fate.lands_at.filter(|_| self.faults);
            fate.report = report;
        }
        if let Some(lands_at) = fate.lands_at {
            self.api.takes(order, lands_at);
            if lands_at > fate.report_at {
                self.count("late landings");
            }
        }
        if let Response::Lost(_) = fate.report {
            self.checks.ambiguous.insert(order);
        }
        if let Response::Status(reply) = &fate.report
            && reply.status >= 500
        {
            self.checks.ambiguous.insert(order);
        }
        self.callers[at]
            .due
            .push((fate.report_at, Due::ResponseClass(call, fate.report)));
    }

    pub(crate) fn write_end(&mut self, place: Place, ending: &FinalState) {
        let policy = self.log[&place].policy;
        self.note(|| format!("{place:?} ends {ending:?}"));
        let (order, gives_up) = (self.origin(place), self.setup.gives_up);
        match self.checks.ended(order, ending, policy, gives_up, self.now) {
            End::Parked => self.count("parked"),
            End::Found => self.count("found"),
            End::Abandoned => self.count("given up"),
            End::Accepted | End::Rejected => {}
        }
    }

    fn commit_lands(&mut self, at: usize) {
        let Some(mut commit) = self.callers[at].commit.take() else {
            return;
        };
        match commit.result {
            CommitResult::Committed => {
                if !self.land(&commit) {
                    commit.result = CommitResult::Fenced;
                }
            }
            // It has landed, or lies in the network and may land at any later time.
            CommitResult::Unknown => match self.random.random_ratio(1, 2) {
                true => drop(self.land(&commit)),
                false => self.group.late.push(commit.clone()),
            },
            CommitResult::Rejected | CommitResult::Fenced => {}
        }
        match self.setup.mutation {
            // It was told already.
            Some(Mutation::NotAwaited) => {}
            Some(Mutation::UnknownCarriesOn) if commit.result == CommitResult::Unknown => {
                self.tell(at, Event::Committed(CommitResult::Rejected));
            }
            _ => {
                if matches!(commit.result, CommitResult::Unknown | CommitResult::Fenced) {
                    let process = self.callers[at].process;
                    self.checks.interruptions.push((process, self.now));
                }
                self.tell(at, Event::Committed(commit.result));
            }
        }
    }

    pub(crate) fn tell(&mut self, at: usize, event: Event<Place>) {
        let actions = self.callers[at].delivery.on(event, self.now);
        for action in actions {
            self.perform(at, action);
        }
        self.check_held(at);
    }

    fn perform(&mut self, at: usize, action: Action<Place>) {
        let now = self.now;
        match action {
            Action::Load {
                assignment,
                partitions,
            } => {
                let permitted_until = self.callers[at].permitted_until;
                for partition in partitions {
                    let load_at = self.soon(20);
                    let caller = &mut self.callers[at];
                    caller.consumer.insert(partition, None);
                    caller
                        .permits
                        .insert(partition, Rc::new(Cell::new(permitted_until)));
                    caller.due.push((load_at, Due::Load(assignment, partition)));
                }
            }
            Action::Start {
                partition, offset, ..
            } => {
                self.callers[at].consumer.insert(partition, Some((offset, false)));
            }
            Action::Halt { partition, why } => {
                self.checks
                    .broken(Broken::Mishandled, || format!("{partition} is refused: {why}"));
            }
            Action::Pause(partitions) => self.pause(at, &partitions, true),
            Action::Resume(partitions) => self.pause(at, &partitions, false),
            Action::ExtendLease(until) => {
                let caller = &mut self.callers[at];
                caller.permitted_until = Some(until);
                caller.permits.values().for_each(|permit| permit.set(Some(until)));
            }
            Action::Withhold(partitions) => {
                // Lost, or not drained in time, or the membership is over.
                let process = self.callers[at].process;
                self.checks.interruptions.push((process, now));
                self.callers[at].withhold(&partitions);
            }
            Action::Send { call, payload, .. } => {
                self.asks_the_api(at);
                self.send(at, call, *payload);
            }
            Action::LookUp { call, .. } => {
                self.count("look-ups");
                self.asks_the_api(at);
                let ask_at = self.soon(20);
                self.callers[at].due.push((ask_at, Due::LookUp(call)));
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
                    .due
                    .push((now + at_least + jitter, Due::WaitOver(call)));
            }
            Action::Publish {
                call, final_state, ..
            } => self.publish(at, call, final_state),
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
            } => self.give_up(at, &partitions, &abandoned),
            Action::Outage(outage) => self.outage(at, &outage),
            Action::OutageOver => self.outage_over(at),
            Action::Rejoin(_) => self.rejoin(at),
            Action::Finish => self.callers[at].finished = true,
        }
    }

    fn send(&mut self, at: usize, call: CallId, place: Place) {
        self.check_order(at, call, place);
        let caller = &self.callers[at];
        let is_request = |(_, due): &&(Instant, Due)| matches!(due, Due::ResponseClass(..) | Due::Leave(..));
        if caller.due.iter().filter(is_request).count() >= LIMITS.calls_in_flight_max {
            self.checks
                .broken(Broken::TooMany, || format!("{place:?} is one too many"));
        }
        let permit = caller.permits.get(&call.partition).cloned().unwrap_or_default();
        let leaves_at = self.soon(15);
        self.callers[at].due.push((leaves_at, Due::Leave(call, permit)));
    }

    /// An earlier call of the same key has ended, or lies further up since another owner has deferred it.
    fn check_order(&mut self, at: usize, call: CallId, place: Place) {
        let Some(Log { key, origin, .. }) = self.log.get(&place) else {
            return;
        };
        let of_partition = (place.0, Offset(0))..(Partition(place.0.0 + 1), Offset(0));
        let of_key = |(_, record): &(&Place, &Log)| record.key == *key && record.origin < *origin;
        let visible = self
            .log
            .range(of_partition)
            .filter(|(_, record)| self.is_visible(record));
        // The last place of each chain.
        let earlier: BTreeMap<Place, Place> = visible
            .filter(of_key)
            .map(|(at, record)| (record.origin, *at))
            .collect();
        let owner = (self.callers[at].process, call.assignment);
        for (order, last) in earlier {
            let is_excused = last > place && self.checks.deferred_by.get(&order) != Some(&owner);
            if !self.checks.ends.contains_key(&order) && !is_excused {
                self.checks.broken(Broken::OutOfOrder, || {
                    format!("{place:?} before {order:?}, now {last:?}")
                });
            }
        }
    }

    fn publish(&mut self, at: usize, call: CallId, ending: Arc<FinalState>) {
        let written_at = self.soon(25);
        if self.setup.mutation == Some(Mutation::ParkedNotAcknowledged) {
            let due = Due::Publish(call, ending, true, None);
            self.callers[at].due.push((written_at, due));
            self.callers[at]
                .due
                .push((self.now, Due::Publish(call, unwritten(), false, Some(true))));
            return;
        }
        let (is_written, told) = match self.random.random_range(0..40) {
            0 if self.faults => (false, false),
            1 if self.faults => (true, false),
            _ => (true, true),
        };
        let due = Due::Publish(call, ending, is_written, Some(told));
        self.callers[at].due.push((written_at, due));
    }

    fn commit(&mut self, at: usize, content: Vec<(Partition, Offset, String)>) {
        let caller = &self.callers[at];
        let is_not_awaited = self.setup.mutation == Some(Mutation::NotAwaited);
        if caller.is_committing() && !is_not_awaited {
            self.checks
                .broken(Broken::CommitOutOfTurn, || "two commits in flight".into());
        }
        for (partition, ..) in &content {
            if !caller.consumer.contains_key(partition) {
                self.checks.broken(Broken::CommitOutOfTurn, || {
                    format!("{partition} is committed and was given up")
                });
            }
        }
        let has_faults = self.faults && !self.setup.moves_only;
        let result = match self.random.random_range(0..100) {
            0..3 if has_faults => CommitResult::Unknown,
            3..30 if self.setup.mutation == Some(Mutation::UnknownCarriesOn) => CommitResult::Unknown,
            3..7 if self.faults => CommitResult::Rejected,
            _ => CommitResult::Committed,
        };
        let process = caller.process;
        self.note(|| format!("{process} commits {content:?}: {result:?}"));
        let is_silent = has_faults && self.random.random_ratio(1, 80);
        let lands_at = self.soon(30);
        let caller = &mut self.callers[at];
        for (partition, offset, note) in &content {
            caller.last_commits.insert(*partition, (*offset, note.clone()));
        }
        let commit = CommitOnItsWay {
            member: caller.member,
            content,
            result,
        };
        if is_not_awaited {
            // They land in their order all the same.
            if let Some(overtaken) = caller.commit.replace(commit) {
                self.land(&overtaken);
            }
            let caller = &mut self.callers[at];
            caller.due.retain(|(_, due)| !matches!(due, Due::Commit));
            caller.due.push((lands_at, Due::Commit));
            self.tell(at, Event::Committed(CommitResult::Committed));
            return;
        }
        caller.commit = Some(commit);
        // Sometimes the answer does not come at all.
        if !is_silent {
            caller.due.push((lands_at, Due::Commit));
        }
    }

    fn give_up(&mut self, at: usize, partitions: &[Partition], abandoned: &[(Partition, Offset)]) {
        let caller = &mut self.callers[at];
        caller.withhold(partitions);
        let (member, process) = (caller.member, caller.process);
        if !abandoned.is_empty() {
            self.checks.interruptions.push((process, self.now));
        }
        if caller.is_committing() && self.setup.mutation != Some(Mutation::NotAwaited) {
            self.checks.broken(Broken::CommitOutOfTurn, || {
                format!("{partitions:?} are given up while a commit is in flight")
            });
        }
        for partition in partitions {
            if caller.consumer.remove(partition).is_none() {
                self.checks
                    .broken(Broken::Mishandled, || format!("{partition} is given up twice"));
            }
            let last = caller.last_commits.remove(partition);
            if let (Some(Mutation::RevokedCommits), Some((offset, note))) = (self.setup.mutation, last) {
                let content = vec![(*partition, offset, note)];
                let result = CommitResult::Committed;
                self.group.late.push(CommitOnItsWay {
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
            // Expelled, and about to hear of it.
            None if caller.notices.iter().any(|notice| matches!(notice, Notice::Lost)) => {}
            // librdkafka joins again by itself once the lost partitions are given up.
            None => caller.member = self.group.join(process, self.now),
        }
    }

    fn rejoin(&mut self, at: usize) {
        self.count("rejoins");
        let caller = &mut self.callers[at];
        let process = caller.process;
        self.checks.interruptions.push((process, self.now));
        let all: Vec<Partition> = caller.permits.keys().copied().collect();
        caller.withhold(&all);
        caller.permitted_until = None;
        caller.consumer.clear();
        caller.notices.clear();
        caller.last_commits.clear();
        caller.due.retain(|(_, due)| match due {
            Due::Load(..) | Due::Commit => false,
            Due::Leave(..)
            | Due::ResponseClass(..)
            | Due::LookUp(_)
            | Due::LookedUp(..)
            | Due::WaitOver(_)
            | Due::Defer(_)
            | Due::EndDeferral(_)
            | Due::Publish(..) => true,
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
                Some(None) | None => self.checks.broken(Broken::Mishandled, || {
                    format!("{partition} is paused or resumed and was not started")
                }),
            }
        }
    }
}

/// Stands in for an end that is not written.
fn unwritten() -> Arc<FinalState> {
    Arc::new(FinalState::NotACall)
}
