//! Simulation of one seed: its clock, log and faults, and a scheduler that draws each next step.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use pipeline::delivery::{Ambiguity, Event, FlowControlSettings, Policy};
use pipeline::ledger::Terminal;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use records::{IdempotencyKey, Offset, Partition};

use crate::delivery::api::Api;
use crate::delivery::caller::Caller;
use crate::delivery::checks::{CallPosition, Checks, Violation, ViolationKind};
use crate::delivery::group::Group;
use crate::delivery::outage::{self, ApiOutage, OutageKind, OutageStats};
use crate::delivery::transactions::Transaction;

const PARTITIONS: i32 = 2;
const KEYS: i64 = 5;
/// Number of steps with faults.
const FAULTY_STEPS: u64 = 500;

/// Parameters of a simulation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) policies: Policies,
    /// No process is killed or paused, and every commit has a response.
    pub(crate) moves_only: bool,
    /// The API never accepts some orders, and their calls are abandoned.
    pub(crate) abandons: bool,
    pub(crate) flow_control: Option<FlowControlSettings>,
    /// The only fault is one outage of the API, of this length.
    pub(crate) outage_only: Option<Duration>,
    /// Kind of that outage.
    pub(crate) outage_kind: OutageKind,
    pub(crate) mutation: Option<Mutation>,
    /// Only kind of violation that is reported.
    pub(crate) only_kind: Option<ViolationKind>,
}

/// Policies of the calls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Policies {
    All(Policy),
    Mixed,
}

/// Rule of the protocol that is removed, with its rows in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// No intents are recorded (B1, V5).
    NoIntents,
    /// A request is sent before its intent is committed (B10).
    IntentNotAwaited,
    /// A member continues after a commit with unknown result (B9).
    UnknownCommitIgnored,
    /// A commit that was repeated counts as acknowledged although an earlier request is in flight (B9).
    RepeatedCommitTrusted,
    /// An outcome counts as acknowledged when it is handed to the producer (B11).
    OutcomeNotAcknowledged,
    /// A commit for a revoked partition is sent under the next generation (B14).
    CommitAfterRevocation,
    /// No request is withheld after the ownership lease (D2, V2).
    NoOwnershipLease,
    /// A look-up does not wait for the API's maximum processing time (V1).
    NoQuiescence,
    /// A look-up does not wait for requests on their way.
    NoTransportTimeout,
    /// A look-up that hangs counts as inconclusive only.
    HangIgnored,
    /// Only the offset is committed, without the completions after it (A4).
    NoCompletions,
    /// A deferral writes its copy before its note, without a transaction.
    CopyBeforeNote,
    /// A deferral commits its note before its copy, without a transaction.
    NoteBeforeCopy,
    /// A commit is in flight during a deferral.
    CommitDuringDeferral,
    /// A member continues after a deferral with unknown result.
    UnknownDeferralIgnored,
    /// Notes are read while a transaction is pending on them.
    UnstableNotesRead,
    /// A copy loses the ambiguity of its call.
    AmbiguityForgotten,
    /// A copy loses the number of ambiguous responses to its call.
    AmbiguousAttemptsForgotten,
    /// A dead letter tells of the requests of its own caller only.
    OwnRequestsOnly,
    /// There is no limit on ambiguous responses.
    NoAmbiguousLimit,
    /// The circuit breaker never probes.
    NoProbes,
    /// There is no circuit breaker.
    NoCircuitBreaker,
    /// There is no limit on the share of rejections.
    NoRejectionBreaker,
    /// Rejected orders count as failures of the API.
    RejectionsAreFailures,
    /// A partition without a committed offset starts at the beginning of a filled outbox.
    LostOffsetsIgnored,
    /// A recovered group has no intents.
    RecoveryWithoutIntents,
    /// Parked records do not count when a group is recovered.
    RecoveryWithoutParked,
    /// Outcomes do not count when a group is recovered.
    RecoveryWithoutOutcomes,
    /// Copies do not end the records before them when a group is recovered.
    RecoveryWithoutCopies,
    /// Copies for another group count as this group's when it is recovered.
    RecoveryWithOtherCopies,
    /// Copies for another group are called.
    OtherCopiesCalled,
    /// The end of the log counts as reached although records before it are still to come.
    EndOfLogCounts,
}

/// Record of the outbox.
#[derive(Clone)]
pub(crate) struct OutboxRecord {
    pub(crate) key: IdempotencyKey,
    pub(crate) policy: Policy,
    /// Position of the first record of its order.
    pub(crate) origin: CallPosition,
    /// `true` for a copy that another group has appended for its own callers.
    pub(crate) is_of_other_group: bool,
    /// Deferral context of a copy.
    pub(crate) deferral_context: Option<DeferredState>,
    /// Transaction of the record; `None` if it is visible from the start.
    pub(crate) transaction: Option<u64>,
}

/// Deferral context of a copy.
#[derive(Clone, Copy)]
pub(crate) struct DeferredState {
    pub(crate) attempts: u32,
    pub(crate) attempts_ambiguous: u32,
    pub(crate) lookups: u32,
    pub(crate) ambiguity: Option<Ambiguity>,
    pub(crate) first_seen_at: Instant,
}

pub(crate) struct Simulation {
    pub(crate) setup: Setup,
    pub(crate) random: ChaCha8Rng,
    pub(crate) now: Instant,
    began: Instant,
    pub(crate) log: BTreeMap<CallPosition, OutboxRecord>,
    pub(crate) log_end: BTreeMap<Partition, Offset>,
    /// Outcomes, dead letters and parked records, with the records that they name.
    pub(crate) terminals: Vec<(CallPosition, Terminal)>,
    pub(crate) group: Group,
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) deferrals_started: u64,
    pub(crate) api: Api,
    pub(crate) down: Option<ApiOutage>,
    pub(crate) outage_stats: OutageStats,
    pub(crate) callers: Vec<Caller>,
    processes_started: u64,
    pub(crate) checks: Checks,
    pub(crate) faults: bool,
    pub(crate) steps: u64,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Recent trace lines, for the message of a violation.
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
            abandons: seed % 8 < 4,
            flow_control: outage::flow_control(seed, None),
            outage_only: None,
            outage_kind: OutageKind::Fails,
            mutation: None,
            only_kind: None,
        }
    }
}

impl Mutation {
    /// Returns `true` if the mutation shows itself in commits with an unknown result.
    pub(crate) fn is_about_unknown_commits(self) -> bool {
        matches!(self, Self::UnknownCommitIgnored | Self::RepeatedCommitTrusted)
    }

    /// Returns `true` if the mutation concerns flow control.
    pub(crate) fn is_about_flow_control(self) -> bool {
        match self {
            Self::NoProbes
            | Self::NoCircuitBreaker
            | Self::NoRejectionBreaker
            | Self::RejectionsAreFailures => true,
            Self::NoIntents
            | Self::IntentNotAwaited
            | Self::UnknownCommitIgnored
            | Self::RepeatedCommitTrusted
            | Self::OutcomeNotAcknowledged
            | Self::CommitAfterRevocation
            | Self::NoOwnershipLease
            | Self::NoQuiescence
            | Self::NoTransportTimeout
            | Self::HangIgnored
            | Self::NoCompletions
            | Self::CopyBeforeNote
            | Self::NoteBeforeCopy
            | Self::CommitDuringDeferral
            | Self::UnknownDeferralIgnored
            | Self::UnstableNotesRead
            | Self::AmbiguityForgotten
            | Self::LostOffsetsIgnored
            | Self::RecoveryWithoutIntents
            | Self::RecoveryWithoutParked
            | Self::RecoveryWithoutOutcomes
            | Self::RecoveryWithoutCopies
            | Self::RecoveryWithOtherCopies
            | Self::OtherCopiesCalled
            | Self::EndOfLogCounts
            | Self::AmbiguousAttemptsForgotten
            | Self::OwnRequestsOnly
            | Self::NoAmbiguousLimit => false,
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

impl Simulation {
    pub(crate) fn new(setup: Setup) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(setup.seed);
        let (mut log, mut log_end) = (BTreeMap::new(), BTreeMap::new());
        for partition in (0..PARTITIONS).map(Partition) {
            let mut offset = 0;
            for _ in 0..setup.calls_per_partition() {
                // Sometimes a transaction marker, or aborted records.
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
                let record = OutboxRecord {
                    key,
                    policy,
                    origin,
                    is_of_other_group: false,
                    deferral_context: None,
                    transaction: None,
                };
                log.insert(origin, record);
                offset += 1;
            }
            log_end.insert(partition, Offset(offset + 1));
        }
        let now = Instant::now();
        let mut simulation = Self {
            setup,
            random,
            now,
            began: now,
            log,
            log_end,
            terminals: Vec::new(),
            group: Group::default(),
            transactions: Vec::new(),
            deferrals_started: 0,
            api: Api::default(),
            down: None,
            outage_stats: OutageStats::default(),
            callers: Vec::new(),
            processes_started: 0,
            checks: Checks {
                only_kind: setup.only_kind,
                ..Checks::default()
            },
            faults: true,
            steps: 0,
            counts: BTreeMap::new(),
            lines: VecDeque::new(),
        };
        simulation.begin_group();
        simulation.start_caller();
        simulation.start_caller();
        simulation
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Returns `true` while processes may be killed or paused, and responses lost.
    pub(crate) fn has_hard_faults(&self) -> bool {
        self.faults && !self.setup.moves_only
    }

    pub(crate) fn origin(&self, position: CallPosition) -> CallPosition {
        self.log[&position].origin
    }

    pub(crate) fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..PARTITIONS).map(Partition)
    }

    pub(crate) fn caller(&mut self, process: u64) -> Option<&mut Caller> {
        self.callers.iter_mut().find(|caller| caller.process == process)
    }

    pub(crate) fn start_caller(&mut self) {
        self.processes_started += 1;
        let process = self.processes_started;
        let member = self.group.join(process, self.now);
        self.callers.push(Caller::new(process, member, &self.setup));
    }

    /// Adds a trace line, only in the replay of one seed.
    pub(crate) fn trace(&mut self, line: impl FnOnce() -> String) {
        if std::env::var_os("DELIVERY_SEED").is_some() {
            let ms = self.now.duration_since(self.began).as_millis();
            self.lines.push_back(format!("{ms:>6} {}", line()));
            if self.lines.len() > 200 {
                self.lines.pop_front();
            }
        }
    }

    pub(crate) fn recent_trace(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn is_over(&self) -> bool {
        let is_final = |(partition, offset): &CallPosition| {
            self.group
                .committed
                .get(partition)
                .is_some_and(|(committed, _)| committed > offset)
        };
        let mut visible = self.log.iter().filter(|(_, record)| self.is_visible(record));
        visible.all(|(position, _)| is_final(position))
            && self.api.is_idle()
            && !self.has_pending_transactions()
    }

    /// Runs until each call is final.
    ///
    /// # Errors
    /// Returns the first violation.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        let mut idle = 0;
        while !self.is_over() {
            self.steps += 1;
            self.faults = self.steps < FAULTY_STEPS && self.setup.outage_only.is_none();
            if self.steps > self.setup.steps_max() {
                let open: Vec<String> = self.callers.iter().flat_map(|caller| caller.open()).collect();
                let details = format!(
                    "{:?}, committed {:?}, open {open:?}",
                    self.counts, self.group.committed
                );
                self.checks.violation(ViolationKind::NotDrained, || details);
                break;
            }
            self.now += Duration::from_micros(self.random.random_range(0..8_000));
            self.api_turn();
            self.group_turn();
            self.late_commits_turn();
            self.transactions_turn();
            self.operator_turn();
            self.other_group_turn();
            if self.faults {
                self.fault();
            }
            if let Some(outage) = self.setup.outage_only
                && self.down.is_none()
                && self.now.duration_since(self.began) > Duration::from_millis(300)
            {
                self.start_outage(self.setup.outage_kind, outage);
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
        let orders = self
            .log
            .iter()
            .filter(|(position, record)| **position == record.origin);
        let positions: Vec<(CallPosition, Policy)> =
            orders.map(|(position, p)| (*position, p.policy)).collect();
        for (position, policy) in positions {
            let processed = self.api.processed.get(&position).copied().unwrap_or_default();
            self.checks.finish(position, policy, processed);
        }
        self.checks.first.take().map_or(Ok(()), Err)
    }

    fn skip_idle_time(&mut self) {
        let waits = self.callers.iter().filter_map(|caller| caller.next(self.now));
        let expiry = self
            .group
            .members
            .values()
            .map(|m| m.last_heartbeat + crate::delivery::group::SESSION);
        let next = waits.chain(expiry).chain(self.api.next()).min();
        self.now = next.map_or(self.now, |next| next.max(self.now));
    }

    fn api_turn(&mut self) {
        for (position, times) in self.api.turn(self.now) {
            self.trace(|| format!("the API processes {position:?}, {times}"));
            if times > 1 && self.log[&position].policy != Policy::Retry {
                self.checks.violation(ViolationKind::ProcessedTwice, || {
                    format!("{position:?}, {times} times")
                });
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
                self.trace(|| format!("{process} is paused for {pause:?}"));
                self.callers[at].asleep_until = Some(self.now + pause);
                self.checks.interruptions.push((process, self.now));
            }
            7 if !self.setup.moves_only => {
                self.checks.interruptions.push((process, self.now));
                self.handle(at, Event::ClientLost);
            }
            8..14 => self.rebalance(),
            16..19 if self.setup.flow_control.is_some() && !self.is_api_down() => {
                let time = Duration::from_millis(self.random.random_range(0..1_500));
                let kind = self.draw_outage_kind();
                self.start_outage(kind, time);
            }
            // In some seeds only: a recovered group has all open calls as ambiguous, and then little else happens.
            19 if !self.setup.moves_only && (self.setup.seed / 8).is_multiple_of(4) => self.lose_group(),
            14..16 if !self.callers[at].stopping => {
                self.count("stops");
                self.trace(|| format!("{process} is stopped"));
                self.callers[at].stopping = true;
                self.handle(at, Event::Stop);
            }
            _ => {}
        }
    }

    /// Kills a process. Its requests stay on the network, and the group detects it by the session timeout
    /// only.
    pub(crate) fn kill(&mut self, at: usize) {
        self.count("kills");
        let caller = self.callers.remove(at);
        let process = caller.process;
        self.trace(|| format!("{process} is killed"));
        self.checks.interruptions.push((process, self.now));
        self.group.late.extend(caller.commit.clone());
        for (position, state) in caller.publications() {
            if self.random.random_ratio(1, 2) {
                self.write_outcome(position, &state);
            }
        }
        self.start_caller();
    }
}
