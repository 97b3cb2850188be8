//! The world: its clock, its log, its faults, and whose turn it is.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use pipeline::delivery::{Ambiguity, Event, FlowControlSettings, Policy};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use records::{IdempotencyKey, Offset, Partition};

use crate::delivery::api::Api;
use crate::delivery::caller::Caller;
use crate::delivery::checks::{Broken, Checks, Place, Violation};
use crate::delivery::group::Group;
use crate::delivery::outage::{self, Down, Seen};
use crate::delivery::transactions::Transaction;

const PARTITIONS: i32 = 2;
const KEYS: i64 = 5;
/// So long there are faults; then everything must finish.
const FAULTY_STEPS: u64 = 500;

/// What kind of world it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) policies: Policies,
    /// Nobody is killed, stands still, or hears nothing of a commit.
    pub(crate) moves_only: bool,
    /// Some orders the API never accepts, and they are given up.
    pub(crate) gives_up: bool,
    pub(crate) pace: Option<FlowControlSettings>,
    /// Nothing happens but one outage of the API.
    pub(crate) outage_only: Option<Duration>,
    pub(crate) mutation: Option<Mutation>,
    /// The one promise that it is about, if it is about one.
    pub(crate) looks_for: Option<Broken>,
}

/// Which calls have which policy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Policies {
    All(Policy),
    Mixed,
}

/// A rule of the protocol that is taken away. In brackets its row in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// Beginnings are not noted (B1, V5).
    NoBeginnings,
    /// A request leaves before its beginning is acknowledged (B10).
    NotAwaited,
    /// A member carries on after a commit of which it knows nothing (B9).
    UnknownCarriesOn,
    /// An end counts as acknowledged as soon as it is handed over (B11).
    ParkedNotAcknowledged,
    /// A commit of a revoked partition goes out under the generation that follows (B14).
    RevokedCommits,
    /// Nothing is held back at the last moment (D2, V2).
    NoDeadline,
    /// A look-up does not wait for the API's longest processing time (V1).
    LooksUpAtOnce,
    /// Only the offset is kept, not what is final behind it (A4).
    NoFinals,
    /// A deferral writes its copy before its note, in no transaction.
    CopyAlone,
    /// A deferral commits its note before its copy, in no transaction.
    NoteAlone,
    /// A commit is in flight beside a deferral.
    CommitMeanwhile,
    /// A member carries on after a deferral of which it knows nothing.
    UnknownDeferralCarriesOn,
    /// Notes are read while a transaction is pending on them.
    UnstableNotes,
    /// The copy does not say that its call may have been processed.
    DoubtForgotten,
    /// The breaker stays open.
    NeverProbes,
    /// There is no breaker.
    NoBreaker,
    /// Rejected orders count as failures of the API.
    CountsRejections,
}

/// A record of the outbox.
#[derive(Clone)]
pub(crate) struct Pending {
    pub(crate) key: IdempotencyKey,
    pub(crate) policy: Policy,
    /// The order: where it lay first.
    pub(crate) origin: Place,
    /// What it brings along, if it was deferred.
    pub(crate) continued: Option<Before>,
    /// The transaction that it was written in; `None`: it can be read at once.
    pub(crate) transaction: Option<u64>,
}

/// What a copy brings along.
#[derive(Clone, Copy)]
pub(crate) struct Before {
    pub(crate) attempts: u32,
    pub(crate) attempts_ambiguous: u32,
    pub(crate) lookups: u32,
    pub(crate) ambiguity: Option<Ambiguity>,
    pub(crate) first_seen_at: Instant,
}

pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) random: ChaCha8Rng,
    pub(crate) now: Instant,
    began: Instant,
    pub(crate) log: BTreeMap<Place, Pending>,
    pub(crate) log_end: BTreeMap<Partition, Offset>,
    pub(crate) group: Group,
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) deferrals_ever: u64,
    pub(crate) api: Api,
    pub(crate) down: Option<Down>,
    pub(crate) seen: Seen,
    pub(crate) callers: Vec<Caller>,
    processes_ever: u64,
    pub(crate) checks: Checks,
    pub(crate) faults: bool,
    pub(crate) steps: u64,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// What happened last, for whoever has to find out why a promise was broken.
    lines: VecDeque<String>,
}

impl Setup {
    pub(crate) fn any(seed: u64) -> Self {
        let policies = match seed % 4 {
            0 => Policies::All(Policy::Park),
            1 => Policies::All(Policy::Verify),
            2 => Policies::All(Policy::Retry),
            _ => Policies::Mixed,
        };
        Self {
            seed,
            policies,
            moves_only: false,
            gives_up: seed % 8 < 4,
            pace: outage::pace(seed, None),
            outage_only: None,
            mutation: None,
            looks_for: None,
        }
    }
}

impl Mutation {
    /// Whether it is about how fast the API is called.
    pub(crate) fn is_of_the_pace(self) -> bool {
        match self {
            Self::NeverProbes | Self::NoBreaker | Self::CountsRejections => true,
            Self::NoBeginnings
            | Self::NotAwaited
            | Self::UnknownCarriesOn
            | Self::ParkedNotAcknowledged
            | Self::RevokedCommits
            | Self::NoDeadline
            | Self::LooksUpAtOnce
            | Self::NoFinals
            | Self::CopyAlone
            | Self::NoteAlone
            | Self::CommitMeanwhile
            | Self::UnknownDeferralCarriesOn
            | Self::UnstableNotes
            | Self::DoubtForgotten => false,
        }
    }
}

impl Setup {
    fn calls_per_partition(&self) -> i64 {
        if self.outage_only.is_some() { 200 } else { 7 }
    }

    fn steps_max(&self) -> u64 {
        if self.outage_only.is_some() {
            400_000
        } else {
            12_000
        }
    }
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(setup.seed);
        let (mut log, mut log_end) = (BTreeMap::new(), BTreeMap::new());
        for partition in (0..PARTITIONS).map(Partition) {
            let mut offset = 0;
            for _ in 0..setup.calls_per_partition() {
                // A transaction's marker now and then, and aborted records.
                while random.random_ratio(1, 4) {
                    offset += 1;
                }
                let keys = KEYS.max(setup.calls_per_partition() / 2);
                let key = format!("{partition}-{}", random.random_range(0..keys));
                let policy = match setup.policies {
                    Policies::All(policy) => policy,
                    Policies::Mixed => Policy::ALL[random.random_range(0..3)],
                };
                let key = IdempotencyKey::new(&key).expect("a key");
                let origin = (partition, Offset(offset));
                let record = Pending {
                    key,
                    policy,
                    origin,
                    continued: None,
                    transaction: None,
                };
                log.insert(origin, record);
                offset += 1;
            }
            log_end.insert(partition, Offset(offset + 1));
        }
        let now = Instant::now();
        let mut world = Self {
            setup,
            random,
            now,
            began: now,
            log,
            log_end,
            group: Group::default(),
            transactions: Vec::new(),
            deferrals_ever: 0,
            api: Api::default(),
            down: None,
            seen: Seen::default(),
            callers: Vec::new(),
            processes_ever: 0,
            checks: Checks {
                looks_for: setup.looks_for,
                ..Checks::default()
            },
            faults: true,
            steps: 0,
            counts: BTreeMap::new(),
            lines: VecDeque::new(),
        };
        world.start_caller();
        world.start_caller();
        world
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Processes are killed, stand still, and hear nothing.
    pub(crate) fn has_hard_faults(&self) -> bool {
        self.faults && !self.setup.moves_only
    }

    pub(crate) fn origin(&self, place: Place) -> Place {
        self.log[&place].origin
    }

    pub(crate) fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..PARTITIONS).map(Partition)
    }

    pub(crate) fn caller(&mut self, process: u64) -> Option<&mut Caller> {
        self.callers.iter_mut().find(|caller| caller.process == process)
    }

    pub(crate) fn start_caller(&mut self) {
        self.processes_ever += 1;
        let process = self.processes_ever;
        let member = self.group.join(process, self.now);
        self.callers.push(Caller::new(process, member, &self.setup));
    }

    /// Only the replay of one seed pays for its story.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if std::env::var_os("DELIVERY_SEED").is_some() {
            let ms = self.now.duration_since(self.began).as_millis();
            self.lines.push_back(format!("{ms:>6} {}", line()));
            if self.lines.len() > 200 {
                self.lines.pop_front();
            }
        }
    }

    pub(crate) fn story(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn is_over(&self) -> bool {
        let is_final = |(partition, offset): &Place| {
            self.group
                .committed
                .get(partition)
                .is_some_and(|(committed, _)| committed > offset)
        };
        let mut visible = self.log.iter().filter(|(_, record)| self.is_visible(record));
        visible.all(|(place, _)| is_final(place)) && self.api.is_at_rest() && !self.has_pending_transactions()
    }

    /// Lets everything happen, until each call is final.
    ///
    /// # Errors
    /// A promise was broken.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        let mut idle = 0;
        while !self.is_over() {
            self.steps += 1;
            self.faults = self.steps < FAULTY_STEPS && self.setup.outage_only.is_none();
            if self.steps > self.setup.steps_max() {
                let open: Vec<String> = self.callers.iter().flat_map(|caller| caller.open()).collect();
                let seen = format!(
                    "{:?}, committed {:?}, open {open:?}",
                    self.counts, self.group.committed
                );
                self.checks.broken(Broken::Stuck, || seen);
                break;
            }
            self.now += Duration::from_micros(self.random.random_range(0..8_000));
            self.api_turn();
            self.group_turn();
            self.late_commits_turn();
            self.transactions_turn();
            if self.faults {
                self.fault();
            }
            if let Some(outage) = self.setup.outage_only
                && self.down.is_none()
                && self.now.duration_since(self.began) > Duration::from_millis(300)
            {
                self.go_down(outage);
            }
            let at = self.random.random_range(0..self.callers.len());
            idle = if self.caller_turn(at) { 0 } else { idle + 1 };
            if idle > 8 {
                self.skip_idle_time();
                idle = 0;
            }
            if let Some(violation) = self.checks.first.take() {
                return Err(violation);
            }
        }
        let orders = self.log.iter().filter(|(place, record)| **place == record.origin);
        let places: Vec<(Place, Policy)> = orders.map(|(place, p)| (*place, p.policy)).collect();
        for (place, policy) in places {
            let processed = self.api.processed.get(&place).copied().unwrap_or_default();
            self.checks.finish(place, policy, processed);
        }
        self.checks.first.take().map_or(Ok(()), Err)
    }

    fn skip_idle_time(&mut self) {
        let waits = self.callers.iter().filter_map(|caller| caller.next(self.now));
        let expiry = self
            .group
            .members
            .values()
            .map(|m| m.heard_of_at + crate::delivery::group::SESSION);
        let next = waits.chain(expiry).chain(self.api.next()).min();
        self.now = next.map_or(self.now, |next| next.max(self.now));
    }

    fn api_turn(&mut self) {
        for (place, times) in self.api.turn(self.now) {
            self.note(|| format!("the API processes {place:?}, {times}"));
            if times > 1 && self.log[&place].policy != Policy::Retry {
                self.checks
                    .broken(Broken::ProcessedTwice, || format!("{place:?}, {times} times"));
            }
        }
    }

    fn fault(&mut self) {
        let at = self.random.random_range(0..self.callers.len());
        let process = self.callers[at].process;
        match self.random.random_range(0..400) {
            0..3 if !self.setup.moves_only => self.kill(at),
            3..7 if !self.setup.moves_only => {
                self.count("pauses");
                let pause = Duration::from_millis(self.random.random_range(0..2_500));
                self.note(|| format!("{process} stands still for {pause:?}"));
                self.callers[at].asleep_until = Some(self.now + pause);
                self.checks.interruptions.push((process, self.now));
            }
            7 if !self.setup.moves_only => {
                self.checks.interruptions.push((process, self.now));
                self.tell(at, Event::ClientLost);
            }
            8..14 => self.rebalance(),
            16..19 if self.setup.pace.is_some() && !self.is_down() => {
                let time = Duration::from_millis(self.random.random_range(0..1_500));
                self.go_down(time);
            }
            14..16 if !self.callers[at].stopping => {
                self.count("stops");
                self.note(|| format!("{process} is asked to end"));
                self.callers[at].stopping = true;
                self.tell(at, Event::Stop);
            }
            _ => {}
        }
    }

    /// kill -9: what is on the wire goes on, the group learns of it by silence alone.
    fn kill(&mut self, at: usize) {
        self.count("kills");
        let caller = self.callers.remove(at);
        let process = caller.process;
        self.note(|| format!("{process} is killed"));
        self.checks.interruptions.push((process, self.now));
        self.group.late.extend(caller.commit.clone());
        for (place, ending) in caller.publications() {
            if self.random.random_ratio(1, 2) {
                self.write_end(place, &ending);
            }
        }
        self.start_caller();
    }
}
