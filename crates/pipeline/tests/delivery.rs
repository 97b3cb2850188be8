//! Callers, a group, an API and faults, at random: what must hold of stage two, holds in each run.
//!
//! A simple world stands around real [`Delivery`]s: a log with the gaps of transaction markers, a group
//! that moves partitions, fences commits by membership and expels who is silent, an API that answers,
//! loses answers or turns requests away, and a scheduler that draws the next step from a seed. At the end
//! the faults stop and everything must finish.
//!
//! `DELIVERY_SEED=n cargo test -p pipeline --test delivery` replays one seed.

#![allow(clippy::disallowed_methods, reason = "a test begins somewhere in time")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use pipeline::delivery::{
    Action, CallId, Class, Classes, CommitResult, Delivery, Ending, Event, Limits, Loaded, Lost, NotSent,
    Pending, Reply, Report, Statuses,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use records::{CallNote, IdempotencyKey, Offset, Partition};

const PARTITIONS: i32 = 3;
const CALLS_PER_PARTITION: i64 = 40;
const KEYS: i64 = 12;
const SESSION: Duration = Duration::from_secs(10);
const LIMITS: Limits = Limits {
    calls_in_flight_max: 6,
    calls_held_max: 8,
    bytes_held_max: 1_500,
    ownership_max: Duration::from_secs(5),
    commit_interval: Duration::from_millis(10),
    commit_max: Duration::from_secs(3),
    drain_max: Duration::from_secs(4),
};

type Place = (Partition, Offset);

/// A step that may come next for one caller.
#[derive(Clone, Debug)]
enum Due {
    Load(pipeline::delivery::Assignment, Partition),
    Answer(CallId, Report, Instant),
    WaitOver(CallId, Instant),
    Publish(CallId, bool),
    Commit,
    Group(Notice),
}

#[derive(Clone, Debug)]
enum Notice {
    Assigned(Vec<Partition>),
    Revoked(Vec<Partition>),
    Lost(Vec<Partition>),
}

#[derive(Debug)]
struct CommitOnItsWay {
    member: u64,
    content: Vec<(Partition, Offset, String)>,
    result: CommitResult,
}

struct Caller {
    delivery: Delivery<Place>,
    member: u64,
    /// Partitions as the consumer has them: accepted, with the next offset if started, and whether paused.
    consumer: BTreeMap<Partition, Option<(Offset, bool)>>,
    due: Vec<Due>,
    commit: Option<CommitOnItsWay>,
    asleep_until: Option<Instant>,
    /// Reports that this process was given: what it knows.
    accepted_here: BTreeSet<Place>,
    stopping: bool,
    finished: bool,
}

/// What the group knows of one member.
struct Member {
    caller: usize,
    heard_of_at: Instant,
    /// Owned partitions, and those of them that are being revoked.
    owned: BTreeMap<Partition, bool>,
}

struct World {
    random: ChaCha8Rng,
    now: Instant,
    log: BTreeMap<Place, IdempotencyKey>,
    log_end: BTreeMap<Partition, Offset>,
    committed: BTreeMap<Partition, (Offset, String)>,
    late_commits: Vec<CommitOnItsWay>,
    members: BTreeMap<u64, Member>,
    members_ever: u64,
    callers: Vec<Caller>,
    /// How often the API has processed each call, and how often it was asked.
    processed: HashMap<Place, u32>,
    requests: HashMap<Place, u32>,
    acknowledged: BTreeSet<Place>,
    faults: bool,
    steps: u64,
    counts: BTreeMap<&'static str, u64>,
}

fn classes() -> Classes {
    Classes::new([
        (Statuses::Hundred(2), Class::Accepted),
        (Statuses::Hundred(4), Class::Rejected),
        (Statuses::Exactly(429), Class::Retry),
    ])
    .expect("a table")
}

impl World {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant can be had from the clock alone; it only begins here"
    )]
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut log, mut log_end) = (BTreeMap::new(), BTreeMap::new());
        for partition in (0..PARTITIONS).map(Partition) {
            let mut offset = 0;
            for _ in 0..CALLS_PER_PARTITION {
                // A transaction's marker now and then, and aborted records.
                while random.random_ratio(1, 4) {
                    offset += 1;
                }
                let key = IdempotencyKey::new(&format!("{partition}-{}", random.random_range(0..KEYS)))
                    .expect("a key");
                log.insert((partition, Offset(offset)), key);
                offset += 1;
            }
            log_end.insert(partition, Offset(offset + 1));
        }
        let mut world = Self {
            random,
            now: Instant::now(),
            log,
            log_end,
            committed: BTreeMap::new(),
            late_commits: Vec::new(),
            members: BTreeMap::new(),
            members_ever: 0,
            callers: Vec::new(),
            processed: HashMap::new(),
            requests: HashMap::new(),
            acknowledged: BTreeSet::new(),
            faults: true,
            steps: 0,
            counts: BTreeMap::new(),
        };
        world.start_caller();
        world.start_caller();
        world
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn start_caller(&mut self) {
        let caller = self.callers.len();
        self.callers.push(Caller {
            delivery: Delivery::new(LIMITS, classes()),
            member: 0,
            consumer: BTreeMap::new(),
            due: Vec::new(),
            commit: None,
            asleep_until: None,
            accepted_here: BTreeSet::new(),
            stopping: false,
            finished: false,
        });
        self.join(caller);
    }

    fn join(&mut self, caller: usize) {
        self.members_ever += 1;
        self.callers[caller].member = self.members_ever;
        let member = Member {
            caller,
            heard_of_at: self.now,
            owned: BTreeMap::new(),
        };
        self.members.insert(self.members_ever, member);
    }

    fn is_over(&self) -> bool {
        self.log.keys().all(|place| self.acknowledged.contains(place))
            && self.committed.len() == PARTITIONS as usize
            && self
                .log
                .keys()
                .all(|(partition, offset)| self.committed[partition].0 > *offset)
    }

    fn run(&mut self) {
        while !self.is_over() {
            self.steps += 1;
            self.faults = self.steps < 3_000;
            assert!(
                self.steps < 60_000,
                "it does not come to an end; {:?}",
                self.counts
            );
            self.now += Duration::from_millis(self.random.random_range(0..30));
            self.group_turn();
            if self.faults {
                self.fault();
            }
            let caller = self.random.random_range(0..self.callers.len());
            self.caller_turn(caller);
        }
    }

    fn fault(&mut self) {
        let caller = self.random.random_range(0..self.callers.len());
        match self.random.random_range(0..600) {
            0..2 => {
                // kill -9: what was on the wire goes on, the group learns of it by silence alone.
                self.count("kills");
                let commit = self.callers[caller].commit.take();
                self.late_commits.extend(commit);
                self.callers.remove(caller);
                self.members.values_mut().for_each(|member| {
                    member.caller = match member.caller {
                        at if at == caller => usize::MAX,
                        at if at > caller && at != usize::MAX => at - 1,
                        at => at,
                    };
                });
                self.start_caller();
            }
            8..14 => {
                self.count("pauses");
                let pause = Duration::from_millis(self.random.random_range(0..25_000));
                self.callers[caller].asleep_until = Some(self.now + pause);
            }
            2..6 => self.rebalance(),
            6 if !self.callers[caller].stopping => {
                self.count("stops");
                self.callers[caller].stopping = true;
                self.tell(caller, Event::Stop);
            }
            7 => self.tell(caller, Event::ClientLost),
            _ => {}
        }
        if let Some(at) =
            (!self.late_commits.is_empty()).then(|| self.random.random_range(0..self.late_commits.len()))
            && self.random.random_ratio(1, 5)
        {
            let commit = self.late_commits.swap_remove(at);
            self.land(&commit);
        }
    }

    /// The group moves a partition from one member to another.
    fn rebalance(&mut self) {
        let owned: Vec<(u64, Partition)> = self
            .members
            .iter()
            .flat_map(|(id, member)| {
                member
                    .owned
                    .iter()
                    .filter(|(_, leaves)| !**leaves)
                    .map(|(p, _)| (*id, *p))
            })
            .collect();
        if owned.is_empty() {
            return;
        }
        let (id, partition) = owned[self.random.random_range(0..owned.len())];
        let member = self.members.get_mut(&id).expect("a member");
        if member.owned.values().any(|leaves| *leaves) {
            return;
        }
        member.owned.insert(partition, true);
        let caller = member.caller;
        self.count("revokes");
        if let Some(caller) = self.callers.get_mut(caller) {
            caller.due.push(Due::Group(Notice::Revoked(vec![partition])));
        }
    }

    /// The group expels who is silent, and gives away what is free.
    fn group_turn(&mut self) {
        for member in self.members.values_mut() {
            let caller = self.callers.get(member.caller);
            if caller.is_some_and(|caller| caller.asleep_until.is_none()) {
                member.heard_of_at = self.now;
            }
        }
        let silent: Vec<u64> = self
            .members
            .iter()
            .filter(|(_, member)| self.now.duration_since(member.heard_of_at) > SESSION)
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            let member = self.members.remove(&id).expect("a member");
            self.count("expelled");
            if let Some(caller) = self.callers.get_mut(member.caller) {
                let lost: Vec<Partition> = caller.consumer.keys().copied().collect();
                caller.due.retain(|due| !matches!(due, Due::Group(_)));
                caller.due.push(Due::Group(Notice::Lost(lost)));
            }
        }
        for partition in (0..PARTITIONS).map(Partition) {
            let owner = self
                .members
                .values()
                .any(|member| member.owned.contains_key(&partition));
            let alive: Vec<u64> = self
                .members
                .iter()
                .filter(|(_, m)| m.caller != usize::MAX)
                .map(|(id, _)| *id)
                .collect();
            if !owner && !alive.is_empty() && self.random.random_ratio(1, 3) {
                let id = alive[self.random.random_range(0..alive.len())];
                let member = self.members.get_mut(&id).expect("a member");
                member.owned.insert(partition, false);
                let notice = Due::Group(Notice::Assigned(vec![partition]));
                self.callers[member.caller].due.push(notice);
            }
        }
    }

    fn caller_turn(&mut self, at: usize) {
        let now = self.now;
        let caller = &mut self.callers[at];
        match caller.asleep_until {
            Some(until) if now < until => return,
            Some(_) | None => caller.asleep_until = None,
        }
        if caller.finished {
            let member = caller.member;
            self.members.remove(&member);
            self.callers.remove(at);
            self.members.values_mut().for_each(|m| {
                if m.caller != usize::MAX && m.caller > at {
                    m.caller -= 1;
                }
            });
            self.start_caller();
            return;
        }
        let wakes = caller.delivery.wake_at(now).is_some_and(|wake| wake <= now);
        if wakes && self.random.random_ratio(1, 2) {
            self.tell(at, Event::Tick);
            return;
        }
        // What the group says comes in its order, everything else in any.
        let next_notice = caller.due.iter().position(|due| matches!(due, Due::Group(_)));
        let is_ready = |index: &usize| match &caller.due[*index] {
            Due::Answer(_, _, at) | Due::WaitOver(_, at) => *at <= now,
            Due::Load(..) | Due::Publish(..) | Due::Commit => true,
            Due::Group(_) => next_notice == Some(*index),
        };
        let ready: Vec<usize> = (0..caller.due.len()).filter(is_ready).collect();
        let started: Vec<Partition> = caller
            .consumer
            .iter()
            .filter(|(_, state)| matches!(state, Some((_, false))))
            .map(|(partition, _)| *partition)
            .collect();
        let choices = ready.len() + started.len();
        if choices == 0 {
            return;
        }
        let choice = self.random.random_range(0..choices);
        match ready.get(choice) {
            Some(index) => {
                let due = self.callers[at].due.remove(*index);
                self.happen(at, due);
            }
            None => self.fetch(at, started[choice - ready.len()]),
        }
    }

    fn fetch(&mut self, at: usize, partition: Partition) {
        let Some(Some((next, _))) = self.callers[at].consumer.get_mut(&partition) else {
            return;
        };
        let Some((place, key)) = self
            .log
            .range((partition, *next)..(Partition(partition.0 + 1), Offset(0)))
            .next()
        else {
            return;
        };
        let (place, key) = (*place, key.clone());
        *next = place.1.next();
        let pending = Pending {
            partition,
            offset: place.1,
            key: Some(key),
            bytes: 100,
            payload: place,
        };
        self.tell(at, Event::Pending(pending));
    }

    fn happen(&mut self, at: usize, due: Due) {
        match due {
            Due::Load(assignment, partition) => {
                let committed = self.committed.get(&partition).cloned();
                let loaded = Loaded {
                    committed: committed.as_ref().map(|(offset, _)| *offset),
                    metadata: committed.map(|(_, note)| note).unwrap_or_default(),
                    log_start: Offset(0),
                    log_end: self.log_end[&partition],
                };
                self.tell(
                    at,
                    Event::NotesLoaded {
                        assignment,
                        partition,
                        loaded,
                    },
                );
            }
            Due::Answer(call, report, _) => {
                if matches!(&report, Report::Status(reply) if reply.status == 200) {
                    self.callers[at]
                        .accepted_here
                        .insert((call.partition, call.offset));
                }
                self.tell(at, Event::Answered { call, report });
            }
            Due::WaitOver(call, _) => self.tell(at, Event::WaitOver(call)),
            Due::Publish(call, acknowledged) => {
                if acknowledged {
                    self.acknowledged.insert((call.partition, call.offset));
                }
                self.tell(at, Event::Published { call, acknowledged });
            }
            Due::Commit => {
                let mut commit = self.callers[at].commit.take().expect("a commit in flight");
                match commit.result {
                    CommitResult::Done if !self.land(&commit) => commit.result = CommitResult::Fenced,
                    CommitResult::Unknown if self.random.random_ratio(1, 2) => {
                        self.land(&commit);
                    }
                    CommitResult::Unknown => {
                        // It lies in the network, and may land at any later time.
                        let result = commit.result;
                        self.late_commits.push(CommitOnItsWay { result, ..commit });
                        self.tell(at, Event::Committed(CommitResult::Unknown));
                        return;
                    }
                    CommitResult::Done | CommitResult::NotDone | CommitResult::Fenced => {}
                }
                self.tell(at, Event::Committed(commit.result));
            }
            Due::Group(Notice::Assigned(partitions)) => self.tell(at, Event::Assigned(partitions)),
            Due::Group(Notice::Revoked(partitions)) => self.tell(at, Event::Revoked(partitions)),
            Due::Group(Notice::Lost(mut partitions)) => {
                partitions.retain(|partition| self.callers[at].consumer.contains_key(partition));
                self.tell(at, Event::Lost(partitions));
            }
        }
    }

    /// A commit reaches the coordinator, which looks at the membership and at nothing else.
    fn land(&mut self, commit: &CommitOnItsWay) -> bool {
        let Some(member) = self.members.get_mut(&commit.member) else {
            return false;
        };
        member.heard_of_at = self.now;
        for (partition, offset, note) in &commit.content {
            let note_read = CallNote::decode(*offset, note).expect("a note");
            let is_final = |place: &Place| place.1 < *offset || note_read.finals.contains(place.1);
            for place in self
                .log
                .keys()
                .filter(|place| place.0 == *partition && is_final(place))
            {
                assert!(
                    self.acknowledged.contains(place),
                    "{place:?} is committed as final and has no end in kafka"
                );
            }
            let before = self
                .committed
                .get(partition)
                .map_or(Offset(0), |(offset, _)| *offset);
            assert!(
                *offset >= before,
                "the watermark of {partition} went back from {before} to {offset}"
            );
            self.committed.insert(*partition, (*offset, note.clone()));
        }
        true
    }

    fn tell(&mut self, at: usize, event: Event<Place>) {
        let actions = self.callers[at].delivery.on(event, self.now);
        for action in actions {
            self.perform(at, action);
        }
    }

    fn perform(&mut self, at: usize, action: Action<Place>) {
        let now = self.now;
        match action {
            Action::Load {
                assignment,
                partitions,
            } => {
                for partition in partitions {
                    self.callers[at].consumer.insert(partition, None);
                    self.callers[at].due.push(Due::Load(assignment, partition));
                }
            }
            Action::Start {
                partition, offset, ..
            } => {
                self.callers[at].consumer.insert(partition, Some((offset, false)));
            }
            Action::Refuse { partition, why } => panic!("{partition} is refused: {why}"),
            Action::Pause(partitions) => self.pause(at, &partitions, true),
            Action::Resume(partitions) => self.pause(at, &partitions, false),
            Action::Permit(until) => assert!(until > now - LIMITS.commit_max, "an old permit"),
            Action::Withhold(_) => {}
            Action::Send { call, payload, .. } => self.send(at, call, *payload),
            Action::Wait { call, at_least, .. } => {
                let wait = at_least + Duration::from_millis(self.random.random_range(0..200));
                self.callers[at].due.push(Due::WaitOver(call, now + wait));
            }
            Action::Publish {
                call,
                ending,
                payload,
                ..
            } => {
                assert_eq!((call.partition, call.offset), *payload);
                assert!(matches!(&*ending, Ending::Accepted(_) | Ending::Rejected(_)));
                let fails = self.faults && self.random.random_ratio(1, 20);
                self.callers[at].due.push(Due::Publish(call, !fails));
            }
            Action::Commit(commits) => {
                let caller = &mut self.callers[at];
                assert!(caller.commit.is_none(), "two commits in flight");
                for commit in &commits {
                    assert!(
                        caller.consumer.contains_key(&commit.partition),
                        "{} is committed and was given up",
                        commit.partition
                    );
                }
                let result = match self.random.random_range(0..100) {
                    0..2 if self.faults => CommitResult::Unknown,
                    2..6 if self.faults => CommitResult::NotDone,
                    _ => CommitResult::Done,
                };
                let content = commits
                    .into_iter()
                    .map(|commit| (commit.partition, commit.offset, commit.note));
                caller.commit = Some(CommitOnItsWay {
                    member: caller.member,
                    content: content.collect(),
                    result,
                });
                // Sometimes the answer does not come at all.
                if !(self.faults && self.random.random_ratio(1, 100)) {
                    caller.due.push(Due::Commit);
                }
            }
            Action::GiveUp { partitions, .. } => {
                let caller = &mut self.callers[at];
                assert!(
                    caller.commit.is_none(),
                    "partitions are given up while a commit is in flight"
                );
                let member = caller.member;
                for partition in &partitions {
                    assert!(
                        caller.consumer.remove(partition).is_some(),
                        "{partition} is given up twice"
                    );
                }
                match self.members.get_mut(&member) {
                    Some(member) => partitions.iter().for_each(|partition| {
                        member.owned.remove(partition);
                    }),
                    // Expelled, and about to hear of it.
                    None if caller
                        .due
                        .iter()
                        .any(|due| matches!(due, Due::Group(Notice::Lost(_)))) => {}
                    // librdkafka joins again by itself once the lost partitions are given up.
                    None => self.join(at),
                }
            }
            Action::Rejoin(_) => {
                self.count("rejoins");
                let caller = &mut self.callers[at];
                let member = caller.member;
                caller.consumer.clear();
                caller
                    .due
                    .retain(|due| matches!(due, Due::Answer(..) | Due::WaitOver(..) | Due::Publish(..)));
                let commit = caller.commit.take();
                self.late_commits.extend(commit);
                self.members.remove(&member);
                self.join(at);
            }
            Action::Finish => self.callers[at].finished = true,
        }
    }

    fn pause(&mut self, at: usize, partitions: &[Partition], is_paused: bool) {
        for partition in partitions {
            match self.callers[at].consumer.get_mut(partition) {
                Some(Some((_, paused))) => *paused = is_paused,
                Some(None) | None => panic!("{partition} is paused or resumed and was not started"),
            }
        }
    }

    fn send(&mut self, at: usize, call: CallId, place: Place) {
        assert_eq!((call.partition, call.offset), place);
        let caller = &self.callers[at];
        // The member may be expelled and not know it yet; within the deadline it is not.
        let member = self.members.get(&caller.member);
        assert!(
            member.is_some_and(|member| member.owned.contains_key(&place.0)),
            "{place:?} is sent by a caller that does not own it"
        );
        assert!(
            !self.acknowledged.contains(&place) || !caller.accepted_here.contains(&place),
            "{place:?} is final"
        );
        assert!(
            !caller.accepted_here.contains(&place),
            "{place:?} is sent again by the process that saw it accepted"
        );
        let key = &self.log[&place];
        for (earlier, _) in self
            .log
            .range((place.0, Offset(0))..place)
            .filter(|(_, other)| *other == key)
        {
            assert!(
                self.acknowledged.contains(earlier),
                "{place:?} is sent before {earlier:?} of the same key ended"
            );
        }
        let requests = caller
            .due
            .iter()
            .filter(|due| matches!(due, Due::Answer(..)))
            .count();
        assert!(
            requests < LIMITS.calls_in_flight_max,
            "{requests} requests are under way already"
        );
        *self.requests.entry(place).or_default() += 1;

        let status = |status: u16, retry_after: Option<u64>| {
            let retry_after = retry_after.map(Duration::from_millis);
            Report::Status(Reply {
                status,
                retry_after,
                ..Reply::default()
            })
        };
        let (processes, report) = match if self.faults {
            self.random.random_range(0..100)
        } else {
            99
        } {
            0..4 => (true, Report::Lost(Lost::TimedOut)),
            4..7 => (false, Report::Lost(Lost::Closed)),
            7..9 => (true, status(500, None)),
            9..14 => (false, status(429, Some(100))),
            14..18 => (false, Report::NotSent(NotSent::NoConnection)),
            18..20 => (false, Report::NotSent(NotSent::Withheld)),
            20..23 => (false, status(422, None)),
            _ => (true, status(200, None)),
        };
        if processes {
            *self.processed.entry(place).or_default() += 1;
        }
        let slow = if self.faults && self.random.random_ratio(1, 40) {
            6_000
        } else {
            60
        };
        let answer_at = self.now + Duration::from_millis(self.random.random_range(0..slow));
        self.callers[at].due.push(Due::Answer(call, report, answer_at));
    }
}

fn check(seed: u64) -> World {
    println!("seed {seed}");
    let mut world = World::new(seed);
    world.run();
    for place in world.log.keys() {
        assert!(world.requests.contains_key(place), "{place:?} was never called");
    }
    world
}

#[test]
fn each_call_ends_whatever_happens_and_nothing_is_broken_on_the_way() {
    if let Ok(seed) = std::env::var("DELIVERY_SEED") {
        let world = check(seed.parse().expect("a number"));
        println!("{} steps, {:?}", world.steps, world.counts);
        return;
    }
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..400 {
        for (what, count) in check(seed).counts {
            *counts.entry(what).or_default() += count;
        }
    }
    // A world without faults would prove nothing.
    for what in ["kills", "pauses", "expelled", "revokes", "stops", "rejoins"] {
        let count = counts.get(what).copied().unwrap_or_default();
        assert!(count > 100, "{what}: {count}");
    }
}
