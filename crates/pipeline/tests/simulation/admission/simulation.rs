//! Simulation of one seed: brokers, group, hosts and processes, and a scheduler that draws each next step.
//!
//! Faults happen for some hundred steps. Then they stop, and all orders must be processed.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use pipeline::ShareLimit;
use pipeline::admission::RefusalSettings;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use records::{Entry, KeyHash, Offset, Partition};

use crate::admission::broker::{Broker, TransactionalId};
use crate::admission::checker::{Checker, Guarantee, Violation, violation};
use crate::admission::disk::Disk;
use crate::admission::group::{Group, ProcessId};
use crate::admission::mutations::Mutation;
use crate::admission::orders::Orders;
use crate::admission::process::Process;
use crate::admission::producer::{Message, OffsetsError, Producer, ProducerId, Request, Response};

pub(crate) struct Simulation {
    env: Env,
    processes: Vec<Process>,
    /// Hosts of each instance. A process may be replaced by one on another host, and later return to a disk
    /// with an old state.
    hosts: Vec<Vec<usize>>,
    weights: Weights,
    faulty_steps: u64,
    sleep_steps_max: u64,
}

/// State that all processes share.
pub(crate) struct Env {
    pub(crate) random: ChaCha8Rng,
    pub(crate) now: Instant,
    pub(crate) refusals: RefusalSettings,
    pub(crate) steps: u64,
    pub(crate) mutation: Option<Mutation>,
    /// Keys that are older than the retention are forgotten.
    pub(crate) forgets: bool,
    /// Deletions from the changelog that did not happen yet.
    pub(crate) cuts: Vec<(Partition, Offset)>,
    pub(crate) faults: bool,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) orders: Rc<Orders>,
    pub(crate) broker: Broker,
    pub(crate) group: Group,
    pub(crate) disks: Vec<Disk>,
    pub(crate) network: Vec<Message>,
    pub(crate) producers: BTreeSet<ProducerId>,
    pub(crate) checker: Checker,
    /// Entries that each process ever sent, for the mutation that keeps them.
    pub(crate) ever_sent: BTreeMap<(ProcessId, Partition, KeyHash), Entry>,
    responses: Vec<(ProducerId, Response)>,
    producers_opened: ProducerId,
    processes_started: ProcessId,
    instances: usize,
    /// A process persists a store in one of this many idle turns.
    pub(crate) persist_every: u32,
    /// A process times out in one of this many turns in which it waits for a response.
    timeout_every: u32,
    is_traced: bool,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// Weights of the kinds of step. They differ from seed to seed: in some, markers are written long after the
/// decision, in others requests stay on the network, and so on.
struct Weights {
    process: u32,
    restore: u32,
    network: u32,
    marker: u32,
    group: u32,
    disturb_group: u32,
    arrival: u32,
    fault: u32,
}

const WITHOUT_FAULTS: Weights = Weights {
    process: 600,
    restore: 200,
    network: 200,
    marker: 150,
    group: 100,
    disturb_group: 0,
    arrival: 0,
    fault: 0,
};

/// Maximum number of steps after the faults have stopped.
const DRAIN_STEPS_MAX: u64 = 30_000;

impl Simulation {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>, checks_state: bool, is_traced: bool) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let count = random.random_range(1..3);
        let instances = random.random_range(2..4);
        let is_static = random.random_ratio(1, 2);
        let partitions: Vec<Partition> = (0..).take(count).map(Partition).collect();
        let mut one_of = |rates: [u32; 3]| rates[random.random_range(0..3)];
        let weights = Weights {
            process: 600,
            restore: 200,
            network: one_of([30, 150, 500]),
            marker: one_of([15, 80, 300]),
            group: one_of([20, 80, 200]),
            arrival: 20,
            disturb_group: one_of([1, 4, 15]),
            fault: one_of([2, 8, 25]),
        };
        let sleep_steps_max = u64::from(one_of([40, 150, 600]));
        let persist_every = one_of([4, 12, 100]);
        let timeout_every = one_of([20, 60, 300]);
        let faulty_steps = random.random_range(300..2_000);
        let mut broker = Broker::new(partitions.iter().copied());
        broker.verifies_transactions = mutation != Some(Mutation::NoVerification);
        let mut group = Group::new(is_static, partitions.clone());
        group.checks_members = mutation != Some(Mutation::GenerationOnly);
        let mut orders = Orders::draw(&mut random, count);
        let forgets = mutation.map_or(seed.is_multiple_of(3), Mutation::is_of_retention);
        if forgets {
            // Of a source of its own: in the other seeds nothing changes.
            orders.give_times(&mut ChaCha8Rng::seed_from_u64(!seed));
        }
        let env = Env {
            orders: Rc::new(orders),
            random,
            now: Instant::now(),
            // Small, because a seed has few records.
            refusals: match (mutation, seed % 2) {
                (None, 1) => RefusalSettings {
                    limit: ShareLimit {
                        threshold: 2,
                        window: 4,
                    },
                    pause: Duration::from_millis(100),
                },
                _ => RefusalSettings::OFF,
            },
            steps: 0,
            mutation,
            forgets,
            cuts: Vec::new(),
            faults: true,
            partitions,
            broker,
            group,
            disks: Vec::new(),
            network: Vec::new(),
            producers: BTreeSet::new(),
            checker: Checker::new(count, checks_state),
            ever_sent: BTreeMap::new(),
            responses: Vec::new(),
            producers_opened: 0,
            processes_started: 0,
            instances,
            persist_every,
            timeout_every,
            is_traced,
            counts: BTreeMap::new(),
        };
        let mut simulation = Self {
            env,
            processes: Vec::new(),
            hosts: vec![Vec::new(); instances],
            weights,
            faulty_steps,
            sleep_steps_max,
        };
        for instance in 0..instances {
            simulation.start_process(instance);
        }
        simulation
    }

    /// Runs the seed to its end.
    pub(crate) fn run(mut self) -> Result<BTreeMap<&'static str, u64>, Violation> {
        while self.env.faults || !self.is_finished() {
            self.env.steps += 1;
            self.env.now += Duration::from_millis(self.env.random.random_range(0..8));
            if self.env.faults && self.env.steps > self.faulty_steps {
                self.env.faults = false;
                self.env.trace(|| "the faults stop".into());
                self.weights = WITHOUT_FAULTS;
                Rc::make_mut(&mut self.env.orders).arrive_all();
            }
            if self.env.steps > self.faulty_steps + DRAIN_STEPS_MAX {
                return violation(Guarantee::Drain, self.progress());
            }
            self.step()?;
        }
        self.env.checker.check_final(&self.env.broker, &self.env.orders)?;
        *self.env.counts.entry("steps").or_default() += self.env.steps;
        Ok(self.env.counts)
    }

    fn step(&mut self) -> Result<(), Violation> {
        if self.env.steps.is_multiple_of(7) && !self.env.cuts.is_empty() {
            let (partition, below) = self.env.cuts.remove(0);
            self.env.count("changelogs cut");
            self.env
                .trace(|| format!("the changelog of {partition} is cut below {below}"));
            self.env.broker.delete_records(partition, below);
        }
        let Weights {
            process,
            restore,
            network,
            marker,
            group,
            disturb_group,
            arrival,
            fault,
        } = self.weights;
        let kinds = [
            process,
            restore,
            network,
            marker,
            group,
            disturb_group,
            arrival,
            fault,
        ];
        let mut drawn = self.env.random.random_range(0..kinds.iter().sum());
        let mut kind = 0;
        while drawn >= kinds[kind] {
            drawn -= kinds[kind];
            kind += 1;
        }
        match kind {
            1 => {
                if let Some(at) = self.draw_awake(Process::is_restoring) {
                    self.processes[at].step_restore(&mut self.env);
                }
            }
            2 if !self.env.network.is_empty() => self.env.deliver()?,
            3 if self.env.broker.markers() > 0 => {
                let number = self.env.draw(self.env.broker.markers());
                let written = self.env.broker.write_marker(number);
                self.env.trace(|| format!("marker written: {written:?}"));
            }
            4 => self.group_turn(),
            5 if self.env.faults => self.disturb_group(),
            6 if self.env.faults => {
                let Env { orders, random, .. } = &mut self.env;
                Rc::make_mut(orders).arrive(random);
            }
            7 if self.env.faults => self.fault(),
            _ => {
                if let Some(at) = self.draw_awake(|_| true) {
                    self.processes[at].step(&mut self.env)?;
                    if self.processes[at].left {
                        let process = self.processes.swap_remove(at);
                        process.end(&mut self.env);
                    }
                }
                self.env.time_out_transactions(400);
            }
        }
        if !self.env.faults || self.env.chance(1, 40) {
            self.start_missing();
        }
        Ok(())
    }

    fn draw_awake(&mut self, is_wanted: impl Fn(&Process) -> bool) -> Option<usize> {
        let count = self.processes.len();
        let first = self.env.draw(count.max(1));
        (first..count)
            .chain(0..first.min(count))
            .find(|at| self.is_awake(*at) && is_wanted(&self.processes[*at]))
    }

    /// Runs the group: members detect their eviction, and a rebalance that a member waits for happens.
    fn group_turn(&mut self) {
        for at in 0..self.processes.len() {
            if self.is_awake(at) && self.env.chance(1, 2) {
                let Env { group, random, .. } = &mut self.env;
                group.detect_eviction(self.processes[at].id, random);
            }
        }
        if self.env.group.wants_rebalance() {
            self.rebalance(false);
        }
        // A static member whose process is dead is removed after its session timeout.
        if self.processes.iter().any(Process::awaits_instance_id) && self.env.chance(1, 20) {
            self.env.group.remove_dead();
        }
    }

    /// Disturbs the group: a member is evicted, or partitions move.
    fn disturb_group(&mut self) {
        if self.env.chance(1, 2) {
            self.rebalance(true);
            return;
        }
        let Env { group, random, .. } = &mut self.env;
        if let Some(process) = group.evict(random) {
            self.env.count("members evicted");
            self.env
                .trace(|| format!("the member of process {process} is evicted"));
        }
    }

    fn rebalance(&mut self, moves: bool) {
        let awake: Vec<ProcessId> = (0..self.processes.len())
            .filter(|at| self.is_awake(*at))
            .map(|at| self.processes[at].id)
            .collect();
        let Env {
            group,
            random,
            faults,
            ..
        } = &mut self.env;
        // A member that is dead or does not respond holds up the rebalance until its session timeout.
        let unresponsive_members = group.unresponsive_members(|process| awake.contains(&process));
        if !unresponsive_members.is_empty() {
            let odds = if *faults { 8 } else { 20 };
            if !random.random_ratio(1, odds) {
                return;
            }
            if *faults {
                group.evict_all(&unresponsive_members);
            } else {
                group.remove_dead();
                return;
            }
        }
        group.rebalance(random, moves);
        self.env.count("rebalances");
        self.env.trace(|| "the group rebalances".into());
    }

    fn is_awake(&self, at: usize) -> bool {
        !self.env.faults || self.processes[at].asleep_until <= self.env.steps
    }

    fn fault(&mut self) {
        let at = match self.processes.len() {
            0 => return,
            count => self.env.draw(count),
        };
        let process = &mut self.processes[at];
        let (id, host, instance) = (process.id, process.host, process.instance);
        match self.env.random.random_range(0..9) {
            0 | 1 => {
                self.env.count("kills");
                self.env.trace(|| format!("process {id} is killed"));
                self.processes.swap_remove(at).killed(&mut self.env);
            }
            2..5 => {
                self.env.count("pauses");
                process.asleep_until = self.env.steps + self.env.random.random_range(1..self.sleep_steps_max);
                self.env.trace(|| format!("process {id} sleeps"));
            }
            5 => {
                self.env.count("stops");
                process.stop_requested = true;
            }
            6 if self.env.chance(1, 2) => {
                // A host without a process loses its disk, or the files on it.
                let idle = self
                    .hosts
                    .iter()
                    .flatten()
                    .copied()
                    .find(|host| !self.processes.iter().any(|process| process.host == *host));
                if let Some(idle) = idle {
                    if self.env.chance(1, 2) {
                        self.env.count("disks lost");
                        self.env.disks[idle] = Disk::default();
                    } else {
                        self.env.count("stores corrupted");
                        let partitions = self.env.partitions.clone();
                        self.env.disks[idle].corrupt = partitions;
                    }
                }
            }
            7 => {
                // The same instance is started on another host.
                if self.env.group.is_static() && self.env.chance(1, 2) {
                    self.env.count("second processes");
                    self.env
                        .trace(|| format!("instance {instance} of process {id} on host {host} starts again"));
                    self.start_process(instance);
                }
            }
            _ => self.env.time_out_transactions(30),
        }
    }

    fn start_missing(&mut self) {
        for instance in 0..self.hosts.len() {
            let is_there = self.processes.iter().any(|process| process.instance == instance);
            if !is_there && self.env.chance(1, 4) {
                self.start_process(instance);
            }
        }
    }

    /// Starts a process on a free host of the instance, or on a new one.
    fn start_process(&mut self, instance: usize) {
        let is_free = |host: &usize| !self.processes.iter().any(|process| process.host == *host);
        let free: Vec<usize> = self.hosts[instance].iter().copied().filter(is_free).collect();
        let host = if free.is_empty() {
            self.env.disks.push(Disk::default());
            self.hosts[instance].push(self.env.disks.len() - 1);
            self.env.disks.len() - 1
        } else {
            free[self.env.draw(free.len())]
        };
        self.env.processes_started += 1;
        let id = self.env.processes_started;
        self.env
            .trace(|| format!("process {id} starts as instance {instance} on host {host}"));
        let process = Process::start(id, instance, host, &mut self.env);
        self.processes.push(process);
    }

    fn is_finished(&self) -> bool {
        let env = &self.env;
        env.broker.is_idle()
            && env.network.is_empty()
            && env.partitions.iter().all(|partition| {
                env.checker.position(*partition) == env.orders.end(*partition)
                    && self
                        .processes
                        .iter()
                        .any(|process| process.works_on(*partition, env))
            })
    }

    fn progress(&self) -> String {
        let env = &self.env;
        let partitions: Vec<String> = env
            .partitions
            .iter()
            .map(|partition| {
                format!(
                    "{partition} at {} of {}",
                    env.checker.position(*partition),
                    env.orders.end(*partition)
                )
            })
            .collect();
        format!(
            "orders are left: {}; the brokers are {}idle",
            partitions.join(", "),
            if env.broker.is_idle() { "" } else { "not " }
        )
    }
}

impl Env {
    /// Returns `true` in `of` out of `all` cases.
    pub(crate) fn chance(&mut self, of: u32, all: u32) -> bool {
        self.random.random_ratio(of, all)
    }

    /// Returns `true` if a process that waits times out.
    pub(crate) fn times_out(&mut self) -> bool {
        let every = if self.faults { self.timeout_every } else { 1_000 };
        self.chance(1, every)
    }

    pub(crate) fn draw(&mut self, below: usize) -> usize {
        self.random.random_range(0..below)
    }

    pub(crate) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if self.is_traced {
            println!("{:5} {}", self.steps, what());
        }
    }

    /// Returns the transactional id: one for each instance. The mutation that fences by generation only has
    /// one for each process, because a shared id would fence as well.
    pub(crate) fn transactional_id(&self, instance: usize, process: ProcessId) -> TransactionalId {
        if self.is(Mutation::GenerationOnly) {
            self.instances + process as usize
        } else {
            instance
        }
    }

    pub(crate) fn producer(&mut self, id: TransactionalId, epoch: u32) -> Producer {
        self.producers_opened += 1;
        self.producers.insert(self.producers_opened);
        Producer::new(self.producers_opened, id, epoch)
    }

    /// Takes the first response of a kind to a producer.
    pub(crate) fn response(
        &mut self,
        to: ProducerId,
        is_wanted: impl Fn(&Response) -> bool,
    ) -> Option<Response> {
        let at = self
            .responses
            .iter()
            .position(|(of, response)| *of == to && is_wanted(response))?;
        Some(self.responses.remove(at).1)
    }

    /// Drops the responses to a producer that is gone.
    pub(crate) fn forget(&mut self, producer: ProducerId) {
        self.responses.retain(|(to, _)| *to != producer);
    }

    /// Aborts transactions that are open for too long, as the coordinator does.
    fn time_out_transactions(&mut self, steps: u64) {
        let late: Vec<TransactionalId> = self.broker.open_longer_than(steps, self.steps).collect();
        for id in late {
            self.count("transactions timed out");
            self.trace(|| format!("the transaction of {id} times out"));
            self.broker.abort_and_fence(id);
        }
    }

    /// Delivers a request. Requests of one producer to one partition arrive in their order.
    fn deliver(&mut self) -> Result<(), Violation> {
        let drawn = self.draw(self.network.len());
        let same_way = |message: &Message| match (&message.request, &self.network[drawn].request) {
            (Request::Produce(partition, _), Request::Produce(other, _)) => {
                partition == other && message.from == self.network[drawn].from
            }
            _ => false,
        };
        let at = self.network.iter().position(same_way).unwrap_or(drawn);
        let Message {
            from,
            id,
            epoch,
            request,
        } = self.network.remove(at);
        let is_open = self.producers.contains(&from);
        if !is_open {
            self.count("requests of producers that are gone");
        }
        self.trace(|| format!("request of producer {from} ({id}, epoch {epoch}): {request:?}"));
        let response = match request {
            Request::Produce(partition, records) => {
                Response::Produced(partition, self.broker.produce(id, epoch, partition, records))
            }
            Request::Offsets(offsets, meta) => Response::Offsets(match self.group.check(meta) {
                Err(error) => Err(OffsetsError::Group(error)),
                Ok(()) => self
                    .broker
                    .add_offsets(id, epoch, &offsets)
                    .map_err(|_| OffsetsError::Transaction),
            }),
            Request::End { commit } => {
                if commit && self.broker.is_ongoing(id, epoch) {
                    self.checker.check_commit(&self.broker, &self.orders, id)?;
                }
                let ended = self.broker.end(id, epoch, commit);
                self.trace(|| format!("response to EndTxn: {ended:?}"));
                Response::EndTxn(ended.map(|_| ()))
            }
        };
        // A response may be lost. librdkafka then resends a produce request until its delivery timeout.
        let is_lost = self.faults && self.chance(1, 40);
        if is_open {
            match response {
                Response::Produced(partition, _) if is_lost => {
                    let timed_out = Err(crate::admission::broker::BrokerError::Fenced);
                    self.responses
                        .push((from, Response::Produced(partition, timed_out)));
                }
                _ if is_lost => {}
                response => self.responses.push((from, response)),
            }
        }
        self.trace(|| format!("response: {:?}", self.responses.last()));
        Ok(())
    }
}
